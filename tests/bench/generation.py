"""How fast a node answers over its HTTP API: time to the first token and tokens per second, beside bare mlx-lm."""

import http.client
import json
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from node.models.demo import DEMO_NAME, demo_directory
from tests.bench.run import CannotMeasure, Run, program
from tests.bench.table import Row

MOST_TOKENS = 128
STORIES = ("fox", "robot", "boat", "dragon")
ASKING = ("Tell me a story about a {}.", "Write a story about a {}.", "Tell me a {} story.")
QUESTIONS = tuple(asking.format(story) for asking in ASKING for story in STORIES)
"""All different, so that no prompt is answered from a cache."""


@dataclass(frozen=True)
class Timing:
    """One answer: seconds from the question to its first and last piece."""

    first_s: float
    last_s: float
    tokens: int
    text: str

    @property
    def rate(self) -> float:
        """Tokens per second after the first."""
        return (self.tokens - 1) / (self.last_s - self.first_s)


def measure(run: Run) -> Iterator[Row]:
    """Ask a node and bare mlx-lm the same questions; the answers must be the same text."""
    questions = ["Hello!", *QUESTIONS[: run.sizes.answers]]
    node, _ = run.nodes
    run.progress(f"asking the node {len(questions)} questions")
    ours = [ask(node.ready["api"], question) for question in questions][1:]  # the first loads the model
    run.progress("asking mlx-lm the same")
    bare = reference(questions)[1:]
    if [timing.text for timing in ours] != [timing.text for timing in bare]:
        raise CannotMeasure("the node's greedy answers are not those of mlx-lm")
    remark = f"demo model, {run.sizes.answers} streamed answers of about {ours[0].tokens} tokens, median"
    beside = "mlx-lm in its own process"
    first_ms = [1000 * statistics.median(timing.first_s for timing in timings) for timings in (ours, bare)]
    rates = [statistics.median(timing.rate for timing in timings) for timings in (ours, bare)]
    yield Row("first token over HTTP", first_ms[0], "ms", "lower", beside, first_ms[1], remark)
    yield Row("generation over HTTP", rates[0], "tokens/s", "higher", beside, rates[1], remark)


def ask(api: str, question: str) -> Timing:
    """Stream one greedy answer of the demo model from `POST /api/chat`."""
    connection = http.client.HTTPConnection(str(urlsplit(api).netloc))
    body = {
        "model": DEMO_NAME,
        "messages": [{"role": "user", "content": question}],
        "options": {"temperature": 0, "num_predict": MOST_TOKENS},
    }
    started_s = time.perf_counter()
    connection.request("POST", "/api/chat", json.dumps(body), {"Content-Type": "application/json"})
    response = connection.getresponse()
    if response.status != 200:
        raise CannotMeasure(f"/api/chat answered {response.status}: {response.read(300)!r}")
    pieces = [(time.perf_counter() - started_s, json.loads(line)) for line in response]
    connection.close()
    return _timing(pieces)


def _timing(pieces: list[tuple[float, dict[str, Any]]]) -> Timing:
    spoken = [(at_s, piece["message"]["content"]) for at_s, piece in pieces if piece.get("message", {}).get("content")]
    if not spoken or not pieces[-1][1].get("done"):
        raise CannotMeasure(f"/api/chat broke off: {pieces[-1:]}")
    text = "".join(content for _, content in spoken)
    return Timing(spoken[0][0], spoken[-1][0], int(pieces[-1][1]["eval_count"]), text)


def reference(questions: list[str]) -> list[Timing]:
    """The same questions to mlx-lm without a node."""
    with program("tests.bench.mlx_reference", str(demo_directory())) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        json.dump({"questions": questions, "most_tokens": MOST_TOKENS}, process.stdin)
        process.stdin.close()
        answers = json.loads(process.stdout.readline() or "[]")
    return [Timing(**answer) for answer in answers]
