"""Models that know nothing, for measuring: files of a wanted size, or a shape of a wanted number of parameters."""

import json
import math
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from node.models.demo import WEIGHT_FILES, demo_directory

TENSOR_BYTES = 4_000_000
SMALL = {"hidden_size": 512, "num_hidden_layers": 8, "intermediate_size": 1536, "num_attention_heads": 8}
LARGE = {"hidden_size": 768, "num_hidden_layers": 14, "intermediate_size": 2304, "num_attention_heads": 12}
KEY_VALUE_HEADS = 4
Shape = tuple[int, ...]
Type = Literal["F16", "F32"]
Tensor = NDArray[Any]


def write_filler(directory: Path, size_bytes: int) -> Path:
    """Write a model whose weights are noise of about `size_bytes` and fit no shape; give the weights' path.

    No two chunks are alike, so nothing is saved by reuse.
    """
    count = max(1, round(size_bytes / TENSOR_BYTES))
    elements = -(-size_bytes // (2 * count))
    copy_description(directory, {})
    return _write_weights(directory, {f"model.layers.{place}.weight": (elements,) for place in range(count)})


def write_model(
    directory: Path, size: Mapping[str, int] = SMALL, dtype: Type = "F16", context_tokens: int | None = None
) -> int:
    """Write a model of the demo model's kind with random parameters (`SMALL`: 26 million); give their number.

    `context_tokens` is what it claims to have been trained for, in place of the demo model's.
    """
    changes = {**size, "num_key_value_heads": KEY_VALUE_HEADS}
    copy_description(directory, {**changes, **({"max_position_embeddings": context_tokens} if context_tokens else {})})
    shapes = _tensor_shapes(json.loads((directory / "config.json").read_text(encoding="utf-8")))
    _write_weights(directory, shapes, dtype)
    return sum(math.prod(shape) for shape in shapes.values())


def _tensor_shapes(config: Mapping[str, int]) -> dict[str, Shape]:
    hidden, inner, head = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    queries, keys = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    layer: dict[str, Shape] = {
        "input_layernorm": (hidden,),
        "post_attention_layernorm": (hidden,),
        "self_attn.q_proj": (queries, hidden),
        "self_attn.k_proj": (keys, hidden),
        "self_attn.v_proj": (keys, hidden),
        "self_attn.o_proj": (hidden, queries),
        "self_attn.q_norm": (head,),
        "self_attn.k_norm": (head,),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }
    shapes: dict[str, Shape] = {
        "model.embed_tokens.weight": (config["vocab_size"], hidden),
        "model.norm.weight": (hidden,),
    }
    for place in range(config["num_hidden_layers"]):
        shapes |= {f"model.layers.{place}.{name}.weight": shape for name, shape in layer.items()}
    return shapes


def copy_description(directory: Path, changes: Mapping[str, int]) -> None:
    """Make `directory` with the demo model's config, changed, and tokenizer."""
    directory.mkdir()
    for name in WEIGHT_FILES:
        shutil.copyfile(demo_directory() / name, directory / name)
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    (directory / "config.json").write_text(json.dumps({**config, **changes}), encoding="utf-8")


def _write_weights(directory: Path, shapes: Mapping[str, Shape], dtype: Type = "F16") -> Path:
    source = np.random.default_rng(256)
    number = np.dtype(np.float16 if dtype == "F16" else np.float32)

    def make(shape: Shape) -> Tensor:
        noise = source.standard_normal(shape, np.float32)
        return (0.05 * noise if len(shape) == 2 else 1 + 0.01 * noise).astype(number)

    path = directory / "model.safetensors"
    _write_file(path, {name: (shape, number) for name, shape in shapes.items()}, map(make, shapes.values()))
    return path


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file of these tensors, in half or single precision."""
    _write_file(path, {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}, tensors.values())


def _write_file(path: Path, described: Mapping[str, tuple[Shape, np.dtype[Any]]], tensors: Iterable[Tensor]) -> None:
    header, position = {}, 0
    for name, (shape, number) in described.items():
        end = position + number.itemsize * math.prod(shape)
        header[name] = {"dtype": f"F{8 * number.itemsize}", "shape": shape, "data_offsets": [position, end]}
        position = end
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for tensor in tensors:
            file.write(tensor.tobytes())
