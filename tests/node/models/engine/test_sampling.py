"""How tokens are chosen: the sets that options leave, the shares of draws, and numbers that are a request's own."""

from typing import Any

import numpy as np
import pytest

from node.models.blas import preload_blas
from protocol.worker.messages import Sampling

pytestmark = pytest.mark.model
WIDTH = 50


@pytest.fixture(scope="module", autouse=True)
def fast_blas() -> None:
    preload_blas()


def chosen(
    logits: "np.typing.NDArray[np.float32]", wishes: list[Sampling], numbers: range, masks: list[Any] | None = None
) -> "np.typing.NDArray[np.int64]":
    """Which tokens each of `wishes` gets at the places `numbers` of its answer, from the same logits."""
    import mlx.core as mx

    from node.models.engine.sampling import Choice, Place

    found = []
    for number in numbers:
        places = [Place(wish, [1, 2, 3], [], ahead=number) for wish in wishes]
        choice = Choice(places, logits.shape[-1])
        found.append(np.array(choice(mx.array(np.stack([logits] * len(wishes))), masks or ())))
    return np.stack(found, axis=1)


def logits_of(seed: int, width: int = WIDTH) -> "np.typing.NDArray[np.float32]":
    return np.random.default_rng(seed).normal(scale=2.0, size=width).astype(np.float32)


def shares(logits: "np.typing.NDArray[np.float32]", temperature: float) -> "np.typing.NDArray[np.float64]":
    weights = np.exp((logits.astype(np.float64) - logits.max()) / temperature)
    return np.asarray(weights / weights.sum())


def allowed(logits: "np.typing.NDArray[np.float32]", wish: Sampling) -> set[int]:
    """What the options leave, in plain numpy."""
    order = np.argsort(-logits)
    if 0 < wish.top_k < len(logits):
        order = order[: wish.top_k]
    chances = shares(logits[order], wish.temperature)
    before = np.cumsum(chances) - chances
    kept = ((before < wish.top_p) | (wish.top_p >= 1)) & (chances >= wish.min_p * chances[0])
    kept[0] = True
    return set(order[kept].tolist())


@pytest.mark.parametrize(
    "narrow",
    [
        {"top_k": 0, "top_p": 1.0},
        {"top_k": 5, "top_p": 1.0},
        {"top_k": 0, "top_p": 0.7},
        {"top_k": 20, "top_p": 0.5},
        {"top_k": 0, "top_p": 1.0, "min_p": 0.1},
        {"top_k": 10, "top_p": 0.9, "min_p": 0.2},
    ],
)
def test_draws_fall_on_what_the_options_leave_in_their_shares(narrow: dict[str, Any]) -> None:
    logits = logits_of(1)
    wishes = [Sampling(**{"temperature": 1.3, "seed": seed, **narrow}) for seed in range(50)]
    draws = chosen(logits, wishes, range(80)).ravel()
    left = sorted(allowed(logits, wishes[0]))
    assert set(draws.tolist()) <= set(left)
    wanted = shares(logits[left], 1.3)
    seen = np.array([(draws == token).mean() for token in left])
    assert np.abs(seen - wanted).max() < 5 * np.sqrt(0.25 / len(draws))


@pytest.mark.parametrize("top_p", [0.0, 0.003, 0.02, 0.07, 0.2, 0.5, 0.8, 0.9, 0.95, 0.999])
@pytest.mark.parametrize("spread", [0.05, 3.0])
def test_the_share_of_chances_is_kept_however_they_lie(top_p: float, spread: float) -> None:
    logits = logits_of(7, 3001) * np.float32(spread)
    wish = Sampling(temperature=1.0, top_k=0, top_p=top_p)
    left = np.array(sorted(allowed(logits, wish)))
    wishes = [Sampling(temperature=1.0, top_k=0, top_p=top_p, seed=seed) for seed in range(50)]
    draws = chosen(logits, wishes, range(60)).ravel()
    # Rounding may move the border by one token of many.
    assert np.isin(draws, left).mean() > 0.999
    # Of ten parts of what is left, likeliest first, each has its share: so none is drawn too often, or never.
    order = left[np.argsort(-logits[left])]
    for part in np.array_split(order, min(10, len(order))):
        wanted = shares(logits[left], 1.0)[np.isin(left, part)].sum()
        assert abs(np.isin(draws, part).mean() - wanted) < 5 * np.sqrt(0.25 / len(draws))


def test_rows_with_different_options_each_get_their_own() -> None:
    logits = logits_of(2)
    wishes = [
        Sampling(temperature=0.0),
        Sampling(temperature=2.0, top_k=3, top_p=1.0, seed=1),
        Sampling(temperature=2.0, top_k=0, top_p=0.6, seed=2),
        Sampling(temperature=2.0, top_k=9, top_p=1.0, min_p=0.3, seed=3),
        Sampling(temperature=2.0, top_k=0, top_p=1.0, seed=4),
        Sampling(temperature=2.0, top_k=0, top_p=0.95, seed=5),
        Sampling(temperature=2.0, top_k=5, top_p=0.9, seed=6),
        Sampling(temperature=2.0, top_k=5, top_p=0.3, min_p=0.05, seed=7),
    ]
    together = chosen(logits, wishes, range(60))
    for number, wish in enumerate(wishes):
        assert np.array_equal(together[number], chosen(logits, [wish], range(60))[0])
        if wish.temperature:
            assert set(together[number].tolist()) <= allowed(logits, wish)
    assert set(together[0].tolist()) == {int(logits.argmax())}


def test_a_mask_leaves_nothing_else_and_concerns_its_row_alone() -> None:
    logits = logits_of(3)
    mask = np.zeros(WIDTH, dtype=np.bool_)
    mask[[4, 17]] = True
    short = mask[:20].copy()
    wishes = [Sampling(temperature=5.0, seed=1), Sampling(temperature=0.0), Sampling(temperature=0.0)]
    found = chosen(logits, wishes, range(40), [mask, None, short])
    assert set(found[0].tolist()) == {4, 17}
    assert set(found[1].tolist()) == {int(logits.argmax())}
    assert set(found[2].tolist()) == {4 if logits[4] > logits[17] else 17}


def test_biases_count_before_everything() -> None:
    logits = logits_of(4)
    worst = int(logits.argmin())
    wishes = [
        Sampling(temperature=0.0, logit_bias=((worst, 100.0),)),
        Sampling(temperature=0.0, logit_bias=((int(logits.argmax()), -100.0),)),
        Sampling(temperature=0.0),
    ]
    found = chosen(logits, wishes, range(1))[:, 0].tolist()
    assert found == [worst, int(np.argsort(-logits)[1]), int(logits.argmax())]


def test_penalties_are_those_of_plain_arithmetic() -> None:
    import mlx.core as mx

    from node.models.engine.sampling import Choice, Place

    logits = logits_of(5)
    wish = Sampling(temperature=0.0, repeat_penalty=1.7, repeat_last_n=4, presence_penalty=0.4, frequency_penalty=0.3)
    place = Place(wish, [3, 4, 5, 6], generated := [])
    expected = logits.astype(np.float64).copy()
    for token in (7, 7, 8):
        generated.append(token)
        place.take(token)
    for token in {6, 7, 8}:
        expected[token] = expected[token] * 1.7 if expected[token] < 0 else expected[token] / 1.7
    for token, count in ((7, 2), (8, 1)):
        expected[token] -= 0.3 * count + 0.4
    plain = Place(Sampling(temperature=0.0), [1], [])
    adjusted: Any = Choice([place, plain], WIDTH)._adjusted(mx.array(np.stack([logits, logits])), [])
    assert np.allclose(np.array(adjusted[0]), expected, atol=1e-5)
    assert np.array_equal(np.array(adjusted[1]), logits)


def test_numbers_are_even_and_a_seeds_own() -> None:
    from node.models.engine.sampling import uniform

    numbers = np.array([[uniform(seed, place)[0] for place in range(200)] for seed in (*range(100), 2**64 - 1)])
    assert numbers.min() >= 0
    assert numbers.max() < 1
    shares_of_tenths = np.histogram(numbers, bins=10, range=(0, 1))[0] / numbers.size
    assert np.abs(shares_of_tenths - 0.1).max() < 0.01
    assert abs(np.corrcoef(numbers[0], numbers[1])[0, 1]) < 0.3
    assert len({round(float(number), 9) for number in numbers.ravel()}) > 0.98 * numbers.size
    assert [uniform(7, place) for place in range(3)] == [uniform(7, place) for place in range(3)]
    # Of specs/0015: whoever changes these changes every seeded answer.
    assert [round(uniform(42, place)[0] * 2**23) for place in range(3)] == [5000607, 1345242, 1395845]
    assert uniform(42, 1, 7)[:5] == uniform(42, 1, 5)
