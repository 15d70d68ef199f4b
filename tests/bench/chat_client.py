"""A client for what a server of OpenAI's API streams: when each piece came, and how many tokens there were."""

import http.client
import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tests.bench.run import CannotMeasure

Body = dict[str, Any]


@dataclass(frozen=True)
class Streamed:
    """One answer; seconds are those of one clock, `times_s` when each piece of text came."""

    asked_s: float
    times_s: tuple[float, ...]
    ended_s: float
    prompt_tokens: int
    tokens: int
    text: str

    @property
    def first_s(self) -> float:
        """Seconds from the question to the first piece."""
        return self.times_s[0] - self.asked_s

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
    return _stream(_connected(address), address, body)


def _connected(address: str) -> http.client.HTTPConnection:
    connection = http.client.HTTPConnection(address, timeout=600)
    connection.connect()
    return connection


def _stream(
    connection: http.client.HTTPConnection, address: str, body: Body, begun: Callable[[], None] = lambda: None
) -> Streamed:
    asked_s = time.perf_counter()
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
    response = connection.getresponse()
    if response.status != 200:
        raise CannotMeasure(f"{address} answered {response.status}: {response.read(300)!r}")
    times_s, texts, usage = [], [], None
    for line in response:
        if not line.startswith(b"data: {"):
            continue
        event = json.loads(line[6:])
        usage = event.get("usage") or usage
        delta = event["choices"][0].get("delta", {}) if event.get("choices") else {}
        if text := delta.get("content") or delta.get("reasoning"):
            times_s.append(time.perf_counter())
            if len(times_s) == 1:
                begun()
            texts.append(text)
    ended_s = time.perf_counter()
    connection.close()
    if not times_s or usage is None:
        raise CannotMeasure(f"{address}: a stream of {len(times_s)} pieces, its count {usage}")
    tokens, prompt = int(usage["completion_tokens"]), int(usage["prompt_tokens"])
    return Streamed(asked_s, tuple(times_s), ended_s, prompt, tokens, "".join(texts))


def ask_at_once(address: str, bodies: Sequence[Body], begun: Callable[[], None] = lambda: None) -> list[Streamed]:
    """Stream the answers to all `bodies` at the same time; `begun` is called at each first piece. Raises as `ask`."""
    answers: dict[int, Streamed] = {}
    failures: list[Exception] = []
    barrier = threading.Barrier(len(bodies))
    # Connected one after the other: mlx_lm.server lets only five wait to be accepted.
    connections = [_connected(address) for _ in bodies]

    def run(place: int, body: Body) -> None:
        barrier.wait()
        try:
            answers[place] = _stream(connections[place], address, body, begun)
        except (CannotMeasure, OSError, ValueError, http.client.HTTPException) as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=item) for item in enumerate(bodies)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise CannotMeasure(f"{address}: {failures[0]}")
    return [answers[place] for place in range(len(bodies))]


def together(answers: Sequence[Streamed]) -> float:
    """Tokens per second of all answers together, from the first question to the last word."""
    seconds = max(answer.ended_s for answer in answers) - min(answer.asked_s for answer in answers)
    return sum(answer.tokens for answer in answers) / seconds


def token_s(streams: Sequence[tuple[Sequence[float], float, int]]) -> float:
    """Seconds per token of one of several streams, from the last first piece to the first end.

    Of each stream the times of its pieces, its end, and how many tokens it had. What reading the prompts takes is not
    in it.
    """
    began, ended = max(times[0] for times, _, _ in streams), min(ended for _, ended, _ in streams)
    steps = [tokens * sum(began < at <= ended for at in times) / len(times) for times, _, tokens in streams]
    return (ended - began) * len(streams) / sum(steps)
