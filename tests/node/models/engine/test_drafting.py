"""Guesses by a small model: what is said is what is said without, and they stop where they do not pay."""

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from node.models.blas import preload_blas

if TYPE_CHECKING:
    from node.models.engine.drafting import ModelDrafter

pytestmark = pytest.mark.model

TOKENS = 2048
LENGTH = 80


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The demo model, the same again, its first layers, and one that knows nothing."""
    preload_blas()
    import mlx.core as mx
    from mlx.utils import tree_map

    from tests.node.models.engine.drafting_loop import load_demo, shorten

    directory = tmp_path_factory.mktemp("drafts")
    foolish = load_demo()
    mx.random.seed(3)
    noise: Any = tree_map(lambda array: array + 0.3 * mx.random.normal(array.shape), foolish.parameters())
    foolish.update(noise)
    return {
        "model": load_demo(),
        "itself": load_demo(),
        "three layers": load_demo(shorten(directory / "3", 3)),
        "two layers": load_demo(shorten(directory / "2", 2)),
        "foolish": foolish,
    }


@pytest.fixture(scope="module")
def prompt() -> list[int]:
    from mlx_lm.utils import load_tokenizer

    from node.models.demo import demo_directory

    asked = [{"role": "user", "content": "Tell me a story about a fox."}]
    render: Any = load_tokenizer(demo_directory()).apply_chat_template  # type: ignore[no-untyped-call]
    return [int(token) for token in render(asked, add_generation_prompt=True, enable_thinking=False)]


def ticking(step_s: float = 0.001) -> Iterator[float]:
    return itertools.count(0.0, step_s)


def drafter_of(model: Any, wanted: int = TOKENS, own: int = TOKENS) -> "ModelDrafter":
    """Return a drafter for which every step takes as long as any other, so that what it does is always the same."""
    from node.models.engine.drafting import ModelDrafter

    clock = ticking()
    return ModelDrafter(model, own, wanted, lambda: next(clock))


@pytest.mark.parametrize("draft", ["itself", "three layers", "two layers", "foolish"])
@pytest.mark.parametrize(("temperature", "seed"), [(0.0, 0), (0.7, 1), (2.5, 3)])
def test_what_is_said_is_what_is_said_without(
    models: dict[str, Any], prompt: list[int], draft: str, temperature: float, seed: int
) -> None:
    from tests.node.models.engine.drafting_loop import Dice, say

    alone = say(models["model"], prompt, LENGTH, Dice.of(temperature, seed))
    said = say(models["model"], prompt, LENGTH, Dice.of(temperature, seed), drafter_of(models[draft]))
    assert said.tokens == alone.tokens
    if draft == "itself":
        assert said.right == said.guessed, "the draw has the row's own random numbers"
        assert said.steps < LENGTH / 3
    if draft == "foolish" and temperature < 2:
        assert said.given_up
        assert said.guessed < 60


def test_a_draft_goes_from_row_to_row_and_back(models: dict[str, Any], prompt: list[int]) -> None:
    from tests.node.models.engine.drafting_loop import Dice, say

    drafter = drafter_of(models["three layers"])
    long = prompt + prompt * 10  # more than it reads in one go
    for tokens in (prompt, long, prompt[:5], long[:200], [*prompt, *prompt], prompt):
        alone = say(models["model"], tokens, 40, Dice.of(0.0, 0))
        said = say(models["model"], tokens, 40, Dice.of(0.0, 0), drafter)
        assert said.tokens == alone.tokens
        assert said.guessed > 0


@pytest.mark.parametrize(("wanted", "own"), [(2100, 2048), (2000, 2048), (2048, 300)])
def test_models_whose_tables_are_filled_up_differently_fit(
    models: dict[str, Any], prompt: list[int], wanted: int, own: int
) -> None:
    import mlx.core as mx

    from tests.node.models.engine.drafting_loop import Dice, say

    seen: list[int] = []

    class Watching(Dice):
        def __call__(self, logits: mx.array) -> mx.array:
            seen.append(logits.shape[-1])
            return super().__call__(logits)

        def copy(self) -> Dice:
            return Watching(self.temperature, self.key)

    alone = say(models["model"], prompt, 30, Dice.of(0.0, 0))
    said = say(models["model"], prompt, 30, Watching(0.0), drafter_of(models["itself"], wanted, own))
    assert said.tokens == alone.tokens
    if own < TOKENS:
        assert said.given_up, "a token that the draft does not have is never looked up in it"
    else:
        assert wanted in seen


def test_a_cache_that_cannot_be_taken_back_is_not_guessed_into(models: dict[str, Any], prompt: list[int]) -> None:
    from mlx_lm.models.cache import ArraysCache, KVCache, RotatingKVCache

    from node.models.engine.drafting import room

    window: Any = RotatingKVCache(max_size=16)  # type: ignore[no-untyped-call]
    window.offset = 10
    state: Any = ArraysCache(2)
    plain: Any = KVCache()  # type: ignore[no-untyped-call]
    assert room([plain]) > 1 << 20
    assert room([plain, window]) == 5
    window.offset = 16
    assert room([window]) == 0
    assert room([plain, state]) == 0


def pace_of(draft_s: float, plain_s: float, more_s: float, chance: float, rounds: int) -> tuple[list[int], bool]:
    """Return the counts of guesses that were handed out on a machine with these times."""
    import random

    from node.models.engine.drafting import Pace

    pace, dice = Pace(), random.Random(4)
    now_s, tokens, counts = 0.0, 100, []
    for _ in range(rounds):
        pace.stepped(tokens, now_s)
        count = pace.count()
        if pace.given_up:
            break
        began_s, now_s = now_s, now_s + count * draft_s
        pace.handed_out(count, tokens, began_s, now_s)
        now_s += plain_s + count * more_s
        right = next((at for at in range(count) if dice.random() > chance), count)
        tokens += right + 1
        counts.append(count)
    return counts, pace.given_up


def test_a_good_cheap_draft_is_asked_for_much_and_a_bad_or_dear_one_for_nothing() -> None:
    counts, given_up = pace_of(draft_s=0.002, plain_s=0.020, more_s=0.001, chance=0.95, rounds=60)
    assert not given_up
    assert min(counts[-10:]) >= 5
    counts, given_up = pace_of(draft_s=0.006, plain_s=0.020, more_s=0.002, chance=0.7, rounds=60)
    assert not given_up
    assert 1 <= max(counts[-10:]) <= 4
    for draft_s, chance in ((0.002, 0.02), (0.025, 0.99)):
        counts, given_up = pace_of(draft_s, 0.020, 0.002, chance, 60)
        assert given_up
        assert sum(counts) < 60
