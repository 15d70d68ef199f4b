"""Attention, sigmoid, rotation, RMS norm and log-sum-exp as MLX computes them, faster on a CPU; a GPU is left alone.

Measured on x86-64 with MLX 0.32: an exponential takes 13 ns a number, because it is computed one by one, and a power of
two 7.5 ns; a rotation computes the same sines again for each layer; each operation takes 4 us however little it
computes, so that one product that scales and adds is better than three operations. What is computed here differs from
MLX's own by no more than float32 rounds. Small arrays stay with MLX, where one call costs less than several.
"""

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, Final, NamedTuple

import mlx.core as mx

_mx: Final[Any] = mx
_LOG2_E: Final = math.log2(math.e)
# From so many numbers on, several calls without an exponential are faster than one with it.
_MANY: Final = 4096
_HEAD_AXES: Final = 4  # batch, heads, tokens, numbers of a head


class _Functions(NamedTuple):
    """What is computed here or by MLX; mlx-lm calls it by its names in `mlx.core`, and so it is replaced there."""

    attention: Any
    sigmoid: Any
    rope: Any
    rms_norm: Any
    logsumexp: Any

    @classmethod
    def in_place(cls) -> "_Functions":
        """Return the functions that are called now."""
        fast = _mx.fast
        return cls(fast.scaled_dot_product_attention, _mx.sigmoid, fast.rope, fast.rms_norm, _mx.logsumexp)

    def put_in_place(self) -> None:
        """Have these called from now on."""
        _mx.fast.scaled_dot_product_attention, _mx.sigmoid = self.attention, self.sigmoid
        _mx.fast.rope, _mx.fast.rms_norm, _mx.logsumexp = self.rope, self.rms_norm, self.logsumexp


_MLX: Final = _Functions.in_place()


class _Newest:
    """The value that was made last, for what is asked again and again for the same key: once for every layer."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Hold no value."""
        self._names: tuple[object, ...] = ()
        self._key: tuple[object, ...] = ()
        self._value: Any = None

    def get(self, key: tuple[object, ...], make: Callable[[], Any]) -> Any:
        """Return the value for `key`, in which an array stands for itself and not for its numbers."""
        names = tuple(id(part) if isinstance(part, mx.array) else part for part in key)
        if names != self._names:
            self._names, self._key, self._value = names, key, make()
        return self._value


class _Angles(_Newest):
    """Cosines and sines of the places that are rotated to, once for queries and keys of every layer where possible.

    An array of places may be written in place from one token to the next, so that it cannot stand for itself: only
    `steady` can, which is nobody's to write. A number always stands for one place.
    """

    def __init__(self) -> None:
        super().__init__()
        self._steady: Any = None

    def begin(self, steady: mx.array | None) -> None:
        """A forward pass begins, in which `steady` keeps its numbers."""
        self.forget()
        self._steady = steady

    def at(self, dims: int, base: float | None, scale: float, offset: Any, freqs: Any) -> tuple[Any, Any]:
        """Return what `_angles` does."""
        key = (dims, base, scale, offset, freqs)
        if isinstance(offset, mx.array) and offset is not self._steady:
            return _angles(*key)
        found: tuple[Any, Any] = self.get(key, lambda: _angles(*key))
        return found


_newest_mask: Final = _Newest()
_newest_angles: Final = _Angles()


def speed_up_cpu() -> None:
    """Have MLX compute with the functions of this file from now on, in this process, where it computes on a CPU."""
    if sys.platform == "linux" and mx.default_device() == mx.cpu:
        _Functions(attention, sigmoid, rotate, rms_norm, logsumexp).put_in_place()


def begin_pass(places: mx.array | None) -> None:
    """Say that a forward pass begins, and which array holds the places of its rows all through it, if one does."""
    _newest_angles.begin(places)


@contextmanager
def as_mlx_does() -> Iterator[None]:
    """Have MLX compute with its own functions for the body: to compare with."""
    before = _Functions.in_place()
    _MLX.put_in_place()
    try:
        yield
    finally:
        before.put_in_place()


def attention(queries: Any, keys: Any, values: Any, *, scale: float, mask: Any = None, **more: Any) -> Any:
    """Return what `mx.fast.scaled_dot_product_attention` returns, for arrays of the same shapes.

    Queries (batch, heads, tokens, numbers), keys and values (batch, their heads, all tokens, numbers); the mask is
    `"causal"`, or spread to (batch, heads, tokens, all tokens): what may be seen, or what is added.
    """
    rows, heads, tokens, _ = queries.shape
    plain = queries.dtype == mx.float32 and not any(each is not None for each in more.values())
    known = mask is None or isinstance(mask, str) or mask.ndim in (2, _HEAD_AXES)
    if not (plain and known) or rows * heads * tokens * keys.shape[2] < _MANY:
        return _MLX.attention(queries, keys, values, scale=scale, mask=mask, **more)
    scores = _scores(queries, keys, scale, mask)
    weights = _mx.power(2.0, scores - scores.max(axis=-1, keepdims=True))
    found = (weights @ values) / weights.sum(axis=-1, keepdims=True)
    return found.reshape(rows, heads, tokens, values.shape[-1])


def sigmoid(numbers: Any, **more: Any) -> Any:
    """Return what `mx.sigmoid` returns."""
    if more or numbers.dtype != mx.float32 or numbers.size < _MANY:
        return _MLX.sigmoid(numbers, **more)
    return 1.0 / (1.0 + _mx.power(2.0, numbers * -_LOG2_E))


def rotate(
    numbers: Any,
    dims: int,
    *,
    traditional: bool,
    base: float | None,
    scale: float,
    offset: Any,
    freqs: Any = None,
    **more: Any,
) -> Any:
    """Return what `mx.fast.rope` returns; the sines of one place are computed once for all layers: see `begin_pass`."""
    one_token = numbers.ndim == _HEAD_AXES and numbers.shape[2] == 1 and numbers.shape[3] == dims
    if more or traditional or not one_token or numbers.dtype != mx.float32:
        return _MLX.rope(
            numbers, dims, traditional=traditional, base=base, scale=scale, offset=offset, freqs=freqs, **more
        )
    cosines, sines = _newest_angles.at(dims, base, scale, offset, freqs)
    return numbers * cosines + _mx.roll(numbers, dims // 2, axis=-1) * sines


def rms_norm(numbers: Any, weight: Any, eps: float, **more: Any) -> Any:
    """Return what `mx.fast.rms_norm` returns."""
    if more or weight is None or numbers.dtype != mx.float32 or weight.dtype != mx.float32:
        return _MLX.rms_norm(numbers, weight, eps, **more)
    mean, least = _mean_of(numbers.shape[-1]), _number(eps)
    return numbers * _mx.rsqrt(_mx.addmm(least, mx.square(numbers), mean)) * weight


def logsumexp(numbers: Any, axis: Any = None, keepdims: bool = False, **more: Any) -> Any:
    """Return what `mx.logsumexp` returns."""
    if more or axis != -1 or numbers.dtype != mx.float32 or numbers.size < _MANY:
        return _MLX.logsumexp(numbers, axis=axis, keepdims=keepdims, **more)
    most = numbers.max(axis=-1, keepdims=True)
    found = most + mx.log(_mx.power(2.0, (numbers - most) * _LOG2_E).sum(axis=-1, keepdims=True))
    return found if keepdims else found.squeeze(-1)


@cache
def _mean_of(count: int) -> Any:
    """Return the column by which a row of `count` numbers is multiplied for their mean."""
    return mx.full((count, 1), 1.0 / count)


@cache
def _number(value: float) -> Any:
    return mx.array(value)


def _scores(queries: Any, keys: Any, scale: float, mask: Any) -> Any:
    """Return how much each token looks at each, as exponents of two: (batch, heads of keys, rest, all tokens)."""
    rows, heads, tokens, width = queries.shape
    key_heads, seen = keys.shape[1], keys.shape[2]
    # All heads that share keys are one product.
    together, turned = queries.reshape(rows, key_heads, -1, width), keys.swapaxes(-1, -2)
    if mask is None:
        return (together * (scale * _LOG2_E)) @ turned
    key = (mask, tokens, seen)
    added = _newest_mask.get(key, lambda: _added(*key))
    if tokens == 1:
        if added.ndim == _HEAD_AXES and added.shape[1] > 1:
            added = added.reshape(added.shape[0], key_heads, -1, seen)
        return _mx.addmm(added, together, turned, alpha=scale * _LOG2_E)
    if added.ndim == _HEAD_AXES:
        groups = key_heads if added.shape[1] > 1 else 1
        added = added.reshape(added.shape[0], groups, -1, *added.shape[2:])
    scores = (together * (scale * _LOG2_E)) @ turned
    apart = (rows, key_heads, heads // key_heads, tokens, seen)
    return (scores.reshape(apart) + added).reshape(scores.shape)


def _added(mask: Any, tokens: int, seen: int) -> Any:
    """Return the mask as what is added to scores for powers of two."""
    if isinstance(mask, str):
        mask = mx.arange(seen - tokens, seen)[:, None] >= mx.arange(seen)
    return mx.where(mask, 0.0, -math.inf) if mask.dtype == mx.bool_ else mask * _LOG2_E


def _angles(dims: int, base: float | None, scale: float, offset: Any, freqs: Any) -> tuple[Any, Any]:
    """Return by what the numbers of one token and those half way round are multiplied to turn them.

    Cosines, and sines with their signs, each of shape (dims,), or (rows, 1, 1, dims) for many rows.
    """
    half = dims // 2
    if freqs is not None:
        turns = _mx.reciprocal(freqs)
    else:
        assert base is not None
        turns = _mx.exp(mx.arange(half) * (-math.log(base) / half))
    place = offset
    if isinstance(offset, mx.array):
        place = offset.astype(mx.float32)
        if offset.ndim:
            place = place[:, None, None, None]
    angles = (place * scale) * turns
    cosines, sines = mx.cos(angles), mx.sin(angles)
    return mx.concatenate([cosines, cosines], axis=-1), mx.concatenate([-sines, sines], axis=-1)
