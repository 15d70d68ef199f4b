"""What is computed in place of MLX's own functions on a CPU gives the same numbers, to what float32 rounds."""

from typing import Any

import numpy as np
import pytest

from node.models.blas import preload_blas
from node.models.demo import demo_directory

pytestmark = pytest.mark.model
CLOSE = 3e-6


@pytest.fixture(scope="module", autouse=True)
def fast_blas() -> None:
    preload_blas()


def numbers(*axes: int, seed: int = 0, scale: float = 1.0) -> Any:
    import mlx.core as mx

    return mx.array(np.random.default_rng(seed).normal(scale=scale, size=axes).astype(np.float32))


def assert_close(ours: Any, theirs: Any, close: float = CLOSE) -> None:
    assert ours.shape == theirs.shape
    assert ours.dtype == theirs.dtype
    np.testing.assert_allclose(np.array(ours), np.array(theirs), rtol=close, atol=close)


def left_padding(rows: int, seen: int) -> Any:
    import mlx.core as mx

    return (mx.arange(seen) >= mx.arange(rows)[:, None])[:, None, None, :]


MASKS: dict[str, Any] = {
    "none": lambda rows, tokens, seen: None,
    "causal": lambda rows, tokens, seen: "causal",
    "of padding": lambda rows, tokens, seen: left_padding(rows, seen),
    "of two axes": lambda rows, tokens, seen: numbers(tokens, seen) > -1.0,
    "added": lambda rows, tokens, seen: numbers(rows, 1, tokens, seen, seed=5),
    "added for each head": lambda rows, tokens, seen: numbers(rows, 8, tokens, seen, seed=6),
}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize(("rows", "tokens", "seen"), [(1, 1, 700), (4, 1, 300), (16, 1, 151), (2, 70, 100), (1, 5, 3)])
def test_attention_is_that_of_mlx(rows: int, tokens: int, seen: int, mask: str) -> None:
    import mlx.core as mx

    from node.models.engine.cpu_math import as_mlx_does, attention

    seen = max(seen, tokens)
    queries = numbers(rows, tokens, 8, 64, seed=1, scale=3.0).transpose(0, 2, 1, 3)
    keys, values = (numbers(rows, 4, seen + 9, 64, seed=seed)[..., :seen, :] for seed in (2, 3))
    given = MASKS[mask](rows, tokens, seen)
    ours = attention(queries, keys, values, scale=0.125, mask=given)
    with as_mlx_does():
        theirs = mx.fast.scaled_dot_product_attention(queries, keys, values, scale=0.125, mask=given)
    assert_close(ours, theirs, 2e-5)


def test_one_mask_after_the_other() -> None:
    from node.models.engine.cpu_math import attention

    queries, keys = numbers(1, 8, 1, 64), numbers(1, 8, 600, 64, seed=1)
    first, second = numbers(1, 1, 1, 600, seed=2) > 0, numbers(1, 1, 1, 600, seed=3) > 0
    alone = attention(queries, keys, keys, scale=1.0, mask=second)
    attention(queries, keys, keys, scale=1.0, mask=first)
    assert_close(attention(queries, keys, keys, scale=1.0, mask=second), alone)


@pytest.mark.parametrize("count", [3, 4095, 4096, 24_576])
def test_sigmoid_is_that_of_mlx(count: int) -> None:
    import mlx.core as mx

    from node.models.engine.cpu_math import as_mlx_does, sigmoid

    given = mx.concatenate([numbers(count - 3, scale=8.0), mx.array([-1e4, 1e4, float("nan")])])
    with as_mlx_does():
        theirs = mx.sigmoid(given)
    assert_close(sigmoid(given), theirs)


@pytest.mark.parametrize("tokens", [1, 6])
@pytest.mark.parametrize("scale", [1.0, 0.25])
@pytest.mark.parametrize("offset", [0, 7, 1900, "rows"])
@pytest.mark.parametrize("kind", ["base", "frequencies", "in part", "pairs"])
def test_rotation_is_that_of_mlx(tokens: int, scale: float, offset: Any, kind: str) -> None:
    import mlx.core as mx

    from node.models.engine.cpu_math import as_mlx_does, rotate

    given = numbers(3, tokens, 4, 64).transpose(0, 2, 1, 3)
    if offset == "rows":
        offset = mx.array([5, -2, 900])
    wishes = {"traditional": kind == "pairs", "base": 10_000.0, "scale": scale, "offset": offset}
    if kind == "frequencies":
        wishes |= {"base": None, "freqs": mx.arange(1, 33).astype(mx.float32) ** 2}
    dims = 32 if kind == "in part" else 64
    ours = [rotate(given, dims, **wishes) for _ in range(2)]
    with as_mlx_does():
        theirs = mx.fast.rope(given, dims, **wishes)
    for each in ours:  # the second time with what the first one left
        assert_close(each, theirs, 3e-4)


def test_an_offset_that_is_written_in_place_is_another_place() -> None:
    import mlx.core as mx

    from node.models.engine.cpu_math import as_mlx_does, rotate

    given, offset = numbers(2, 4, 1, 64), mx.array([5, 9])
    wishes: dict[str, Any] = {"traditional": False, "base": 10_000.0, "scale": 1.0, "offset": offset}
    rotate(given, 64, **wishes)
    offset += 3
    with as_mlx_does():
        theirs = mx.fast.rope(given, 64, **wishes)
    assert_close(rotate(given, 64, **wishes), theirs, 3e-4)


def test_an_array_that_keeps_its_numbers_is_rotated_to_alike_in_every_layer() -> None:
    import mlx.core as mx

    from node.models.engine.cpu_math import as_mlx_does, begin_pass, rotate

    given, places = numbers(2, 4, 1, 64), mx.array([5, 9])
    wishes: dict[str, Any] = {"traditional": False, "base": 10_000.0, "scale": 1.0}
    for _ in range(2):  # one pass after the other, with the same array in between written in place
        begin_pass(places)
        ours = [rotate(given, 64, **wishes, offset=places) for _ in range(3)]
        with as_mlx_does():
            theirs = mx.fast.rope(given, 64, **wishes, offset=places)
        for each in ours:
            assert_close(each, theirs, 3e-4)
        places += 40
    begin_pass(None)


@pytest.mark.parametrize("axes", [(1, 1, 768), (16, 1, 12, 64), (2, 700, 96), (3, 5)])
@pytest.mark.parametrize("scale", [1.0, 1e-5, 1e5])
def test_rms_norm_is_that_of_mlx(axes: tuple[int, ...], scale: float) -> None:
    import mlx.core as mx

    from node.models.engine.cpu_math import as_mlx_does, rms_norm

    given, weight = numbers(*axes, scale=scale), numbers(axes[-1], seed=1)
    with as_mlx_does():
        theirs = mx.fast.rms_norm(given, weight, 1e-6)
    assert_close(rms_norm(given, weight, 1e-6), theirs, 1e-5)


@pytest.mark.parametrize("axes", [(8, 2048), (1, 50_000), (3, 5)])
@pytest.mark.parametrize("scale", [1.0, 30.0])
@pytest.mark.parametrize("keepdims", [True, False])
def test_logarithms_of_sums_are_those_of_mlx(axes: tuple[int, ...], scale: float, keepdims: bool) -> None:
    import mlx.core as mx

    from node.models.engine.cpu_math import as_mlx_does, logsumexp

    given = numbers(*axes, scale=scale)
    with as_mlx_does():
        theirs = mx.logsumexp(given, axis=-1, keepdims=keepdims)
    assert_close(logsumexp(given, axis=-1, keepdims=keepdims), theirs, 2e-5)


def test_half_precision_and_sinks_stay_with_mlx() -> None:
    import mlx.core as mx

    from node.models.engine.cpu_math import as_mlx_does, attention, logsumexp, rms_norm, sigmoid

    queries, keys = numbers(1, 8, 1, 64), numbers(1, 8, 600, 64, seed=1)
    sinks = numbers(8, seed=2)
    half = numbers(9000).astype(mx.float16)
    with as_mlx_does():
        wanted = mx.fast.scaled_dot_product_attention(queries, keys, keys, scale=1.0, mask=None, sinks=sinks)
        wanted_half = mx.sigmoid(half)
        wanted_norm = mx.fast.rms_norm(half, None, 1e-6)
        wanted_sum = mx.logsumexp(half, axis=-1)
    assert mx.array_equal(attention(queries, keys, keys, scale=1.0, sinks=sinks), wanted)
    assert mx.array_equal(sigmoid(half), wanted_half)
    assert mx.array_equal(rms_norm(half, None, 1e-6), wanted_norm)
    assert mx.array_equal(logsumexp(half, axis=-1), wanted_sum)


def test_a_model_uses_them_and_answers_alike() -> None:
    import mlx.core as mx

    from node.models.engine import cpu_math
    from node.models.engine.cpu_math import as_mlx_does
    from node.models.engine.engine import Engine

    engine = Engine.load(demo_directory())
    used: Any = mx.fast.scaled_dot_product_attention
    if mx.default_device() == mx.cpu:
        assert used is cpu_math.attention
    prompt = mx.array([engine.encode_prompt("Which animal is the fastest on land, and why? " * 20)])
    ours = engine.model(prompt, cache=engine.row_maker(0)())
    with as_mlx_does():
        theirs = engine.model(prompt, cache=engine.row_maker(0)())
    assert_close(ours, theirs, 2e-3)
    assert mx.array_equal(mx.argmax(ours, axis=-1), mx.argmax(theirs, axis=-1))
