"""The one place that knows how mlx-lm quantizes: a model's weights cast or packed, and written by our own hand.

It does what `mlx_lm.convert` does up to the saving; the bytes are written by `store.safetensors`, so that the same
weights give the same file every time. Runs only inside the process of `node.models.convert`. Source: specs/0021.
"""

import platform
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import mlx.core as mx
from mlx import nn
from mlx.utils import tree_flatten, tree_map, tree_map_with_path
from mlx_lm import utils

from node.models.errors import ConversionRefused
from protocol.canonical_json import encode_json
from protocol.quantization import Quantization
from store.safetensors import TensorType, write_tensors

# mlx publishes no types for most of what is used here.
_mlx_lm: Final[Any] = utils
_mx: Final[Any] = mx
_nn: Final[Any] = nn

BITS: Final = {Quantization.INT8: 8, Quantization.INT4: 4}
GROUP_SIZE: Final = 64
MODE: Final = "affine"
MAX_SHARD_BYTES: Final = 5 << 30
CACHE_BYTES: Final = 64 << 20
METADATA: Final = {"format": "mlx"}
_CAST: Final = ("float16", "bfloat16", "float32")
_DTYPES: Final[dict[Any, str]] = {
    mx.bool_: "BOOL", mx.uint8: "U8", mx.int8: "I8", mx.uint16: "U16", mx.int16: "I16", mx.float16: "F16",
    mx.bfloat16: "BF16", mx.uint32: "U32", mx.int32: "I32", mx.float32: "F32", mx.uint64: "U64", mx.int64: "I64",
}  # fmt: skip

Told = Callable[[str, int, int], None]


def convert_weights(source: Path, target: Path, quantization: Quantization, told: Told) -> dict[str, str]:
    """Write the converted config and weights of the model in `source` into `target`; return the tools and the device.

    `told(tensor, done, total)` hears before each tensor how many bytes are written. At most one tensor with what it is
    computed from is in memory, and the small tensors that a packing yields beside it.

    Raises:
        ConversionRefused: mlx-lm does not know this model, it is packed already, or its values do not fit.
        DiskFull, DiskFailed: the files could not be written.
    """
    _mx.set_cache_limit(CACHE_BYTES)
    model, config = _load(source)
    model, config = _converted(model, config, quantization)
    weights: dict[str, Any] = dict(tree_flatten(model.parameters()))
    model.update(tree_map(lambda _: mx.array([]), model.parameters()))
    _Writer(target, weights, told).write()
    _write_json(target / "config.json", _saved_config(config, model))
    return {
        "mlx": version("mlx"),
        "mlx-lm": version("mlx-lm"),
        "device": f"{mx.default_device().type.name} {_device_name()}",
    }


def _load(source: Path) -> tuple[Any, dict[str, Any]]:
    try:
        model, config = _mlx_lm.load_model(source, lazy=True, strict=True, trust_remote_code=False)
    except Exception as error:  # a model's files can make mlx-lm raise anything; the conversion is refused
        raise ConversionRefused(" ".join(str(error).split())[:300] or type(error).__name__) from error
    quantized = config.get("quantization") or config.get("quantization_config")
    if quantized:
        bits = quantized.get("bits") if isinstance(quantized, dict) else None
        raise ConversionRefused(f"its weights are packed already{f' in {bits} bits' if type(bits) is int else ''}")
    return model, dict(config)


def _converted(model: Any, config: dict[str, Any], quantization: Quantization) -> tuple[Any, dict[str, Any]]:
    dtype = "float16" if quantization is Quantization.FP16 else _own_type(config)
    if dtype is not None:
        model.update(tree_map_with_path(_cast(model, getattr(mx, dtype)), model.parameters()))
        config |= {key: dtype for key in ("torch_dtype", "dtype") if key in config}
    if quantization in BITS:
        model, config = _mlx_lm.quantize_model(model, config, GROUP_SIZE, BITS[quantization], mode=MODE)
        if not any(isinstance(module, _nn.QuantizedLinear | _nn.QuantizedEmbedding) for module in model.modules()):
            raise ConversionRefused(f"no layer of it is a multiple of {GROUP_SIZE} wide, so nothing can be packed")
    return model, config


def _own_type(config: dict[str, Any]) -> str | None:
    """Return the type that the model says its weights have, as mlx-lm looks for it; None keeps what the files have."""
    nested = config.get("text_config")
    found = config.get("torch_dtype") or (nested.get("dtype") if isinstance(nested, dict) else None)
    return found if isinstance(found, str) and found in _CAST else None


def _cast(model: Any, dtype: Any) -> Callable[[str, Any], Any]:
    wanted = getattr(model, "cast_predicate", lambda _: True)

    def cast(path: str, value: Any) -> Any:
        return value.astype(dtype) if wanted(path) and mx.issubdtype(value.dtype, mx.floating) else value

    return cast


class _Writer:
    """Writes weights into files of at most 5 GiB, in name order from file to file; takes each out of `weights`."""

    def __init__(self, target: Path, weights: dict[str, Any], told: Told) -> None:
        self._target = target
        self._weights = weights
        self._told = told
        self._total = sum(array.nbytes for array in weights.values())
        self._done = 0

    def write(self) -> None:
        """Write every file, and an index where there are several."""
        shards = self._shards()
        places: dict[str, str] = {}
        for number, names in enumerate(shards, 1):
            file = f"model-{number:05}-of-{len(shards):05}.safetensors" if len(shards) > 1 else "model.safetensors"
            types = {name: _type_of(self._weights[name]) for name in names}
            write_tensors(self._target / file, types, self._read, METADATA)
            places |= dict.fromkeys(names, file)
        if len(shards) > 1:
            _write_json(
                self._target / "model.safetensors.index.json",
                {"metadata": {"total_size": self._total}, "weight_map": places},
            )

    def _shards(self) -> list[list[str]]:
        shards: list[list[str]] = [[]]
        size = 0
        for name in sorted(self._weights):
            if shards[-1] and size + self._weights[name].nbytes > MAX_SHARD_BYTES:
                shards.append([])
                size = 0
            shards[-1].append(name)
            size += self._weights[name].nbytes
        return shards

    def _read(self, name: str) -> Iterator[memoryview]:
        self._told(name, self._done, self._total)
        array = self._weights.pop(name)
        if mx.issubdtype(array.dtype, mx.floating) and not mx.all(mx.isfinite(array)).item():
            raise ConversionRefused(f"tensor {name[:100]!r} holds NaN, infinity, or a value too large for its new type")
        if array.size:
            flat: Any = mx.contiguous(array).reshape(-1).view(mx.uint8)
            yield memoryview(flat)
        self._done += array.nbytes


def _type_of(array: Any) -> TensorType:
    try:
        return _DTYPES[array.dtype], tuple(array.shape)
    except KeyError:
        raise ConversionRefused(f"a tensor of type {array.dtype}, which safetensors does not hold") from None


def _saved_config(config: dict[str, Any], model: Any) -> dict[str, Any]:
    """Return the config as `mlx_lm.utils.save_config` writes it; its spelling is canonical."""
    saved = {key: value for key, value in config.items() if key != "_name_or_path"}
    if "vision_tower" not in getattr(model, "model", {}):
        saved.pop("vision_config", None)
    if "quantization" in saved:
        saved["quantization_config"] = saved["quantization"]
    return dict(_mlx_lm._encode_tagged_floats(saved))


def _write_json(path: Path, document: dict[str, Any]) -> None:
    path.write_bytes(encode_json(document))


def _device_name() -> str:
    if mx.default_device() == mx.cpu:
        return platform.machine()
    return str(_mx.device_info().get("device_name", platform.machine()))
