"""What a worker has answered to one request and nobody has taken yet."""

from collections.abc import AsyncIterator
from typing import Any, Final

import trio

from protocol.worker.messages import Done, Failed, Progress, Text, ToolCall, Vectors

# What one request may have waiting: an answer with its log-probabilities is some hundred times its text.
MAX_HELD_BYTES: Final = 64 * 1024 * 1024
Answer = Progress | Text | ToolCall | Vectors | Done | Failed


class Answers:
    """A line of answers with one reader, who takes all that is there at once.

    It holds what the reader has not taken, so that a slow reader never keeps the model from others, up to
    `MAX_HELD_BYTES`. Nothing here switches tasks while there is something to take: at many streams that is most of the
    cost.
    """

    def __init__(self) -> None:
        self._answers: list[Answer] = []
        self._held_bytes = 0
        self._closed = False
        self._reader: trio.lowlevel.Task | None = None

    def put(self, answer: Answer) -> bool:
        """Add an answer, and wake the reader; return whether no more than one request may have is waiting for it."""
        if not self._closed:
            self._answers.append(answer)
            self._held_bytes += _bytes_of(answer)
            self._wake()
        return self._held_bytes <= MAX_HELD_BYTES

    def close(self) -> None:
        """End the line: the reader gets what is there, and then nothing more."""
        self._closed = True
        self._wake()

    async def take(self) -> list[Answer]:
        """Return all that is there, waiting for the first; empty at the end."""
        if not self._answers and not self._closed:
            self._reader = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._abort)
        taken, self._answers, self._held_bytes = self._answers, [], 0
        return taken

    async def __aiter__(self) -> AsyncIterator[Answer]:
        """Give the answers one after another."""
        while taken := await self.take():
            for answer in taken:
                yield answer

    def _wake(self) -> None:
        if self._reader is not None:
            reader, self._reader = self._reader, None
            trio.lowlevel.reschedule(reader)

    def _abort(self, _: Any) -> trio.lowlevel.Abort:
        self._reader = None
        return trio.lowlevel.Abort.SUCCEEDED


def _bytes_of(answer: Answer) -> int:
    """Return about what an answer takes in memory."""
    match answer:
        case Text():
            return 100 + len(answer.text) + len(answer.logprobs_json)
        case ToolCall():
            return 100 + len(answer.arguments_json)
        case Vectors():
            return 100 + len(answer.data)
    return 100
