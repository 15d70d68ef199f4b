"""A client for what a server of OpenAI's API streams: when each piece came, and how many tokens there were."""

import bisect
import json
import re
import selectors
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tests.bench.run import CannotMeasure

PATIENCE_S: Final = 600.0
RECEIVE_BYTES: Final = 1 << 20
LAST_CHUNK: Final = b"\r\n0\r\n\r\n"
_FIRST_WORDS: Final = re.compile(rb'"(content|reasoning)": ?"[^"]')
NO_END: Final = {"2": -100.0}
"""A bias that keeps the demo model, and those made after it, from ending an answer."""
Body = dict[str, Any]


@dataclass(frozen=True)
class Streamed:
    """One answer; seconds are those of one clock, `times_s` when each piece of text came, `lengths` its characters."""

    asked_s: float
    times_s: tuple[float, ...]
    lengths: tuple[int, ...]
    ended_s: float
    prompt_tokens: int
    tokens: int
    text: str

    @property
    def first_s(self) -> float:
        """Seconds from the question to the first piece."""
        return self.times_s[0] - self.asked_s

    @property
    def timed(self) -> "Timed":
        """What `token_s` measures."""
        return Timed(self.ended_s, self.tokens, tuple(zip(self.times_s, self.lengths, strict=True)))

    @property
    def rate(self) -> float:
        """Tokens per second after the first piece."""
        return (self.tokens - 1) / (self.ended_s - self.times_s[0])


def question(model: str, text: str, tokens: int, **more: Any) -> Body:
    """The body of one greedy question with at most so many tokens of answer."""
    return {
        "model": model,
        "messages": [{"role": "user", "content": text}],
        "max_tokens": tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
        **more,
    }


def ask(address: str, body: Body) -> Streamed:
    """Stream one answer from `POST /v1/chat/completions` of the server at `address` (host:port).

    Raises:
        CannotMeasure: another status than 200, or a stream without words or without its count.
    """
    return ask_at_once(address, [body])[0]


def ask_at_once(
    address: str, bodies: Sequence[Body], begun: Callable[[], None] = lambda: None, *, asleep: bool = False
) -> list[Streamed]:
    """Stream the answers to all `bodies` at the same time; `begun` is called at each first piece. Raises as `ask`.

    With `asleep` nothing is received from when all have begun until one ends, so that the client takes no core from
    the server meanwhile; the pieces in between have that end as their time.
    """
    # Connected one after the other: mlx_lm.server lets only five wait to be accepted.
    answers = [_Answer(address, body) for body in bodies]
    buffer = bytearray(RECEIVE_BYTES)
    with selectors.DefaultSelector() as selector:
        for answer in answers:
            answer.send()
            selector.register(answer.connection, selectors.EVENT_READ, answer)
        while running := [key.data for key in selector.get_map().values()]:
            if asleep and all(answer.has_begun for answer in running):
                asleep = False
                _sleep_until_one_ends(selector, running)
            ready = [key.data for key, _ in selector.select()]
            now_s = time.perf_counter()
            for answer in ready:
                if not answer.receive(buffer, now_s, begun):
                    selector.unregister(answer.connection)
                    answer.connection.close()
    return [answer.streamed() for answer in answers]


def _sleep_until_one_ends(selector: selectors.BaseSelector, answers: Sequence["_Answer"]) -> None:
    """Wait for the end of a connection; all that came until then is ready to be received afterwards."""
    for answer in answers:
        answer.ready_from(RECEIVE_BYTES)
    selector.select()
    for answer in answers:
        answer.ready_from(1)


class _Answer:
    """What comes on one connection, and when. It is read at the end: no side pays for that while it answers."""

    def __init__(self, address: str, body: Body) -> None:
        self._address = address
        host, _, port = address.rpartition(":")
        self.connection = socket.create_connection((host, int(port)), PATIENCE_S)
        content = json.dumps(body).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n"
        head += "Connection: close\r\n"  # its end can be waited for
        self._request = f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content
        self._data = bytearray()
        # After each piece that was received: how many bytes there were then, and the time.
        self._received: list[tuple[int, float]] = []
        self._asked_s = 0.0
        self.has_begun = False

    def send(self) -> None:
        """Ask."""
        self._asked_s = time.perf_counter()
        self.connection.sendall(self._request)

    def ready_from(self, count: int) -> None:
        """Be ready to receive only when there are so many bytes, or the end."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, count)

    def receive(self, buffer: bytearray, now_s: float, begun: Callable[[], None]) -> bool:
        """Take what is there, through `buffer`; return whether more may come."""
        count = self.connection.recv_into(buffer)
        self._data += memoryview(buffer)[:count]
        self._received.append((len(self._data), now_s))
        if not self.has_begun and _FIRST_WORDS.search(self._data):
            self.has_begun = True
            begun()
        return bool(count) and not self._data.endswith(LAST_CHUNK)

    def streamed(self) -> Streamed:
        """What it was. Raises as `ask`."""
        times_s, texts, usage = [], [], None
        for line, at_s in self._lines():
            if not line.startswith(b"data: {"):
                continue
            event = json.loads(line[6:])
            usage = event.get("usage") or usage
            delta = event["choices"][0].get("delta", {}) if event.get("choices") else {}
            if text := delta.get("content") or delta.get("reasoning"):
                times_s.append(at_s)
                texts.append(text)
        if not times_s or usage is None:
            raise CannotMeasure(f"{self._address}: a stream of {len(times_s)} pieces, its count {usage}")
        tokens, prompt = int(usage["completion_tokens"]), int(usage["prompt_tokens"])
        lengths = tuple(len(text) for text in texts)
        return Streamed(self._asked_s, tuple(times_s), lengths, self._received[-1][1], prompt, tokens, "".join(texts))

    def _lines(self) -> Iterator[tuple[bytes, float]]:
        """The lines of the body, each with the time at which it was there."""
        head, _, _ = self._data.partition(b"\r\n\r\n")
        status, *headers = head.split(b"\r\n")
        if status.split(b" ")[1:2] != [b"200"]:
            raise CannotMeasure(f"{self._address} answered {bytes(self._data[:300])!r}")
        is_chunked = any(header.lower().replace(b" ", b"") == b"transfer-encoding:chunked" for header in headers)
        line, ends = bytearray(), [end for end, _ in self._received]
        for part, end in self._parts(len(head) + 4, is_chunked):
            *whole, rest = part.split(b"\n")
            at_s = self._received[bisect.bisect_left(ends, end)][1]
            for piece in whole:
                yield bytes(line + piece), at_s
                line.clear()
            line += rest

    def _parts(self, place: int, is_chunked: bool) -> Iterator[tuple[bytes, int]]:
        """The body from `place` on, piece by piece, each with the place of its end."""
        while not is_chunked and place < len(self._data):
            end = self._data.find(b"\n", place) + 1 or len(self._data)
            yield bytes(self._data[place:end]), end
            place = end
        while is_chunked:
            start = self._data.index(b"\r\n", place) + 2
            size = int(self._data[place : start - 2].split(b";")[0], 16)
            if not size:
                return
            yield bytes(self._data[start : start + size]), start + size
            place = start + size + 2


def together(answers: Sequence[Streamed]) -> float:
    """Tokens per second of all answers together, from the first question to the last word."""
    seconds = max(answer.ended_s for answer in answers) - min(answer.asked_s for answer in answers)
    return sum(answer.tokens for answer in answers) / seconds


@dataclass(frozen=True)
class Timed:
    """When one stream ended, how many tokens it had, and of each of its pieces the time and the characters."""

    ended_s: float
    tokens: int
    pieces: Sequence[tuple[float, int]]

    @property
    def began_s(self) -> float:
        """When its first piece came."""
        return self.pieces[0][0]

    def tokens_between(self, start_s: float, end_s: float) -> float:
        """How many of its tokens came after `start_s` and no later than `end_s`; pieces may be of several."""
        came = sum(length for at_s, length in self.pieces if start_s < at_s <= end_s)
        return self.tokens * came / sum(length for _, length in self.pieces)


def token_s(streams: Sequence[Timed]) -> float:
    """Seconds per token of one of several streams, from the last first piece to the first end.

    What reading the prompts takes is not in it. Answers so short that they never ran all at once are measured from the
    first piece to the last end.
    """
    began_s, ended_s = max(stream.began_s for stream in streams), min(stream.ended_s for stream in streams)
    tokens = sum(stream.tokens_between(began_s, ended_s) for stream in streams)
    if not tokens:
        began_s, ended_s = min(stream.began_s for stream in streams), max(stream.ended_s for stream in streams)
        tokens = sum(stream.tokens for stream in streams)
    return (ended_s - began_s) * len(streams) / tokens
