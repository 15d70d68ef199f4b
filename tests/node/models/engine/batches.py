"""Rows of a batch in the test's own process, and what it hears of them."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from node.models.engine.batch import Batch
from node.models.engine.engine import Engine
from node.models.engine.rows import Chosen, Row
from node.models.errors import ModelError
from protocol.worker.messages import Sampling

GREEDY = Sampling(temperature=0.0)


@dataclass
class Heard:
    """What became of the rows; a row that fails raises where it is asked for."""

    tokens: dict[Row, list[Chosen]] = field(default_factory=dict)
    errors: dict[Row, ModelError] = field(default_factory=dict)
    progress: list[tuple[Row, int]] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)

    def read(self, row: Row) -> None:
        self.progress.append((row, row.read))

    def chosen(self, tokens: Sequence[Chosen]) -> None:
        self.steps.append(len(tokens))
        for chosen in tokens:
            self.tokens.setdefault(chosen.row, []).append(chosen)

    def failed(self, row: Row, error: ModelError) -> None:
        self.errors[row] = error

    def values(self, row: Row) -> list[int]:
        if row in self.errors:
            raise self.errors[row]
        return [chosen.token for chosen in self.tokens.get(row, [])]


def batch_of(engine: Engine, heard: Heard, fresh: Callable[[], list[Any]] | None = None, **plugged: Any) -> Batch:
    return Batch(
        engine.model,
        engine.vocabulary,
        fresh or engine.row_maker(0),
        heard,
        time.monotonic,
        head_tokens=engine.head_tokens,
        **plugged,
    )


def row_for(
    engine: Engine, number: int, prompt: Sequence[int], most: int, sampling: Sampling = GREEDY, **more: Any
) -> Row:
    return Row(number=number, prompt=list(prompt), sampling=sampling, most=most, stops=engine.stops, **more)


def run(batch: Batch) -> None:
    """Go on until every row has ended."""
    while batch.rows:
        batch.step()


def generate(engine: Engine, prompt: Sequence[int], most: int, sampling: Sampling = GREEDY, **more: Any) -> list[int]:
    """The tokens of one row alone."""
    heard = Heard()
    batch = batch_of(engine, heard)
    row = row_for(engine, 1, prompt, most, sampling, **more)
    batch.add(row)
    run(batch)
    return heard.values(row)
