"""The engine beside mlx-lm's own loops, in one process, on the same model and prompts: how fast, and the same tokens.

    python -m tests.bench.engine_reference [MODEL_DIRECTORY] [--turns N] [--tokens N]

Without a directory a model of random weights is made. Both sides run float32 with the fast BLAS on Linux, greedy; turns
alternate, and what is printed are medians over them and their ratio. Each line is one comparison: seconds or rates of
the engine, of mlx-lm, and the ratio (above 1: the engine is faster).
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from node.models.blas import preload_blas
from tests.bench.random_model import write_model

WORDS = "river stone garden winter letter copper island morning window thunder paper silver mountain basket lantern"


@dataclass
class Took:
    """One turn of one side: seconds to the first token and to the last, and the tokens of every row."""

    first_s: float
    last_s: float
    tokens: list[list[int]]

    @property
    def rate(self) -> float:
        """Tokens of all rows per second after the first ones."""
        return (sum(map(len, self.tokens)) - len(self.tokens)) / (self.last_s - self.first_s)


class Sides:
    """The two sides, over one loaded model."""

    def __init__(self, directory: Path) -> None:
        from node.models.engine.engine import Engine

        self.engine = Engine.load(directory)
        self.fresh = self.engine.row_maker(0)

    def ours(self, prompts: Sequence[list[int]], most: int, **more: Any) -> Took:
        """Answer all `prompts` together with the engine."""
        from node.models.engine.batch import Batch
        from node.models.engine.rows import Row
        from protocol.worker.messages import Sampling

        heard = _Heard()
        batch = Batch(
            self.engine.model,
            self.engine.vocabulary,
            self.fresh,
            heard,
            time.perf_counter,
            head_tokens=self.engine.head_tokens,
        )
        wish = {"sampling": Sampling(temperature=0.0), "stops": frozenset[int](), **more}
        rows = [Row(number=number, prompt=list(prompt), most=most, **wish) for number, prompt in enumerate(prompts)]
        began_s = time.perf_counter()
        for row in rows:
            batch.add(row)
        while batch.rows:
            batch.step()
        return Took(heard.first_s - began_s, heard.last_s - began_s, [row.generated for row in rows])

    def stream_generate(self, prompts: Sequence[list[int]], most: int) -> Took:
        """Answer one prompt with mlx-lm's loop for one."""
        import mlx.core as mx
        from mlx_lm.generate import generate_step

        from node.models.engine.cpu_math import as_mlx_does

        began_s = time.perf_counter()
        tokens, times = [], []
        with as_mlx_does():
            for token, _ in generate_step(mx.array(prompts[0]), self.engine.model, max_tokens=most):
                tokens.append(int(token))
                times.append(time.perf_counter() - began_s)
        return Took(times[0], times[-1], [tokens])

    def batch_generator(self, prompts: Sequence[list[int]], most: int) -> Took:
        """Answer all prompts with mlx-lm's continuous batching."""
        from mlx_lm.generate import BatchGenerator

        from node.models.engine.cpu_math import as_mlx_does

        began_s = time.perf_counter()
        generator: Any = BatchGenerator(self.engine.model, max_tokens=most)
        numbers = generator.insert([list(prompt) for prompt in prompts])
        tokens: dict[int, list[int]] = {number: [] for number in numbers}
        first_s = last_s = 0.0
        with as_mlx_does():
            while responses := generator.next_generated():
                last_s = time.perf_counter() - began_s
                first_s = first_s or last_s
                for response in responses:
                    tokens[response.uid].append(int(response.token))
            generator.close()
        return Took(first_s, last_s, [tokens[number] for number in numbers])


class _Heard:
    def __init__(self) -> None:
        self.first_s = self.last_s = 0.0

    def read(self, row: Any) -> None:
        """Nothing is told of it."""

    def chosen(self, tokens: Sequence[Any]) -> None:
        self.last_s = time.perf_counter()
        self.first_s = self.first_s or self.last_s

    def failed(self, row: Any, error: Exception) -> None:
        raise error


def prompts_of(engine: Any, count: int, tokens: int = 30) -> list[list[int]]:
    """Prompts of about `tokens` tokens, no two alike."""
    words = WORDS.split()
    found = []
    for number in range(count):
        said = " ".join(words[(number * 7 + place * (number + 3)) % len(words)] for place in range(tokens))
        found.append(engine.encode_chat(f"{number} {said}")[: tokens + number % 7])
    return found


def compare(what: str, turns: int, ours: Callable[[], Took], theirs: Callable[[], Took], *, same: bool = True) -> None:
    """Print one line: both sides' first token and rate, and the ratios."""
    pairs = []
    for turn in range(turns + 1):
        pair = (ours(), theirs()) if turn % 2 else tuple(reversed((theirs(), ours())))
        if same and pair[0].tokens != pair[1].tokens:
            sys.stdout.write(f"{what}: THE TOKENS DIFFER\n")
        pairs.append(pair)
    mine, other = zip(*pairs[1:], strict=True)
    firsts = [1000 * statistics.median(took.first_s for took in side) for side in (mine, other)]
    rates = [statistics.median(took.rate for took in side) for side in (mine, other)]
    sys.stdout.write(
        f"{what}: {rates[0]:.1f} tokens/s beside {rates[1]:.1f}, ratio {rates[0] / rates[1]:.2f}; "
        f"first token {firsts[0]:.0f} ms beside {firsts[1]:.0f}, ratio {firsts[1] / firsts[0]:.2f}\n"
    )
    sys.stdout.flush()


def main() -> None:
    """Compare, for one row and for batches."""
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", nargs="?", type=Path)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=64)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        directory = given.directory
        if directory is None:
            directory = Path(scratch) / "model"
            write_model(directory)
        preload_blas()
        sides = Sides(directory)
        one = prompts_of(sides.engine, 1)
        compare(
            "1 row beside generate_step",
            given.turns,
            lambda: sides.ours(one, given.tokens),
            lambda: sides.stream_generate(one, given.tokens),
        )
        for count in (4, 8, 16):
            prompts = prompts_of(sides.engine, count)
            compare(
                f"{count} rows beside BatchGenerator",
                given.turns,
                lambda prompts=prompts: sides.ours(prompts, given.tokens),  # type: ignore[misc]  # bound now
                lambda prompts=prompts: sides.batch_generator(prompts, given.tokens),  # type: ignore[misc]  # bound now
            )


if __name__ == "__main__":
    main()
