"""Vectors of tokens becoming one vector of a text, of length 1."""

from collections.abc import Callable
from typing import Any, Final, Protocol

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from node.models.engine.caches import make_row_caches
from node.models.engine.encoder import Encoder
from node.models.engine.rotary_encoder import RotaryEncoder
from node.models.engine.sentences import Pooling
from node.models.errors import ModelRefused

Tokens = npt.NDArray[np.int32]
Pulse = Callable[[], None]
SMALLEST_LENGTH: Final = 1e-12
# Caches grow by so many tokens.
CACHE_STEP: Final = 256


class Reader(Protocol):
    """A model that reads rows of tokens. It takes at most `batch_tokens` at once, filling included."""

    @property
    def batch_tokens(self) -> int:
        """How many tokens it reads at once, the filling of shorter rows included; one longer row goes alone."""

    def read(self, tokens: Tokens, lengths: Tokens, pooling: Pooling, pulse: Pulse) -> mx.array:
        """Return one vector for each row, in 32-bit floats. `pulse` is called now and then and may raise."""


class EncoderReader:
    """An encoder, which sees each row as a whole."""

    batch_tokens: Final = 2048

    def __init__(self, encoder: Encoder | RotaryEncoder) -> None:
        self._encoder = encoder

    def read(self, tokens: Tokens, lengths: Tokens, pooling: Pooling, pulse: Pulse) -> mx.array:
        """See `Reader`."""
        gathered = Gathered(pooling, lengths)
        gathered.add(self._encoder(tokens, lengths, pulse))
        return gathered.result()


class DecoderReader:
    """A decoder without its head: rows that fit are read together, a longer one alone and in steps."""

    batch_tokens: Final = 512

    def __init__(self, trunk: Any) -> None:
        self._trunk = trunk

    def token_bytes(self) -> int:
        """Return what one token of a long row takes while it is read."""
        caches = make_row_caches(self._trunk)
        self._trunk.model(mx.zeros((1, 1), dtype=mx.int32), cache=caches)
        return sum(int(cache.nbytes) // CACHE_STEP for cache in caches)

    def read(self, tokens: Tokens, lengths: Tokens, pooling: Pooling, pulse: Pulse) -> mx.array:
        """See `Reader`. A token sees only those before it, so what fills up a row changes nothing."""
        gathered = Gathered(pooling, lengths)
        longest = tokens.shape[1]
        caches = make_row_caches(self._trunk) if longest > self.batch_tokens else None
        for first in range(0, longest, self.batch_tokens):
            pulse()
            step = mx.array(tokens[:, first : first + self.batch_tokens])
            gathered.add(self._trunk.model(step, cache=caches))
            mx.eval(gathered.result(), *[cache.state for cache in caches or ()])
        return gathered.result()


class Gathered:
    """What is kept of the vectors of each row's tokens, which come step by step."""

    def __init__(self, pooling: Pooling, lengths: Tokens) -> None:
        self._pooling = pooling
        self._lengths = lengths
        self._seen = 0
        self._kept: mx.array | None = None

    def add(self, vectors: mx.array) -> None:
        """Take the vectors of the next tokens, shape (rows, tokens, hidden)."""
        vectors = vectors.astype(mx.float32)
        count = vectors.shape[1]
        places = np.arange(self._seen, self._seen + count)
        inside = mx.array(places[None, :] < self._lengths[:, None])[..., None]
        ends = mx.array(places[None, :] == self._lengths[:, None] - 1)[..., None]
        match self._pooling:
            case Pooling.MEAN:
                self._merge(mx.where(inside, vectors, 0.0).sum(axis=1), mx.add)
            case Pooling.MAX:
                self._merge(mx.where(inside, vectors, -mx.inf).max(axis=1), mx.maximum)
            case Pooling.LAST:
                self._merge(mx.where(ends, vectors, 0.0).sum(axis=1), mx.add)
            case Pooling.CLS:
                self._merge(vectors[:, 0], lambda first, _: first)
        self._seen += count

    def result(self) -> mx.array:
        """Return the vector of each row, of whatever length."""
        assert self._kept is not None, "no row is empty"
        if self._pooling is Pooling.MEAN:
            return self._kept / mx.array(self._lengths)[:, None].astype(mx.float32)
        return self._kept

    def _merge(self, found: mx.array, merge: Callable[[mx.array, mx.array], mx.array]) -> None:
        self._kept = found if self._kept is None else merge(self._kept, found)


def unit_vectors(vectors: mx.array) -> npt.NDArray[np.float32]:
    """Return `vectors` scaled to length 1.

    Raises:
        ModelRefused: a value is no number.
    """
    found = np.array(vectors, dtype=np.float32)
    if not np.isfinite(found).all():
        raise ModelRefused("it computes values that are no numbers")
    lengths = np.linalg.norm(found.astype(np.float64), axis=1, keepdims=True)
    scaled: npt.NDArray[np.float32] = (found / np.maximum(lengths, SMALLEST_LENGTH)).astype(np.float32)
    return scaled
