"""A node beside `mlx_lm.server`: the same model files, the same questions over the same API, in the same run."""

import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx

from node.cli.demo_node import DemoNode
from node.models.demo import demo_directory
from tests.bench.chat_client import NO_END, Body, Streamed, ask, ask_at_once, question, together
from tests.bench.generation import QUESTIONS
from tests.bench.mlx_server import Server, mlx_server
from tests.bench.random_model import LARGE, SMALL, copy_description, write_model
from tests.bench.run import CannotMeasure, Run
from tests.bench.table import Better, Row

Pair = tuple[float, float]
"""What one turn gave: the node's figure and the peer's, measured one after the other."""
PAUSE_S = 0.3
"""Before each turn: the BLAS threads of the side that answered last spin a while longer, on the cores of the other."""
CONTEXT_TOKENS = 8192
MLX_NAME = "default_model"  # what mlx_lm.server calls the model that it was started with
BESIDE = "mlx_lm server"
STREAMS = (4, 8, 16)
LONG_TOKENS = 2_000
PREFIX_TOKENS = 700
WORD_TOKENS = 6
"""Of `the number 123, `, about: it only has to reach the length, and both servers get the same text."""


@dataclass(frozen=True)
class Side:
    """One of the two servers: where it listens, what it calls the model, and who is to rest while it is asked.

    A node that nobody asks needs no rest: it waits for events.
    """

    address: str
    model: str
    other: Server | None = None

    def ask(self, text: str, tokens: int, **more: object) -> Streamed:
        """One streamed answer."""
        with self.alone():
            return ask(self.address, question(self.model, text, tokens, **more))

    def ask_at_once(self, bodies: Sequence[Body]) -> list[Streamed]:
        """The answers to all `bodies`, asked at the same time."""
        with self.alone():
            return ask_at_once(self.address, bodies)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Have the machine to itself for the body, after the other side's threads have come to rest."""
        time.sleep(PAUSE_S)
        with self.other.resting() if self.other is not None else nullcontext():
            yield


def measure(run: Run) -> Iterator[Row]:
    """Three models in float32 with the same BLAS on both sides; then the middle one beside what a person installs."""
    for name, what, make in MODELS[: 1 if run.sizes.quick else None]:
        directory = run.scratch / f"serving-{name}"
        make(directory)
        node = serve(run, name, directory)
        run.progress(f"a node beside mlx_lm server: {what}")
        with mlx_server(directory, run.scratch, fast_blas=True) as server:
            sides = (Side(api_address(node), name, server), Side(server.address, MLX_NAME))
            for side in sides:
                side.ask("Hello!", 8)  # it loads the model
            yield from _single(run, what, sides)
            yield from _together(run, what, sides)
            yield from _repeated_prefix(run, what, sides)
            yield from _arriving_prompt(run, what, sides)
        yield from _after_restart(run, what, node, name)
        node.command("stop", name)
    if not run.sizes.quick:
        yield from _stock(run)


def _demo_in_float32(directory: Path) -> None:
    copy_description(directory, {"max_position_embeddings": CONTEXT_TOKENS})
    weights: dict[str, mx.array] = mx.load(str(demo_directory() / "model.safetensors"))  # type: ignore[assignment]  # one file is a dict
    mx.save_safetensors(
        str(directory / "model.safetensors"), {name: tensor.astype(mx.float32) for name, tensor in weights.items()}
    )


def _small(directory: Path) -> None:
    write_model(directory, SMALL, "F32", CONTEXT_TOKENS)


def _large(directory: Path) -> None:
    write_model(directory, LARGE, "F32", CONTEXT_TOKENS)


MODELS: tuple[tuple[str, str, Callable[[Path], None]], ...] = (
    ("demo-f32", "demo model", _demo_in_float32),
    ("small-f32", "26 M", _small),
    ("large-f32", "98 M", _large),
)


def serve(run: Run, name: str, directory: Path) -> DemoNode:
    """The run's first node, with the model in `directory` built under `name`."""
    node = run.nodes[0]
    modelfile = directory.with_suffix(".Modelfile")
    modelfile.write_text(f"FROM {directory}\n")
    node.command("create", name, "-f", str(modelfile))
    return node


def api_address(node: DemoNode) -> str:
    """host:port of a node's HTTP API."""
    return str(node.ready["api"]).removeprefix("http://").rstrip("/")


def story(number: int) -> str:
    """One of the questions whose answers are long; so short that no cache saves much of reading them."""
    return QUESTIONS[number % len(QUESTIONS)]


def long_text(tokens: int, seed: int) -> str:
    """Text of about so many tokens that begins as no other seed's does."""
    return f"List {seed}: " + "".join(f"the number {place + seed}, " for place in range(tokens // WORD_TOKENS))


def _single(run: Run, what: str, sides: tuple[Side, Side]) -> Iterator[Row]:
    turns = [[side.ask(story(turn), run.sizes.most_tokens) for side in sides] for turn in range(run.sizes.turns)]
    remark = f"the middle one of {run.sizes.turns} answers of {turns[0][0].tokens} tokens"
    rates = middle([(ours.rate, theirs.rate) for ours, theirs in turns])
    firsts = middle([(1000 * ours.first_s, 1000 * theirs.first_s) for ours, theirs in turns])
    yield row(run, f"one stream, {what}", rates, "tokens/s", "higher", remark, 1.0)
    yield row(run, f"one stream's first token, {what}", firsts, "ms", "lower", remark, 1.0)


def _together(run: Run, what: str, sides: tuple[Side, Side]) -> Iterator[Row]:
    for streams in STREAMS:
        pairs = []
        for turn in range(run.sizes.many_turns):
            texts = [story(turn + place) for place in range(streams)]
            ours, theirs = (
                together(side.ask_at_once([question(side.model, text, run.sizes.most_tokens) for text in texts]))
                for side in sides
            )
            pairs.append((ours, theirs))
        remark = f"the middle one of {len(pairs)} turns, all asked at once"
        yield row(run, f"{streams} streams together, {what}", middle(pairs), "tokens/s", "higher", remark, 1.05)


def _repeated_prefix(run: Run, what: str, sides: tuple[Side, Side]) -> Iterator[Row]:
    for side in sides:
        _ask_behind_prefix(side, 0)
    pairs = []
    for turn in range(1, run.sizes.turns + 1):
        ours, theirs = (1000 * _ask_behind_prefix(side, turn).first_s for side in sides)
        pairs.append((ours, theirs))
    remark = f"{PREFIX_TOKENS} tokens of system prompt that were read before, another question"
    yield row(run, f"first token after a repeated prefix, {what}", middle(pairs), "ms", "lower", remark, 1.0)


def _ask_behind_prefix(side: Side, turn: int) -> Streamed:
    """Another question for each `turn`, behind the same long beginning."""
    return side.ask_at_once([_with_prefix(side, turn)])[0]


def _with_prefix(side: Side, turn: int) -> Body:
    body = question(side.model, f"Question {turn}: what is that?", 8)
    return {**body, "messages": [{"role": "system", "content": long_text(PREFIX_TOKENS, 7)}, *body["messages"]]}


def _after_restart(run: Run, what: str, node: DemoNode, name: str) -> Iterator[Row]:
    pairs, tokens = [], 0
    for turn in range(100, 100 + run.sizes.turns):
        node.restart()
        side = Side(api_address(node), name)
        side.ask("Hello!", 1)  # it loads the model: that is measured elsewhere
        cold, warm = (_ask_behind_prefix(side, 2 * turn + again) for again in range(2))
        pairs.append((1000 * cold.first_s, 1000 * warm.first_s))
        tokens = cold.prompt_tokens
    remark = f"{tokens} tokens, read before the node's restart; the middle one of {len(pairs)}"
    limit = None if run.sizes.quick else 2.0
    ours, memory = middle(pairs)
    figure = f"first token after a restart, {what}"
    yield Row(figure, ours, "ms", "lower", "the next question, in memory", memory, remark, limit)


def _arriving_prompt(run: Run, what: str, sides: tuple[Side, Side]) -> Iterator[Row]:
    pairs = []
    for turn in range(max(1, run.sizes.turns // 2)):
        ours, theirs = (1000 * _gap_s(side, run, turn) for side in sides)
        pairs.append((ours, theirs))
    remark = f"4 streams, the longest 1 % of gaps while a prompt of {LONG_TOKENS} tokens is read"
    yield row(run, f"gap between tokens, {what}", middle(pairs), "ms", "lower", remark, 0.5)


def _gap_s(side: Side, run: Run, turn: int) -> float:
    """The 99th percentile of the seconds between pieces of four streams, from a long prompt's arrival to its answer."""
    bodies = [question(side.model, story(place), 4 * run.sizes.most_tokens, logit_bias=NO_END) for place in range(4)]
    running: list[Streamed] = []
    speaking = threading.Semaphore(0)
    thread = threading.Thread(target=lambda: running.extend(ask_at_once(side.address, bodies, speaking.release)))
    with side.alone():
        thread.start()
        for _ in bodies:
            speaking.acquire()
        late = ask(side.address, question(side.model, long_text(LONG_TOKENS, 11 + turn), 4))
        thread.join()
    gaps = [
        after - before
        for answer in running
        for before, after in zip(answer.times_s, answer.times_s[1:], strict=False)
        if after >= late.asked_s and before <= late.times_s[0]
    ]
    if not gaps:
        raise CannotMeasure(f"{side.address}: the streams ended before the long prompt came")
    return sorted(gaps)[min(len(gaps) - 1, int(0.99 * len(gaps)))]


def _stock(run: Run) -> Iterator[Row]:
    """The server as a person gets it: half precision as stored, the BLAS that its wheel brings."""
    directory = run.scratch / "serving-stock"
    write_model(directory, SMALL, "F16", CONTEXT_TOKENS)
    node = serve(run, "stock", directory)
    run.progress("a node beside mlx_lm server as installed")
    with mlx_server(directory, run.scratch, fast_blas=False) as server:
        sides = (Side(api_address(node), "stock", server), Side(server.address, MLX_NAME))
        for side in sides:
            side.ask("Hello!", 4)
        tokens = run.sizes.most_tokens // 2
        ours, theirs = (side.ask(story(1), tokens).rate for side in sides)
        yield row(run, "one stream, 26 M, beside stock", (ours, theirs), "tokens/s", "higher", "float16 as stored", 4.0)
        ours, theirs = (
            together(side.ask_at_once([question(side.model, story(place), tokens) for place in range(8)]))
            for side in sides
        )
        yield row(run, "8 streams, 26 M, beside stock", (ours, theirs), "tokens/s", "higher", "float16 as stored", 4.0)
    node.command("stop", "stock")
    shutil.rmtree(directory)


def middle(pairs: Sequence[Pair]) -> Pair:
    """The turn whose ratio is the median: both figures are of one minute, however the machine drifts."""
    return sorted(pairs, key=lambda pair: pair[0] / pair[1])[len(pairs) // 2]


def row(run: Run, figure: str, pair: Pair, unit: str, better: Better, remark: str, limit: float) -> Row:
    """The node's figure beside the peer's; a quick run is held to nothing."""
    return Row(figure, pair[0], unit, better, BESIDE, pair[1], remark, None if run.sizes.quick else limit)
