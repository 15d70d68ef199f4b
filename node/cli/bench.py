"""`bench`: how fast a model answers on this machine, asked over the HTTP API as every program asks it."""

import http.client
import json
import statistics
import threading
import time
from dataclasses import asdict, dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from node.cli.background import ensure_node
from node.cli.client import ControlClient
from node.cli.exit_codes import ExitCode
from node.cli.invocation import Invocation
from node.cli.render import format_bytes
from node.errors import ControlFailed, UsageInvalid

MAX_STREAMS: Final = 64
MAX_TOKENS: Final = 4096

SUBJECTS: Final = ("fox", "robot", "boat", "dragon", "lamp", "river", "tower", "bread")


@dataclass(frozen=True)
class Answer:
    """One streamed answer: seconds of one clock, and its tokens as the node counted them."""

    asked_s: float
    first_s: float
    ended_s: float
    tokens: int


@dataclass(frozen=True)
class Figures:
    """What so many questions at once took: all tokens per second, the median wait for the first word, the memory."""

    streams: int
    tokens: int
    tokens_per_s: float
    tokens_per_s_each: float
    first_token_ms: float
    memory_bytes: int


def bench(invocation: Invocation) -> int:
    """Ask NAME one question, then several at once, and print what that took."""
    arguments, screen = invocation.arguments, invocation.screen
    streams = _streams(arguments.streams)
    if not 1 <= arguments.tokens <= MAX_TOKENS:
        raise UsageInvalid(f"--tokens takes 1 to {MAX_TOKENS}")
    with ensure_node(invocation) as client:
        model = client.get("/v1/show", name=arguments.name)["name"]
        address = urlsplit(client.get("/v1/status")["api"]).netloc
        screen.progress(f"loading {model}")
        _ask(address, model, 0, 1)
        measured = []
        for count in streams:
            screen.progress(f"asking {model} {count} {'question' if count == 1 else 'questions at once'}")
            measured.append(_measure(client, address, model, count, arguments.tokens))
    screen.facts({"model": model, "tokens": arguments.tokens, "figures": [asdict(figures) for figures in measured]})
    rows = [
        (
            str(figures.streams),
            f"{figures.tokens_per_s:.1f}",
            f"{figures.tokens_per_s_each:.1f}",
            f"{figures.first_token_ms:.0f} ms",
            format_bytes(figures.memory_bytes),
        )
        for figures in measured
    ]
    screen.table(("STREAMS", "TOKENS/S", "TOKENS/S EACH", "FIRST TOKEN", "MEMORY"), rows)
    return ExitCode.OK


def _streams(text: str) -> list[int]:
    words = text.split(",")
    if not all(word.isascii() and word.isdigit() and 1 <= int(word) <= MAX_STREAMS for word in words):
        raise UsageInvalid(f"--streams takes numbers from 1 to {MAX_STREAMS}", "such as: --streams 1,4,8")
    return [int(word) for word in words]


def _measure(client: ControlClient, address: str, model: str, count: int, tokens: int) -> Figures:
    answers = _ask_at_once(address, model, count, tokens)
    seconds = max(answer.ended_s for answer in answers) - min(answer.asked_s for answer in answers)
    total = sum(answer.tokens for answer in answers)
    loaded = [held["memory_bytes"] for held in client.get("/v1/ps")["models"] if held["name"] == model]
    return Figures(
        streams=count,
        tokens=total,
        tokens_per_s=total / seconds,
        tokens_per_s_each=statistics.median(
            (answer.tokens - 1) / max(1e-9, answer.ended_s - answer.first_s) for answer in answers
        ),
        first_token_ms=1000 * statistics.median(answer.first_s - answer.asked_s for answer in answers),
        memory_bytes=max(loaded, default=0),
    )


def _ask_at_once(address: str, model: str, count: int, tokens: int) -> list[Answer]:
    answers: list[Answer] = []
    failures: list[Exception] = []

    def run(number: int) -> None:
        try:
            answers.append(_ask(address, model, number, tokens))
        except (ControlFailed, OSError, ValueError, http.client.HTTPException) as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return answers


def _ask(address: str, model: str, number: int, tokens: int) -> Answer:
    """Stream one greedy answer of at most so many tokens.

    Raises:
        ControlFailed: the node refused it, or broke off.
    """
    subject = SUBJECTS[number % len(SUBJECTS)]
    body = {
        "model": model,
        "messages": [{"role": "user", "content": f"Tell me a story about a {subject}."}],
        "options": {"temperature": 0, "num_predict": tokens},
    }
    connection = http.client.HTTPConnection(address, timeout=None)
    asked_s = time.perf_counter()
    connection.request("POST", "/api/chat", json.dumps(body), {"Content-Type": "application/json"})
    response = connection.getresponse()
    first_s = 0.0
    last: dict[str, Any] = {}
    for line in response:
        last = json.loads(line)
        first_s = first_s or time.perf_counter()
    connection.close()
    if not last.get("done"):
        raise ControlFailed("BenchFailed", str(last.get("error", "the answer broke off")), "", ExitCode.INTERNAL)
    return Answer(asked_s, first_s, time.perf_counter(), int(last["eval_count"]))
