"""What a worker has answered to one request and nobody has taken yet."""

from collections.abc import AsyncIterator
from typing import Any

import trio

from protocol.worker.messages import Done, Failed, Progress, Text, ToolCall, Vectors

Answer = Progress | Text | ToolCall | Vectors | Done | Failed


class Answers:
    """A line of answers with one reader, who takes all that is there at once.

    It holds what the reader has not taken, so that a slow reader never keeps the model from others; the context window
    bounds it. Nothing here switches tasks while there is something to take: at many streams that is most of the cost.
    """

    def __init__(self) -> None:
        self._answers: list[Answer] = []
        self._closed = False
        self._reader: trio.lowlevel.Task | None = None

    def put(self, answer: Answer) -> None:
        """Add an answer, and wake the reader."""
        if not self._closed:
            self._answers.append(answer)
            self._wake()

    def close(self) -> None:
        """End the line: the reader gets what is there, and then nothing more."""
        self._closed = True
        self._wake()

    async def take(self) -> list[Answer]:
        """Return all that is there, waiting for the first; empty at the end."""
        if not self._answers and not self._closed:
            self._reader = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._abort)
        taken, self._answers = self._answers, []
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
