"""Prompts that come at the same time and begin alike: that is read once, and answers are those of each alone."""

import time
from collections.abc import Sequence
from typing import Any

import pytest

from node.models.blas import preload_blas
from protocol.worker.messages import Sampling
from tests.node.models.engine.test_prefix import KINDS, kept, model_of, without
from tests.node.models.engine.tiny_models import words

pytestmark = pytest.mark.model
SYSTEM = words(77, 300)
MOST = 12


class Counting:
    """A model that counts the tokens that it reads, padding included."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.read = 0

    def __call__(self, tokens: Any, cache: list[Any]) -> Any:
        self.read += tokens.size
        return self.model(tokens, cache=cache)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def batch_of(kind: str) -> tuple[Any, Any, Counting]:
    preload_blas()
    from node.models.engine.batch import Batch
    from tests.node.models.engine.batches import Heard

    model, fresh = model_of(kind)
    counting, heard = Counting(model), Heard()
    batch = Batch(counting, 500, fresh, heard, time.monotonic, head_tokens=64, prefixes=kept(kind))
    return batch, heard, counting


def rows_of(prompts: Sequence[Sequence[int]]) -> list[Any]:
    from node.models.engine.rows import Row

    greedy = Sampling(temperature=0.0)
    return [
        Row(number=number, prompt=list(prompt), sampling=greedy, most=MOST, stops=frozenset())
        for number, prompt in enumerate(prompts)
    ]


def test_one_beginning_is_read_once(kind: str) -> None:
    batch, heard, counting = batch_of(kind)
    prompts = [SYSTEM + words(number, 20 + number) for number in range(6)]
    rows = rows_of(prompts)
    for row in rows:
        batch.add(row)
    while batch.rows:
        batch.step()
    for row, prompt in zip(rows, prompts, strict=True):
        assert heard.values(row) == without(kind, prompt)
    assert counting.read < 2 * len(SYSTEM) + 6 * 60
    assert sorted(row.cached >= len(SYSTEM) for row in rows) == [False] + 5 * [True]


def test_one_that_comes_while_another_is_answered_finds_its_prompt() -> None:
    batch, heard, _ = batch_of("demo")
    first, second = rows_of([SYSTEM + words(1, 30), SYSTEM + words(2, 30)])
    batch.add(first)
    while not heard.values(first):
        batch.step()
    batch.add(second)
    while batch.rows:
        batch.step()
    assert second.cached >= len(SYSTEM)
    for row in (first, second):
        assert heard.values(row) == without("demo", row.prompt)


def test_a_beginning_is_shared_also_when_the_first_one_leaves(kind: str) -> None:
    batch, heard, _ = batch_of(kind)
    rows = rows_of([SYSTEM + SYSTEM + words(number, 9) for number in range(4)])
    for row in rows:
        batch.add(row)
    batch.step()
    rows[0].stopped = True
    while batch.rows:
        batch.step()
    for row in rows[1:]:
        assert heard.values(row) == without(kind, row.prompt)


def test_prompts_within_prompts_come_to_their_ends(kind: str) -> None:
    batch, heard, _ = batch_of(kind)
    rows = rows_of([SYSTEM[:200], SYSTEM, SYSTEM[:200], SYSTEM + words(1, 5), SYSTEM[:64], SYSTEM[:1], words(3, 100)])
    for row in rows:
        batch.add(row)
        batch.step()
    while batch.rows:
        batch.step()
    for row in rows:
        assert heard.values(row) == without(kind, row.prompt)
