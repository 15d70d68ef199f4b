"""The weights of an encoder as they lie in its files: exactly those that its architecture has, ready for computing."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import mlx.core as mx

from node.models.engine.encoder_shape import Shape
from node.models.errors import ModelRefused


class Named(Protocol):
    """What says which tensors there must be."""

    @property
    def prefix(self) -> str:
        """What may stand before every name in the checkpoint."""

    @property
    def unused(self) -> tuple[str, ...]:
        """How the names of heads and buffers begin."""

    def tensors(self) -> dict[str, tuple[str, Shape]]:
        """Return the name in the checkpoint and the shape of each tensor, by the name that the code uses."""


def load_weights(directory: Path, shape: Named, config: Mapping[str, Any]) -> dict[str, mx.array]:
    """Return the weights of the encoder in `directory`, in memory, by the names that the code uses.

    Raises:
        ModelRefused: a tensor is missing, of another shape, or none of this architecture's.
    """
    found: dict[str, mx.array] = {}
    for path in sorted(directory.glob("model*.safetensors")):
        found.update(_loaded(path))
    weights = _fitted(shape, _plain(shape, found, config))
    mx.eval(weights)
    return weights


def _loaded(path: Path) -> dict[str, mx.array]:
    found = mx.load(str(path))
    assert isinstance(found, dict), "safetensors files hold tensors by name"
    return found


def _plain(shape: Named, found: Mapping[str, mx.array], config: Mapping[str, Any]) -> dict[str, mx.array]:
    """Return the tensors under the names of the bare architecture, unpacked where they are packed."""
    prefix = shape.prefix
    plain: dict[str, mx.array] = {}
    for name, tensor in found.items():
        name = name.removeprefix(prefix).replace(".gamma", ".weight").replace(".beta", ".bias")
        if not name.startswith(shape.unused):
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


def _fitted(shape: Named, found: dict[str, mx.array]) -> dict[str, mx.array]:
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
