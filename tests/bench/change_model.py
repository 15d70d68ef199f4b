"""A model of a fixed shape and what people do to models: the changes whose transfer the change table counts."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[Any]
GROUP = 64
"""Weights that share a scale and a bias in 4 bits."""
LORA_RANK = 16
LORA_CHANGE = 0.001
TUNING_CHANGE = 0.0005


@dataclass(frozen=True)
class Shape:
    """The size of the model: with these numbers 470 MB in two files, and 132 MB in 4 bits."""

    blocks: int = 24
    hidden: int = 896
    keys: int = 256
    inner: int = 2432
    words: int = 32_000
    tuned: int = 4
    new_words: int = 64

    @classmethod
    def small(cls) -> "Shape":
        """A model of 3 MB."""
        return cls(blocks=4, hidden=128, keys=64, inner=512, words=2_000, tuned=1)


@dataclass(frozen=True)
class Tensor:
    """A name, a safetensors type, and the numbers as they are stored."""

    name: str
    dtype: str
    numbers: Numbers


Model = dict[str, tuple[Tensor, ...]]
"""File name to tensors in file order."""


def base_tensors(shape: Shape) -> tuple[Tensor, ...]:
    """The model's tensors in bf16, the same for the same shape."""
    random = np.random.default_rng(24)
    return tuple(
        Tensor(name, "BF16", _bf16(np.ones(size, np.float32) if len(size) == 1 else _noise(random, size, 0.02)))
        for name, size in _shapes(shape)
    )


def changes(shape: Shape, base: Sequence[Tensor]) -> Iterator[tuple[str, Model, Model]]:
    """Yield each change: its name, the model before and the model after."""
    before = in_files(base, 2)
    made: dict[str, Callable[[], Model]] = {
        "fine-tune of some blocks": lambda: in_files(_fine_tuned(base, shape), 2),
        "LoRA merged into q, v": lambda: in_files(_lora_merged(base), 2),
        "a tensor appended": lambda: _appended(before, shape),
        "2 files become 4": lambda: in_files(base, 4),
        "header metadata only": lambda: before,
        "reordered tensors": lambda: in_files(sorted(base, key=lambda tensor: tensor.name[::-1]), 2),
        "vocabulary + 64 rows": lambda: _more_words(before, shape),
        "fused qkv and gate_up": lambda: in_files(_fused(base, shape), 2),
    }
    for name, after in made.items():
        yield name, before, after()
    yield "LoRA merge, in 4 bits", in_files(_quantized(base), 1), in_files(_quantized(_lora_merged(base)), 1)


def in_files(tensors: Sequence[Tensor], count: int) -> Model:
    """The tensors in order in `count` files of about the same size."""
    total = sum(tensor.numbers.nbytes for tensor in tensors)
    files: dict[str, list[Tensor]] = {}
    position = 0
    for tensor in tensors:
        number = min(count, 1 + position * count // total)
        files.setdefault(f"model-{number:05}-of-{count:05}.safetensors", []).append(tensor)
        position += tensor.numbers.nbytes
    return {name: tuple(members) for name, members in files.items()}


def write_file(path: Path, tensors: Sequence[Tensor], metadata: Mapping[str, str]) -> None:
    """Write safetensors as the usual writers do: compact header, tensors one after the other in the given order."""
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    position = 0
    for tensor in tensors:
        end = position + tensor.numbers.nbytes
        header[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": tensor.numbers.shape,
            "data_offsets": [position, end],
        }
        position = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors:
            file.write(np.ascontiguousarray(tensor.numbers).data)


def _shapes(shape: Shape) -> Iterator[tuple[str, tuple[int, ...]]]:
    hidden, keys, inner = shape.hidden, shape.keys, shape.inner
    yield "model.embed_tokens.weight", (shape.words, hidden)
    for block in range(shape.blocks):
        for name, size in {
            "input_layernorm": (hidden,),
            "mlp.down_proj": (hidden, inner),
            "mlp.gate_proj": (inner, hidden),
            "mlp.up_proj": (inner, hidden),
            "post_attention_layernorm": (hidden,),
            "self_attn.k_proj": (keys, hidden),
            "self_attn.o_proj": (hidden, hidden),
            "self_attn.q_proj": (hidden, hidden),
            "self_attn.v_proj": (keys, hidden),
        }.items():
            yield f"model.layers.{block}.{name}.weight", size
    yield "model.norm.weight", (hidden,)


def _noise(random: np.random.Generator, size: tuple[int, ...], sigma: float) -> Numbers:
    return np.float32(sigma) * random.standard_normal(size, np.float32)


def _bf16(numbers: Numbers) -> Numbers:
    """Round float32 to bf16, kept as 16-bit integers."""
    bits = numbers.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")


def _float(numbers: Numbers) -> Numbers:
    return (numbers.astype(np.uint32) << 16).view(np.float32)


def _changed(base: Sequence[Tensor], change: Callable[[Tensor], Numbers | None]) -> tuple[Tensor, ...]:
    """The tensors with what `change` adds to each; it says None where a tensor stays."""
    return tuple(
        tensor if (more := change(tensor)) is None else replace(tensor, numbers=_bf16(_float(tensor.numbers) + more))
        for tensor in base
    )


def fully_tuned(base: Sequence[Tensor], sigma: float) -> tuple[Tensor, ...]:
    """Every weight moved by noise of `sigma`."""
    random = np.random.default_rng(25)
    return _changed(base, lambda tensor: _noise(random, tensor.numbers.shape, sigma))


def _fine_tuned(base: Sequence[Tensor], shape: Shape) -> tuple[Tensor, ...]:
    random = np.random.default_rng(26)
    tuned = tuple(f"model.layers.{block}." for block in range(shape.blocks - shape.tuned, shape.blocks))
    return _changed(
        base,
        lambda tensor: _noise(random, tensor.numbers.shape, TUNING_CHANGE) if tensor.name.startswith(tuned) else None,
    )


def _lora_merged(base: Sequence[Tensor]) -> tuple[Tensor, ...]:
    random = np.random.default_rng(27)

    def product(tensor: Tensor) -> Numbers | None:
        if not tensor.name.endswith(("q_proj.weight", "v_proj.weight")):
            return None
        rows, columns = tensor.numbers.shape
        low = _noise(random, (rows, LORA_RANK), LORA_CHANGE / LORA_RANK**0.5)
        return np.asarray(low @ _noise(random, (LORA_RANK, columns), 1))

    return _changed(base, product)


def _appended(before: Model, shape: Shape) -> Model:
    last = max(before)
    extra = Tensor("zz_classifier.bias", "BF16", _bf16(np.ones(shape.hidden, np.float32)))
    return {**before, last: (*before[last], extra)}


def _more_words(before: Model, shape: Shape) -> Model:
    first = min(before)
    words, *others = before[first]
    rows = _bf16(_noise(np.random.default_rng(28), (shape.new_words, shape.hidden), 0.02))
    return {**before, first: (replace(words, numbers=np.concatenate([words.numbers, rows])), *others)}


def _fused(base: Sequence[Tensor], shape: Shape) -> tuple[Tensor, ...]:
    by_name = {tensor.name: tensor for tensor in base}
    fused: dict[str, tuple[str, ...]] = {
        "self_attn.qkv_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        "mlp.gate_up_proj": ("mlp.gate_proj", "mlp.up_proj"),
    }
    joined = []
    for block in range(shape.blocks):
        for name, parts in fused.items():
            members = [by_name.pop(f"model.layers.{block}.{part}.weight").numbers for part in parts]
            joined.append(Tensor(f"model.layers.{block}.{name}.weight", "BF16", np.concatenate(members)))
    return tuple(sorted((*by_name.values(), *joined), key=lambda tensor: tensor.name))


def _quantized(base: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """In groups of 64: a scale and a bias in bf16, and eight weights of 4 bits in each 32-bit integer."""
    return tuple(part for tensor in base for part in _quantized_parts(tensor))


def _quantized_parts(tensor: Tensor) -> tuple[Tensor, ...]:
    if tensor.numbers.ndim == 1:
        return (tensor,)
    rows, columns = tensor.numbers.shape
    groups = _float(tensor.numbers).reshape(rows, columns // GROUP, GROUP)
    low = groups.min(axis=2, keepdims=True)
    scale = (groups.max(axis=2, keepdims=True) - low) / np.float32(15)
    codes = np.rint((groups - low) / scale).astype(np.uint8).reshape(rows, columns // 2, 2)
    packed = (codes[:, :, 0] | codes[:, :, 1] << 4).view("<u4")
    stem = tensor.name.removesuffix("weight")
    return (
        replace(tensor, dtype="U32", numbers=packed),
        Tensor(f"{stem}scales", "BF16", _bf16(scale[:, :, 0].copy())),
        Tensor(f"{stem}biases", "BF16", _bf16(low[:, :, 0].copy())),
    )
