"""Kept prefixes: answers are the same as without them, whatever kind of cache the model has."""

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pytest

from node.models.blas import preload_blas
from protocol.prefix_file import PAGE_TOKENS
from tests.node.models.engine.tiny_models import WINDOW, greedy, load_model, read, words

if TYPE_CHECKING:
    from node.models.engine.prefix import KeptPrefixes

pytestmark = pytest.mark.model
KINDS = ["demo", "gemma3_text", "mamba", "qwen3_next"]
MODELS: dict[str, Any] = {}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def model_of(kind: str) -> tuple[Any, Any]:
    if kind not in MODELS:
        MODELS[kind] = load_model(kind)
    return MODELS[kind]  # type: ignore[no-any-return]  # what load_model gives


def kept(kind: str, max_bytes: int = 1 << 28) -> "KeptPrefixes":
    preload_blas()
    from node.models.engine.prefix import KeptPrefixes

    return KeptPrefixes(model_of(kind)[1], "float32", max_bytes)


def answer(prefixes: "KeptPrefixes", kind: str, prompt: Sequence[int], adapter: str = "") -> tuple[list[int], int]:
    """Answer as the engine does: take, stop where prompts part, keep the prompt, and keep all at the end."""
    model, new_caches = model_of(kind)
    branch = prefixes.branch(adapter, prompt)
    caches, taken = prefixes.take(adapter, prompt) or (new_caches(), 0)
    if branch > taken:
        read(model, prompt[taken:branch], caches)
        prefixes.keep(adapter, prompt[:branch], caches)
    done = max(branch, taken)
    read(model, prompt[done:-1], caches)
    prefixes.keep(adapter, prompt[:-1], caches)
    tokens = greedy(model, prompt, caches, len(prompt) - 1)
    prefixes.keep(adapter, [*prompt, *tokens[:-1]], caches)
    return tokens, taken


def without(kind: str, prompt: Sequence[int]) -> list[int]:
    model, new_caches = model_of(kind)
    return greedy(model, prompt, new_caches())


def test_a_repeated_prompt_is_read_but_for_its_last_token(kind: str) -> None:
    prefixes, prompt = kept(kind), words(1, 300)
    expected = without(kind, prompt)
    assert answer(prefixes, kind, prompt) == (expected, 0)
    assert answer(prefixes, kind, prompt) == (expected, 299)
    assert answer(prefixes, kind, prompt) == (expected, 299)
    assert (prefixes.hits, prefixes.misses) == (2, 1)


def test_a_conversation_goes_on_from_its_answer(kind: str) -> None:
    prefixes, prompt, before = kept(kind), words(2, 200), 0
    for _ in range(3):
        expected = without(kind, prompt)
        tokens, taken = answer(prefixes, kind, prompt)
        assert tokens == expected
        assert taken == before
        before = len(prompt) + len(tokens) - 1
        prompt = [*prompt, *tokens, *words(before, 40)]


def test_prompts_that_part_share_their_beginning(kind: str) -> None:
    prefixes, system = kept(kind), words(3, 333)
    taken = []
    for user in range(4):
        prompt = system + words(50 + user, 30)
        tokens, count = answer(prefixes, kind, prompt)
        assert tokens == without(kind, prompt)
        taken.append(count)
    if kind == "demo":
        assert min(taken[1:]) >= 333
    else:
        # The second one shows where they part; from the third one on a row begins there.
        assert taken[1] == 0
        assert min(taken[2:]) >= 333


def test_a_window_that_dropped_nothing_can_be_cut() -> None:
    prefixes, system = kept("gemma3_text"), words(4, 20)
    answer(prefixes, "gemma3_text", [*system, 5, 6])
    prompt = [*system, 9, 8, 7]
    tokens, taken = answer(prefixes, "gemma3_text", prompt)
    assert (tokens, taken) == (without("gemma3_text", prompt), 20)
    assert WINDOW > 23
    model, _ = model_of("gemma3_text")
    first, second = prefixes.take("", prompt), prefixes.take("", prompt)
    assert first is not None
    assert second is not None
    read(model, words(7, 10), first[0], step=1)
    assert greedy(model, prompt, second[0], second[1]) == tokens


def test_adapters_share_nothing(kind: str) -> None:
    prefixes, prompt = kept(kind), words(5, 150)
    answer(prefixes, kind, prompt, "one")
    assert answer(prefixes, kind, prompt, "two")[1] == 0
    assert answer(prefixes, kind, prompt, "one")[1] == 149


def test_what_was_taken_may_be_written_on(kind: str) -> None:
    prefixes, prompt = kept(kind), words(6, 260)
    expected = without(kind, prompt)
    answer(prefixes, kind, prompt)
    model, _ = model_of(kind)
    first, second = prefixes.take("", prompt), prefixes.take("", prompt)
    assert first is not None
    assert second is not None
    read(model, words(7, 100), first[0])
    assert greedy(model, prompt, second[0], second[1]) == expected
    assert answer(prefixes, kind, prompt) == (expected, 259)


def test_memory_stays_below_the_cap_and_the_newest_stay(kind: str) -> None:
    one = kept(kind)
    answer(one, kind, words(8, 200))
    prefixes = kept(kind, max_bytes=int(3.5 * one.nbytes))
    for seed in range(6):
        answer(prefixes, kind, words(100 + seed, 200))
        assert prefixes.nbytes <= 3.5 * one.nbytes
    assert answer(prefixes, kind, words(105, 200))[1] == 199
    assert answer(prefixes, kind, words(100, 200))[1] == 0
    prefixes.limit(0)
    assert prefixes.nbytes == 0
    assert answer(prefixes, kind, words(105, 200))[1] == 0


def test_a_prompt_larger_than_the_cap_keeps_its_beginning() -> None:
    one = kept("demo")
    answer(one, "demo", words(9, PAGE_TOKENS))
    prefixes = kept("demo", max_bytes=3 * one.nbytes)
    prompt = words(9, 8 * PAGE_TOKENS)
    expected = without("demo", prompt)
    answer(prefixes, "demo", prompt)
    tokens, taken = answer(prefixes, "demo", prompt)
    assert tokens == expected
    assert 0 < taken <= 3 * PAGE_TOKENS


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "mamba"])  # its caches do not tell what they read
def test_rows_that_read_less_than_they_say_are_not_kept(kind: str) -> None:
    prefixes, prompt = kept(kind), words(10, 100)
    model, new_caches = model_of(kind)
    caches = new_caches()
    read(model, prompt[:50], caches)
    prefixes.keep("", prompt, caches)
    assert prefixes.take("", prompt) is None


def test_short_prompts_are_not_worth_it(kind: str) -> None:
    prefixes = kept(kind)
    assert answer(prefixes, kind, [5])[1] == 0
    assert answer(prefixes, kind, [5, 6, 7])[1] == 0
    assert answer(prefixes, kind, [5, 6, 7])[1] == 0


@pytest.mark.parametrize("seed", range(2))
def test_random_trees_of_prompts_answer_as_without(kind: str, seed: int) -> None:
    chance = random.Random(f"{kind} {seed}")
    prefixes = kept(kind, max_bytes=chance.choice([1 << 19, 1 << 22, 1 << 28]))
    known = [words(200 + seed, 20)]
    expected: dict[tuple[int, ...], list[int]] = {}
    for _ in range(12):
        base = chance.choice(known)
        prompt = base[: chance.randrange(1, len(base) + 1)] + words(chance.randrange(5), chance.randrange(0, 150))
        if tuple(prompt) not in expected:
            expected[tuple(prompt)] = without(kind, prompt)
        tokens, taken = answer(prefixes, kind, prompt)
        assert tokens == expected[tuple(prompt)]
        assert taken < len(prompt)
        known.append([*prompt, *tokens])


def test_caches_that_do_not_take_back_what_they_held_are_not_kept() -> None:
    preload_blas()
    from mlx_lm.models.deepseek_v41 import LayerCache

    from node.models.engine.prefix_rows import RowPlan

    assert RowPlan.of([LayerCache(8)]) is None
