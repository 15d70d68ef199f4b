"""Encoders of the BERT kind in MLX: token ids in, one vector for each token out, computed layer by layer.

Weights keep the names that their publishers gave them, and must be exactly those that the architecture has.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import numpy.typing as npt

from node.models.engine.encoder_shape import EncoderShape, read_shape
from node.models.engine.encoder_weights import load_weights

# mlx publishes no types for these.
_nn: Final[Any] = nn
# Scores of one attention step, in bytes: longer texts are attended to in pieces.
SCORE_BYTES: Final = 32 << 20
# How the distance of two tokens becomes one of the buckets: far ones share one.
FAR: Final = 128
ACTIVATION_CODE: Final[Mapping[str, Callable[[mx.array], mx.array]]] = {
    "gelu": _nn.gelu,
    "gelu_new": _nn.gelu_approx,
    "gelu_pytorch_tanh": _nn.gelu_approx,
    "relu": _nn.relu,
    "silu": _nn.silu,
}
Tokens = npt.NDArray[np.int32]


class Stopped(Exception):
    """Nobody waits for this batch any more."""


class Encoder:
    """An encoder whose weights are in memory."""

    def __init__(self, shape: EncoderShape, weights: Mapping[str, mx.array]) -> None:
        self.shape = shape
        self._weights = dict(weights)
        self._activation = ACTIVATION_CODE[shape.activation]

    @classmethod
    def load(cls, directory: Path, model_type: str, config: Mapping[str, Any]) -> "Encoder":
        """Return the encoder in `directory`.

        Raises:
            ModelRefused: a tensor is missing, of another shape, or none of this architecture's.
        """
        shape = read_shape(model_type, config)
        return cls(shape, load_weights(directory, shape, config))

    def __call__(self, tokens: Tokens, lengths: Tokens, pulse: Callable[[], None]) -> mx.array:
        """Return the vectors of each row's tokens, shape (rows, longest, hidden), ready in memory.

        Rows shorter than the longest are filled up at their end; what is returned there means nothing. `pulse` is
        called between layers and may raise to stop the work.
        """
        longest = tokens.shape[1]
        inside = np.arange(longest)[None, :] < lengths[:, None]
        x = self._embedded(tokens, inside)
        mask = None if bool(inside.all()) else mx.array(inside)[:, None, None, :]
        bias = self._distances(longest, x.dtype)
        for layer in range(self.shape.layers):
            pulse()
            x = self._layer(layer, x, mask, bias)
            mx.eval(x)
        return x

    def _embedded(self, tokens: Tokens, inside: npt.NDArray[np.bool_]) -> mx.array:
        places = np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape)
        if self.shape.family.padded:
            # Tokens that pad stand at the padding's own place, also where a client wrote them into its text.
            counted = inside & (tokens != self.shape.padding)
            places = np.cumsum(counted, axis=1) * counted + self.shape.padding
        x = self._weights["word.weight"][mx.array(tokens)] + self._weights["position.weight"][mx.array(places)]
        if self.shape.types:
            x = x + self._weights["type.weight"][0]
        return self._norm("norm", x)

    def _layer(self, layer: int, x: mx.array, mask: mx.array | None, bias: mx.array | None) -> mx.array:
        x = self._norm(f"{layer}.norm1", x + self._attention(layer, x, mask, bias))
        inner = self._activation(self._linear(f"{layer}.up", x))
        return self._norm(f"{layer}.norm2", x + self._linear(f"{layer}.down", inner))

    def _attention(self, layer: int, x: mx.array, mask: mx.array | None, bias: mx.array | None) -> mx.array:
        rows, longest, hidden = x.shape
        heads = self.shape.heads

        def divided(part: str) -> mx.array:
            whole = self._linear(f"{layer}.{part}", x)
            return whole.reshape(rows, longest, heads, hidden // heads).transpose(0, 2, 1, 3)

        query, key, value = divided("query"), divided("key"), divided("value")
        seen = attend(query, key, value, mask, bias)
        return self._linear(f"{layer}.out", seen.transpose(0, 2, 1, 3).reshape(rows, longest, hidden))

    def _distances(self, longest: int, dtype: mx.Dtype) -> mx.array | None:
        if not self.shape.buckets:
            return None
        places = np.arange(longest)
        buckets = distance_buckets(places[None, :] - places[:, None], self.shape.buckets)
        return self._weights["bias.weight"][mx.array(buckets)].transpose(2, 0, 1)[None].astype(dtype)

    def _linear(self, part: str, x: mx.array) -> mx.array:
        return mx.addmm(self._weights[f"{part}.bias"], x, self._weights[f"{part}.weight"].T)

    def _norm(self, part: str, x: mx.array) -> mx.array:
        weight, bias = self._weights[f"{part}.weight"], self._weights[f"{part}.bias"]
        return mx.fast.layer_norm(x, weight, bias, self.shape.epsilon)


def attend(query: mx.array, key: mx.array, value: mx.array, mask: mx.array | None, bias: mx.array | None) -> mx.array:
    """Return what each query sees, shape (rows, heads, tokens, size); long rows piece by piece.

    `mask` says which keys may be seen, `bias` is added to the scores; both have rows of queries, or one for all.
    """
    rows, heads, longest, size = query.shape
    step = max(1, SCORE_BYTES // (4 * rows * heads * longest))
    pieces = []
    for first in range(0, longest, step):
        allowed = _allowed(mask, bias, slice(first, first + step))
        asked = query[:, :, first : first + step]
        pieces.append(mx.fast.scaled_dot_product_attention(asked, key, value, scale=size**-0.5, mask=allowed))
        if step < longest:
            mx.eval(pieces[-1])
    return pieces[0] if len(pieces) == 1 else mx.concatenate(pieces, axis=2)


def distance_buckets(distances: npt.NDArray[np.int64], buckets: int) -> npt.NDArray[np.int32]:
    """Return the bucket of each distance (key's place minus query's): half for each direction, near ones exact."""
    half = buckets // 2
    exact = max(1, half // 2)
    away = np.abs(distances)
    far = exact + (np.log(np.maximum(away, 1) / exact) / np.log(FAR / exact) * (half - exact)).astype(np.int64)
    bucket = np.where(away < exact, away, np.minimum(far, half - 1)) + np.where(distances > 0, half, 0)
    return bucket.astype(np.int32)


def _allowed(mask: mx.array | None, bias: mx.array | None, asked: slice) -> mx.array | None:
    if mask is not None and mask.shape[2] > 1:
        mask = mask[:, :, asked]
    if bias is None:
        return mask
    piece = bias[:, :, asked]
    return piece if mask is None else mx.where(mask, piece, mx.array(-mx.inf, piece.dtype))
