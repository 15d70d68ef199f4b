"""Encoders of the BERT kind in MLX: token ids in, one vector for each token out, computed layer by layer.

Weights keep the names that their publishers gave them, and must be exactly those that the architecture has.
"""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import numpy.typing as npt

from node.models.engine.encoder_shape import EncoderShape, Shape, read_shape
from node.models.errors import ModelRefused

# mlx publishes no types for these.
_nn: Final[Any] = nn
# Scores of one attention step, in bytes: longer texts are attended to in pieces.
SCORE_BYTES: Final = 32 << 20
# How the distance of two tokens becomes one of the buckets: far ones share one.
FAR: Final = 128
_ACTIVATIONS: Final[Mapping[str, Callable[[mx.array], mx.array]]] = {
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
        self._activation = _ACTIVATIONS[shape.activation]

    @classmethod
    def load(cls, directory: Path, model_type: str, config: Mapping[str, Any]) -> "Encoder":
        """Return the encoder in `directory`.

        Raises:
            ModelRefused: a tensor is missing, of another shape, or none of this architecture's.
        """
        shape = read_shape(model_type, config)
        found: dict[str, mx.array] = {}
        for path in sorted(directory.glob("model*.safetensors")):
            found.update(_loaded(path))
        weights = _fitted(shape, _plain(shape, found, config))
        mx.eval(weights)
        return cls(shape, weights)

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
        scale = (hidden // heads) ** -0.5
        step = max(1, SCORE_BYTES // (4 * rows * heads * longest))
        pieces = []
        for first in range(0, longest, step):
            allowed = _allowed(mask, bias, slice(first, first + step))
            asked = query[:, :, first : first + step]
            pieces.append(mx.fast.scaled_dot_product_attention(asked, key, value, scale=scale, mask=allowed))
            if step < longest:
                mx.eval(pieces[-1])
        seen = pieces[0] if len(pieces) == 1 else mx.concatenate(pieces, axis=2)
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


def distance_buckets(distances: npt.NDArray[np.int64], buckets: int) -> npt.NDArray[np.int32]:
    """Return the bucket of each distance (key's place minus query's): half for each direction, near ones exact."""
    half = buckets // 2
    exact = max(1, half // 2)
    away = np.abs(distances)
    far = exact + (np.log(np.maximum(away, 1) / exact) / np.log(FAR / exact) * (half - exact)).astype(np.int64)
    bucket = np.where(away < exact, away, np.minimum(far, half - 1)) + np.where(distances > 0, half, 0)
    return bucket.astype(np.int32)


def _allowed(mask: mx.array | None, bias: mx.array | None, asked: slice) -> mx.array | None:
    if bias is None:
        return mask
    piece = bias[:, :, asked]
    return piece if mask is None else mx.where(mask, piece, mx.array(-mx.inf, piece.dtype))


def _loaded(path: Path) -> dict[str, mx.array]:
    found = mx.load(str(path))
    assert isinstance(found, dict), "safetensors files hold tensors by name"
    return found


def _plain(shape: EncoderShape, found: Mapping[str, mx.array], config: Mapping[str, Any]) -> dict[str, mx.array]:
    """Return the tensors under the names of the bare architecture, unpacked where they are packed."""
    prefix = shape.family.prefix
    plain: dict[str, mx.array] = {}
    for name, tensor in found.items():
        name = name.removeprefix(prefix).replace(".gamma", ".weight").replace(".beta", ".bias")
        if not name.startswith(shape.family.unused):
            plain[name] = tensor
    packing = config.get("quantization")
    if isinstance(packing, dict):
        _unpack(plain, packing)
    return plain


def _unpack(tensors: dict[str, mx.array], packing: Mapping[str, Any]) -> None:
    bits, group = packing.get("bits"), packing.get("group_size")
    if type(bits) is not int or type(group) is not int or packing.get("mode", "affine") != "affine":
        raise ModelRefused("config.json: this packing of an encoder's weights is not known here")
    for name in [name for name in tensors if name.endswith(".scales")]:
        part = name.removesuffix(".scales")
        scales, biases = tensors.pop(name), tensors.pop(f"{part}.biases", None)
        weight = tensors.get(f"{part}.weight")
        if weight is None or biases is None:
            raise ModelRefused(f"packed weights are incomplete: {part[:80]}")
        tensors[f"{part}.weight"] = mx.dequantize(weight, scales, biases, group_size=group, bits=bits)


def _fitted(shape: EncoderShape, found: dict[str, mx.array]) -> dict[str, mx.array]:
    wanted = shape.tensors()
    names = {name for name, _ in wanted.values()}
    if missing := sorted(names - found.keys()):
        raise ModelRefused(f"it lacks {len(missing)} tensors, {missing[0]} among them")
    if extra := sorted(found.keys() - names):
        raise ModelRefused(f"it has {len(extra)} tensors that its architecture has not, {extra[0][:80]} among them")
    for name, size in wanted.values():
        _require_shape(name, found[name], size)
    # On CPUs half precision is emulated; elsewhere the type of the words' vectors is that of all the others.
    on_cpu = sys.platform == "linux" and mx.default_device() == mx.cpu
    dtype = mx.float32 if on_cpu else found[wanted["word.weight"][0]].dtype
    return {part: found[name].astype(dtype) for part, (name, _) in wanted.items()}


def _require_shape(name: str, tensor: mx.array, size: Shape) -> None:
    if tuple(tensor.shape) != size:
        raise ModelRefused(f"{name} has the shape {list(tensor.shape)}, expected {list(size)}")
    if not mx.issubdtype(tensor.dtype, mx.floating):
        raise ModelRefused(f"{name} holds {tensor.dtype}, expected fractions")
