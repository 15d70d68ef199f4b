"""The files of a LoRA adapter in the format that mlx-lm writes, checked before anything uses them (specs/0009).

An adapter is small tensors that are laid over a model's weights: `adapters.safetensors` with `lora_a` and `lora_b`
(and `m` for DoRA) of each module, and `adapter_config.json`.
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from protocol.canonical_json import Json, decode_json, encode_json
from protocol.errors import JsonInvalid
from store.disk import disk_errors, open_regular
from store.errors import AdapterInvalid, AdapterMismatch, FormatUnsupported
from store.finite import FiniteCheck
from store.safetensors import SafetensorsHeader, Tensor, read_header

FOLDER: Final = "adapter"
WEIGHTS: Final = "adapters.safetensors"
CONFIG: Final = "adapter_config.json"
MAX_CONFIG_BYTES: Final = 1 << 20
MAX_RANK: Final = 4096
MAX_LAYERS: Final = 4096
MAX_SCALE: Final = 10_000.0
MAX_KEYS: Final = 1024
MAX_KEY_CHARS: Final = 256
BLOCK_BYTES: Final = 4 << 20

PEFT_WEIGHTS: Final = "adapter_model.safetensors"
_PEFT_KEYS: Final = frozenset({"peft_type", "target_modules", "lora_alpha", "base_model_name_or_path"})
PEFT_REASON: Final = "PEFT's format, only adapters that mlx-lm trained are read"
_LEAVES: Final[Mapping[str, frozenset[str]]] = {
    "lora": frozenset({"lora_a", "lora_b"}),
    "dora": frozenset({"lora_a", "lora_b", "m"}),
}
_FLOATS: Final = frozenset({"F16", "BF16", "F32"})
_EMBEDDINGS: Final = frozenset({"embed_tokens", "wte", "tok_embeddings", "embeddings", "word_embeddings"})
_PACKED_BITS: Final = frozenset({2, 3, 4, 5, 6, 8})
# Publishers and mlx-lm disagree on what stands before the layers: `model.`, `language_model.model.`, `transformer.h.`.
_TAIL: Final = re.compile(r"(?:.*\.)?((?:layers|h|blocks)\.[0-9]+\..+)")


@dataclass(frozen=True)
class AdapterConfig:
    """What decides how an adapter is laid over a model. `keys` None means every module that can take one.

    `layer_count` counts blocks from the last; zero and less means all of them.
    """

    kind: str
    layer_count: int
    rank: int
    scale: float
    dropout: float
    keys: tuple[str, ...] | None


@dataclass(frozen=True)
class Adapter:
    """A checked adapter: its config, its tensors, and the file that they are in."""

    config: AdapterConfig
    header: SafetensorsHeader
    weights: Path


def read_adapter(directory: Path) -> Adapter:
    """Return the adapter in `directory`, config, header and every number checked.

    Raises:
        AdapterInvalid: a file is missing, or the config or the tensors are not what mlx-lm writes.
        FormatUnsupported: it is an adapter of another kind.
        SafetensorsInvalid, WeightsNotFinite: the weights are cut off, or not finite.
        DiskFailed: the directory cannot be read.
    """
    for name in (CONFIG, WEIGHTS):
        if not (directory / name).is_file():
            raise AdapterInvalid(name, f"not in {directory}")
    return read_adapter_files(directory / CONFIG, directory / WEIGHTS)


def read_adapter_files(config: Path, weights: Path) -> Adapter:
    """Return the adapter in the two files, wherever they lie. Raises as `read_adapter`."""
    with disk_errors(config), open_regular(config) as file:
        parsed = parse_adapter_config(file.read(MAX_CONFIG_BYTES + 1))
    header = read_header(weights)
    _check_tensors(parsed, header)
    _check_finite(weights, header)
    return Adapter(parsed, header, weights)


def parse_adapter_config(data: bytes) -> AdapterConfig:
    """Return what an `adapter_config.json` says.

    mlx-lm writes all arguments of the training there; those that do not matter afterwards are left out.

    Raises:
        AdapterInvalid: a value is missing, of another type, or out of its range.
        FormatUnsupported: it is the config of PEFT or of a full fine-tune.
    """
    try:
        document = decode_json(data, MAX_CONFIG_BYTES, CONFIG)
    except JsonInvalid as error:
        raise AdapterInvalid(CONFIG, error.reason) from None
    if not isinstance(document, dict):
        raise AdapterInvalid(CONFIG, "expected an object")
    if _PEFT_KEYS & document.keys():
        raise FormatUnsupported(CONFIG, PEFT_REASON)
    kind = document.get("fine_tune_type", "lora")
    if kind == "full":
        raise FormatUnsupported(CONFIG, "a full fine-tune is no adapter; build FROM its weights instead")
    if not isinstance(kind, str) or kind not in _LEAVES:
        raise AdapterInvalid(CONFIG, f"fine_tune_type {str(kind)[:40]!r}, expected lora or dora")
    lora = document.get("lora_parameters")
    if not isinstance(lora, dict) or not lora.keys() <= {"rank", "scale", "dropout", "keys"}:
        raise AdapterInvalid(CONFIG, "lora_parameters: expected rank, scale, dropout and perhaps keys, nothing else")
    return AdapterConfig(
        kind=kind,
        layer_count=int(_number(document, "num_layers", -1, MAX_LAYERS, whole=True)),
        rank=int(_number(lora, "rank", 1, MAX_RANK, whole=True)),
        scale=_number(lora, "scale", -MAX_SCALE, MAX_SCALE),
        dropout=_number(lora, "dropout", 0, 0.999, default=0.0),
        keys=_keys(lora.get("keys")),
    )


def encode_adapter_config(config: AdapterConfig) -> bytes:
    """Return the config as it is stored: canonical, and without the paths and habits of whoever trained it."""
    lora: dict[str, Json] = {"rank": config.rank, "scale": config.scale, "dropout": config.dropout}
    if config.keys is not None:
        lora["keys"] = list(config.keys)
    return encode_json({"fine_tune_type": config.kind, "num_layers": config.layer_count, "lora_parameters": lora})


def _check_tensors(config: AdapterConfig, header: SafetensorsHeader) -> None:
    """Accept tensors that are complete sets of one rank; `keys` and the layer count decide which ones the model has."""
    modules = _modules(header.tensors)
    if not modules:
        raise AdapterInvalid(WEIGHTS, "no tensors")
    wanted = _LEAVES[config.kind]
    for module, leaves in modules.items():
        if leaves.keys() != wanted:
            odd = sorted(leaves.keys() ^ wanted)[0]
            fault = "is missing" if odd in wanted else f"is not part of {config.kind}"
            raise AdapterInvalid(WEIGHTS, f"tensor {f'{module}.{odd}'[:120]!r} {fault}")
        for leaf in leaves.values():
            if leaf.dtype not in _FLOATS:
                raise AdapterInvalid(WEIGHTS, f"tensor {leaf.name[:120]!r}: type {leaf.dtype}, expected floats")
        _check_rank(config, leaves["lora_a"], leaves["lora_b"])


def check_adapter(adapter: Adapter, base: Iterable[SafetensorsHeader]) -> None:
    """Accept an adapter whose every tensor has a module of the right shape among the weights of its model.

    Experts that a model keeps one by one are stacked when it is loaded; their shapes are checked then.

    Raises:
        AdapterMismatch: it names the tensor and what the model has there.
    """
    shapes: dict[str, tuple[str, tuple[int, ...]]] = {}
    for header in base:
        for tensor in header.tensors:
            if tensor.name.endswith(".weight"):
                shapes[_tail(tensor.name.removesuffix(".weight"))] = (tensor.dtype, tensor.shape)
    for module, leaves in _modules(adapter.header.tensors).items():
        a, b = leaves["lora_a"].shape, leaves["lora_b"].shape
        if len(a) == 3:
            continue
        found = shapes.get(_tail(module))
        if found is None:
            raise AdapterMismatch(f"{module}.lora_a", "the model has no such module")
        _check_fit(module, a[0], b[1], leaves.get("m"), *found)


def _check_rank(config: AdapterConfig, a: Tensor, b: Tensor) -> None:
    if len(a.shape) == len(b.shape) == 2:
        ranks = (a.shape[1], b.shape[0])
    elif len(a.shape) == len(b.shape) == 3 and config.kind == "lora" and a.shape[0] == b.shape[0]:
        ranks = (a.shape[1], b.shape[2])
    else:
        raise AdapterInvalid(WEIGHTS, f"tensor {a.name[:120]!r}: shapes {a.shape} and {b.shape} do not belong together")
    if ranks != (config.rank, config.rank):
        raise AdapterInvalid(WEIGHTS, f"tensor {a.name[:120]!r}: ranks {ranks}, the config says {config.rank}")


def _check_fit(
    module: str, inputs: int, outputs: int, magnitude: Tensor | None, dtype: str, shape: tuple[int, ...]
) -> None:
    if len(shape) != 2:
        raise AdapterMismatch(f"{module}.lora_a", f"the model's module has shape {shape}")
    rows, columns = shape
    if module.rpartition(".")[2] in _EMBEDDINGS:
        inputs, outputs = outputs, inputs  # an embedding is looked up by its row
    fits = inputs == columns
    if dtype == "U32":  # quantised: several weights in each integer
        fits = inputs > 0 and 32 * columns % inputs == 0 and 32 * columns // inputs in _PACKED_BITS
    if not fits or outputs != rows:
        raise AdapterMismatch(f"{module}.lora_a", f"made for {outputs} x {inputs}, the model's module is {shape}")
    if magnitude is not None and magnitude.shape != (shape[0],):
        raise AdapterMismatch(f"{module}.m", f"shape {magnitude.shape}, the model's module is {shape}")


def _check_finite(path: Path, header: SafetensorsHeader) -> None:
    check = FiniteCheck(path.name, header.tensors)
    with disk_errors(path), open_regular(path) as file:
        while block := file.read(BLOCK_BYTES):
            check.feed(memoryview(block))


def _modules(tensors: Sequence[Tensor]) -> dict[str, dict[str, Tensor]]:
    modules: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for tensor in tensors:
        module, _, leaf = tensor.name.rpartition(".")
        modules[module][leaf] = tensor
    return dict(modules)


def _tail(module: str) -> str:
    found = _TAIL.fullmatch(module)
    return found.group(1) if found else module.rpartition(".")[2]


def _number(
    document: Mapping[str, object], key: str, low: float, high: float, whole: bool = False, default: float | None = None
) -> float:
    value = document.get(key, default)
    kinds = int if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high or not math.isfinite(value):
        kind = "a whole number" if whole else "a number"
        raise AdapterInvalid(CONFIG, f"{key}: expected {kind} from {low:g} to {high:g}, found {str(value)[:40]!r}")
    return value


def _keys(value: object) -> tuple[str, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list) or not 0 < len(value) <= MAX_KEYS:
        raise AdapterInvalid(CONFIG, f"keys: expected a list of 1 to {MAX_KEYS} module names")
    for key in value:
        if not isinstance(key, str) or not 0 < len(key) <= MAX_KEY_CHARS or not key.isprintable():
            raise AdapterInvalid(CONFIG, f"keys: {str(key)[:40]!r} is no module's name")
    return tuple(sorted(set(value)))
