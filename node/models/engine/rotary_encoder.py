"""Encoders that turn queries and keys by their places, in MLX: token ids in, one vector for each token out."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from node.models.engine.encoder import ACTIVATION_CODE, attend
from node.models.engine.encoder_weights import load_weights
from node.models.engine.rotary_shape import RotaryShape, read_rotary_shape

Tokens = npt.NDArray[np.int32]


class RotaryEncoder:
    """An encoder whose weights are in memory."""

    def __init__(self, shape: RotaryShape, weights: Mapping[str, mx.array]) -> None:
        self.shape = shape
        self._weights = dict(weights)
        self._activation = ACTIVATION_CODE[shape.activation]

    @classmethod
    def load(cls, directory: Path, model_type: str, config: Mapping[str, Any]) -> "RotaryEncoder":
        """Return the encoder in `directory`.

        Raises:
            ModelRefused: a tensor is missing, of another shape, or none of this architecture's.
        """
        shape = read_rotary_shape(model_type, config)
        return cls(shape, load_weights(directory, shape, config))

    def __call__(self, tokens: Tokens, lengths: Tokens, pulse: Callable[[], None]) -> mx.array:
        """Return the vectors of each row's tokens; see `Encoder`."""
        x = self._weights["word.weight"][mx.array(tokens)]
        if self.shape.types:
            x = x + self._weights["type.weight"][0]
        x = self._norm("norm", x)
        masks = _masks(tokens.shape[1], lengths, frozenset(self.shape.reaches))
        for layer, (base, reach) in enumerate(zip(self.shape.bases, self.shape.reaches, strict=True)):
            pulse()
            x = self._layer(layer, x, base, masks[reach])
            mx.eval(x)
        return self._norm("last", x) if self.shape.normalises_first else x

    def _layer(self, layer: int, x: mx.array, base: float, mask: mx.array | None) -> mx.array:
        if self.shape.normalises_first:
            x = x + self._attention(layer, self._norm(f"{layer}.norm1", x) if layer else x, base, mask)
            return x + self._gated(layer, self._norm(f"{layer}.norm2", x))
        x = self._norm(f"{layer}.norm1", x + self._attention(layer, x, base, mask))
        return self._norm(f"{layer}.norm2", x + self._gated(layer, x))

    def _attention(self, layer: int, x: mx.array, base: float, mask: mx.array | None) -> mx.array:
        rows, longest, hidden = x.shape
        heads = self.shape.heads
        size = hidden // heads
        parts = self._linear(f"{layer}.turned", x).reshape(rows, longest, 3, heads, size).transpose(2, 0, 3, 1, 4)
        query, key = (
            mx.fast.rope(part, size, traditional=False, base=base, scale=1.0, offset=0) for part in (parts[0], parts[1])
        )
        seen = attend(query, key, parts[2], mask, None)
        return self._linear(f"{layer}.out", seen.transpose(0, 2, 1, 3).reshape(rows, longest, hidden))

    def _gated(self, layer: int, x: mx.array) -> mx.array:
        if f"{layer}.gates.weight" in self._weights:
            gate, up = mx.split(self._linear(f"{layer}.gates", x), 2, axis=-1)
        else:
            gate, up = self._linear(f"{layer}.gate", x), self._linear(f"{layer}.up", x)
        return self._linear(f"{layer}.down", self._activation(gate) * up)

    def _linear(self, part: str, x: mx.array) -> mx.array:
        return x @ self._weights[f"{part}.weight"].T

    def _norm(self, part: str, x: mx.array) -> mx.array:
        weight, bias = self._weights[f"{part}.weight"], self._weights.get(f"{part}.bias")
        return mx.fast.layer_norm(x, weight, bias, self.shape.epsilon)


def _masks(longest: int, lengths: Tokens, reaches: frozenset[int | None]) -> dict[int | None, mx.array | None]:
    """Return which keys each query may see, for each reach; None for all of them."""
    places = np.arange(longest)
    inside = (places[None, :] < lengths[:, None])[:, None, None, :]
    masks: dict[int | None, mx.array | None] = {}
    for reach in reaches:
        if reach is None or reach >= longest:
            masks[reach] = None if inside.all() else mx.array(inside)
        else:
            near = np.abs(places[:, None] - places[None, :]) <= reach
            # A place that only fills up still sees itself: a row without anything to see has no numbers.
            masks[reach] = mx.array((inside | np.eye(longest, dtype=bool)) & near)
    return masks
