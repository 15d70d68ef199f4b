"""How fast a node answers over its HTTP API: time to the first token and tokens per second, beside bare mlx-lm."""

import http.client
import json
import statistics
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from node.models.demo import DEMO_NAME, demo_directory
from tests.bench.random_model import write_model
from tests.bench.run import CannotMeasure, Run, program
from tests.bench.table import Row

RANDOM_NAME = "random"
PAUSE_S = 0.3
"""Before each turn: the BLAS threads of the side that answered last spin a while longer, on the cores of the other."""
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
    """Ask the demo model, then a model of ten times its size whose answers mean nothing but cost what they would."""
    node, _ = run.nodes
    yield from _measure_model(run, DEMO_NAME, "demo model", demo_directory())
    directory = run.scratch / "random-model"
    parameters = write_model(directory)
    modelfile = directory.with_suffix(".Modelfile")
    modelfile.write_text(f"FROM {directory}\n")
    run.progress("building a model of random weights")
    node.command("create", RANDOM_NAME, "-f", str(modelfile))
    yield from _measure_model(run, RANDOM_NAME, f"{parameters / 1e6:.0f} M random weights", directory)


def _measure_model(run: Run, model: str, what: str, directory: Path) -> Iterator[Row]:
    """The same questions, turn by turn, to a node and to bare mlx-lm; the answers must be the same text."""
    questions = ["Hello!", *QUESTIONS[: run.sizes.answers]]
    node, most_tokens = run.nodes[0], run.sizes.most_tokens
    run.progress(f"asking the node and mlx-lm {len(questions)} questions each: {what}")
    with program("tests.bench.mlx_reference", str(directory), str(most_tokens)) as process:
        pairs = []
        for question in questions:
            time.sleep(PAUSE_S)
            bare_timing = ask_bare(process, question)
            time.sleep(PAUSE_S)
            pairs.append((ask(node.ready["api"], model, question, most_tokens), bare_timing))
    ours, bare = zip(*pairs[1:], strict=True)  # the first question loads the model
    if [timing.text for timing in ours] != [timing.text for timing in bare]:
        raise CannotMeasure(f"{what}: the node's greedy answers are not those of mlx-lm")
    remark = f"{run.sizes.answers} streamed answers of about {ours[0].tokens} tokens, median"
    beside = "mlx-lm in its own process"
    first_ms = [1000 * statistics.median(timing.first_s for timing in timings) for timings in (ours, bare)]
    rates = [statistics.median(timing.rate for timing in timings) for timings in (ours, bare)]
    yield Row(f"first token over HTTP, {what}", first_ms[0], "ms", "lower", beside, first_ms[1], remark)
    yield Row(f"generation over HTTP, {what}", rates[0], "tokens/s", "higher", beside, rates[1], remark)


def ask(api: str, model: str, question: str, most_tokens: int) -> Timing:
    """Stream one greedy answer from `POST /api/chat`."""
    connection = http.client.HTTPConnection(str(urlsplit(api).netloc))
    body = {
        "model": model,
        "messages": [{"role": "user", "content": question}],
        "options": {"temperature": 0, "num_predict": most_tokens},
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


def ask_bare(process: "subprocess.Popen[str]", question: str) -> Timing:
    """The same question to mlx-lm without a node."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(question) + "\n")
    process.stdin.flush()
    line = process.stdout.readline()
    if not line:
        raise CannotMeasure("mlx-lm ended without an answer")
    return Timing(**json.loads(line))
