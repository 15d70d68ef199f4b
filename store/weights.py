"""What can be said of a model from its weight files' headers and its config alone."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final

from protocol.model_config import ModelConfig, format_parameter_size
from store.safetensors import SafetensorsHeader
from store.sources import Source

_WEIGHT_TYPES: Final[Mapping[str, str]] = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "F8_E4M3": "float8", "F8_E5M2": "float8",
}  # fmt: skip


def describe_weights(source: Source) -> ModelConfig:
    """Return family, size and precision of a model as lists show them."""
    headers = [file.header for file in source.files if file.header]
    quantization = source.config.get("quantization")
    bits = quantization.get("bits") if isinstance(quantization, dict) else None
    types = Counter(tensor.dtype for header in headers for tensor in header.tensors if tensor.dtype in _WEIGHT_TYPES)
    common = types.most_common(1)
    precision = f"{bits}-bit" if type(bits) is int else _WEIGHT_TYPES[common[0][0]] if common else ""
    count = count_parameters(headers, source.config)
    family = str(source.config["model_type"])
    return ModelConfig(family if family.isprintable() else "", "safetensors", format_parameter_size(count), precision)


def count_parameters(headers: Iterable[SafetensorsHeader], config: Mapping[str, object]) -> int:
    """Return how many weights lie in the files with these headers."""
    quantization = config.get("quantization")
    bits = quantization.get("bits") if isinstance(quantization, dict) else None
    return sum(_parameter_count(header, bits if type(bits) is int and bits > 0 else None) for header in headers)


def _parameter_count(header: SafetensorsHeader, bits: int | None) -> int:
    """Return the weights in a file; where they are packed, several lie in each integer and scales are not weights."""
    if bits is None:
        return header.element_count
    packed = [tensor for tensor in header.tensors if tensor.dtype == "U32"]
    scales = {tensor.name.rpartition(".")[0] for tensor in packed}
    plain = [t for t in header.tensors if t.dtype != "U32" and t.name.rpartition(".")[0] not in scales]
    return sum(t.length * 8 // bits for t in packed) + sum(t.element_count for t in plain)
