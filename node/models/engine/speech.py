"""From chosen tokens to messages: the text of the answers, on a thread of its own.

While MLX computes the next step, this thread makes text of the last one: pieces of characters become characters, stop
strings end answers, thinking and tool calls are cut out. All messages of one step go to the outbox together.
"""

import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any, Final

from node.models.engine.engine import Engine
from node.models.engine.forms import Called, Form, Said
from node.models.engine.outbox import Outbox
from node.models.engine.rows import Chosen, Likely, Row
from node.models.engine.text_stream import StopStrings
from protocol.worker import logprobs
from protocol.worker.messages import Done, Failed, FromWorker, Text, ToolCall

Send = Callable[[Sequence[FromWorker]], None]
_INTERNAL: Final = "internal"
# Weights of so many tokens are sent without their words, where those are held back: a message has its bounds.
MOST_WEIGHTS: Final = 1024
KNOWN_TOKENS: Final = 16_384


@dataclass(eq=False)
class Answer:
    """The words of one row; times are monotonic nanoseconds."""

    row: Row
    form: Form
    stops: StopStrings
    detokenizer: Any
    started_ns: int
    first_ns: int = 0
    ended: bool = False
    said: list[int] = field(default_factory=list)
    weights: list[str] = field(default_factory=list)


class Speech:
    """Speaks for the rows of one engine. `send` is called on its thread, each time with what is ready."""

    def __init__(self, engine: Engine, send: Send, now_ns: Callable[[], int]) -> None:
        self._engine = engine
        self._outbox = Outbox(send, now_ns)
        self._now_ns = now_ns
        # Every step weighs the same few tokens again: their words as JSON are made once.
        self._begun = lru_cache(KNOWN_TOKENS)(lambda token: logprobs.begin(engine.token_bytes(token)))
        self._answers: dict[Row, Answer] = {}
        self._jobs: queue.SimpleQueue[Callable[[], list[FromWorker]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="speech", daemon=True)
        self._thread.start()

    def begin(self, row: Row, form: Form, stops: Sequence[str], started_ns: int, *, goes_on: bool) -> None:
        """Speak for `row` from now on; with `goes_on` it continues a text as it stands."""
        detokenizer = self._engine.detokenizer(goes_on=goes_on)
        self._answers[row] = Answer(row, form, StopStrings(stops), detokenizer, started_ns)

    def tell(self, *messages: FromWorker) -> None:
        """Send messages behind all that is to be sent already."""
        self._jobs.put(lambda: list(messages))

    def say(self, tokens: Sequence[Chosen]) -> None:
        """Make text of what one step chose."""
        now_ns = self._now_ns()
        self._jobs.put(lambda: self._say(tokens, now_ns))

    def end(self, row: Row, reason: str) -> None:
        """End an answer after what was chosen for it so far, unless it ended before."""
        self._jobs.put(lambda: self._end(row, reason))

    def fail(self, row: Row, failure: Failed) -> None:
        """End an answer with a failure, unless it ended before."""
        self._jobs.put(lambda: self._fail(row, failure))

    def close(self) -> None:
        """Send what is to be sent, and end."""
        self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        goes_on = True
        while goes_on:
            try:
                jobs = [self._jobs.get(timeout=self._outbox.patience_s())]
            except queue.Empty:
                self._outbox.send_waiting()
                continue
            # What became ready meanwhile leaves together with it.
            while not self._jobs.empty():
                jobs.append(self._jobs.get())
            self._outbox.put([message for job in jobs if job is not None for message in job()])
            goes_on = None not in jobs
        self._outbox.send_waiting()

    def _say(self, tokens: Sequence[Chosen], now_ns: int) -> list[FromWorker]:
        messages: list[FromWorker] = []
        for chosen in tokens:
            answer = self._answers.get(chosen.row)
            if answer is None or answer.ended:
                continue
            answer.first_ns = answer.first_ns or now_ns
            messages += self._guarded(chosen.row, partial(self._take, answer, chosen))
        return messages

    def _guarded(self, row: Row, work: Callable[[], list[FromWorker]]) -> list[FromWorker]:
        try:
            return work()
        except Exception as error:  # noqa: BLE001 - tokenizers and their parsers raise anything; one answer fails
            return self._fail(row, Failed(row.number, _INTERNAL, type(error).__name__))

    def _take(self, answer: Answer, chosen: Chosen) -> list[FromWorker]:
        answer.said.append(chosen.token)
        if chosen.ending == "stop":
            return self._finish(answer, "stop")
        with self._engine.lock:
            answer.detokenizer.add_token(chosen.token)
            text = answer.detokenizer.last_segment
        if chosen.likely is not None:
            answer.weights.append(self._weighed(chosen.token, chosen.likely))
        messages = self._shown(answer, answer.form.feed(answer.stops.feed(text)))
        if len(answer.weights) >= MOST_WEIGHTS:
            messages += self._shown(answer, [Said("", False)])
        if answer.stops.stopped or answer.form.ended:
            return messages + self._finish(answer, "stop")
        if not chosen.ending:
            return messages
        return messages + self._finish(answer, "stop" if answer.form.whole else "length")

    def _end(self, row: Row, reason: str) -> list[FromWorker]:
        answer = self._answers.get(row)
        return self._guarded(row, partial(self._finish, answer, reason)) if answer is not None else []

    def _fail(self, row: Row, failure: Failed) -> list[FromWorker]:
        row.stopped = True
        return [failure] if self._answers.pop(row, None) is not None else []

    def _finish(self, answer: Answer, reason: str) -> list[FromWorker]:
        answer.ended = answer.row.stopped = True
        with self._engine.lock:
            answer.detokenizer.finalize()
            text = answer.detokenizer.last_segment
        pieces = answer.form.feed(answer.stops.feed(text) + answer.stops.finish()) + answer.form.finish()
        messages = self._shown(answer, pieces)
        if answer.weights:  # of tokens that show no text of their own
            messages += self._shown(answer, [Said("", False)])
        done = self._done(answer, reason)
        del self._answers[answer.row]  # only now: what failed before this is told as a failure
        return [*messages, done]

    def _shown(self, answer: Answer, pieces: Sequence[Said | Called]) -> list[FromWorker]:
        number, count = answer.row.number, len(answer.said)
        messages: list[FromWorker] = []
        for piece in pieces:
            if isinstance(piece, Called):
                messages.append(ToolCall(number, piece.name, piece.arguments_json))
            else:
                messages.append(Text(number, piece.text, piece.thinking, count, self._weights_json(answer)))
        return messages

    def _weights_json(self, answer: Answer) -> str:
        if not answer.weights:
            return ""
        weights, answer.weights = answer.weights, []
        return logprobs.joined(weights)

    def _weighed(self, token: int, likely: Likely) -> str:
        top = [(self._begun(each), weight) for each, weight in likely.tokens]
        return logprobs.chosen(self._begun(token), likely.chosen, top)

    def _done(self, answer: Answer, reason: str) -> Done:
        row, ended_ns = answer.row, self._now_ns()
        first_ns = answer.first_ns or ended_ns
        return Done(
            request=row.number,
            reason=reason,
            prompt_tokens=len(row.prompt),
            prompt_ns=first_ns - answer.started_ns,
            eval_tokens=len(answer.said),
            eval_ns=ended_ns - first_ns,
            context=tuple(row.prompt + answer.said),
            cached_tokens=row.cached,
            drafted_tokens=row.drafted,
            accepted_tokens=row.accepted,
            stopped_by=answer.stops.stopped_by,
        )
