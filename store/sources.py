"""The files of a model directory: which ones are taken, and what is refused before a byte of it is stored."""

import io
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from protocol.canonical_json import decode_json
from protocol.errors import JsonInvalid, LayerPathInvalid
from protocol.layer_path import check_layer_path
from protocol.manifest import DOC, WEIGHT, WEIGHT_CONFIG
from store.disk import disk_errors, open_regular
from store.errors import FormatUnsupported, SourceEscapes, SourceInvalid, SourceMissing, TensorMissing
from store.safetensors import LENGTH_BYTES, SafetensorsHeader, header_bytes, parse_header

CONFIG: Final = "config.json"
INDEX: Final = "model.safetensors.index.json"
MAX_CONFIG_BYTES: Final = 4 << 20
MAX_INDEX_BYTES: Final = 64 << 20
TOKENIZERS: Final = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")

_CONFIGS: Final = frozenset(
    {
        CONFIG,
        INDEX,
        *TOKENIZERS,
        "added_tokens.json",
        "chat_template.jinja",
        "chat_template.json",
        "generation_config.json",
        "merges.txt",
        "preprocessor_config.json",
        "special_tokens_map.json",
        "tokenizer_config.json",
    }
)
_DOCS: Final = frozenset({"LICENSE", "LICENSE.md", "LICENSE.txt", "NOTICE", "README.md", "USE_POLICY.md"})
_REFUSED: Final[Mapping[str, str]] = {
    **dict.fromkeys((".gguf", ".ggml"), "GGUF weights are not read here"),
    **dict.fromkeys(
        (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"), "pickled weights can run programs when they are loaded"
    ),
}
_MAGICS: Final[Mapping[bytes, str]] = {
    b"GGUF": "GGUF weights under another name",
    b"PK\x03\x04": "a zip archive, which is how pickled weights are kept",
    b"\x80\x02": "pickled weights under another name",
    b"\x80\x04": "pickled weights under another name",
}


@dataclass(frozen=True)
class SourceFile:
    """A file that goes into the model: where it is, what it is, and its safetensors header if it has one."""

    path: Path
    filepath: str
    media_type: str
    size: int
    header: SafetensorsHeader | None = None

    def open(self) -> io.FileIO:
        """Return the file opened for reading."""
        with disk_errors(self.path):
            return open_regular(self.path)


@dataclass(frozen=True)
class Source:
    """A model directory: the files that are taken, in name order, the names of those that are not, its config."""

    files: tuple[SourceFile, ...]
    left_out: tuple[str, ...]
    config: Mapping[str, object]

    @property
    def size_bytes(self) -> int:
        """Bytes of all files that are taken."""
        return sum(file.size for file in self.files)


def read_source(directory: Path) -> Source:
    """Return what of `directory` makes up the model, after every check that needs no weight to be read.

    Only files directly in the directory count. Weights are the files that the index names, else `model*.safetensors`.

    Raises:
        FormatUnsupported: GGUF or pickled weights are there.
        SourceMissing, SourceInvalid, SourceEscapes: config, tokenizer or weights are missing or unfit.
        SafetensorsInvalid: a weight file is cut off or otherwise not what its header says.
        TensorMissing: the index names a file or tensor that is not there.
        DiskFailed: the directory cannot be read.
    """
    with disk_errors(directory):
        names = sorted(entry.name for entry in os.scandir(directory) if not entry.is_dir(follow_symlinks=False))
    for name in names:
        if reason := _REFUSED.get(Path(name).suffix.lower()):
            raise FormatUnsupported(name, reason)
    shards = _weight_map(directory) if INDEX in names else None
    weights = sorted(set(shards.values())) if shards else [n for n in names if _is_weight(n)]
    _require_parts(directory, names, weights)
    files = [_source_file(directory, name) for name in names if name in _CONFIGS or name in _DOCS]
    files += [_weight_file(directory, name) for name in weights]
    _check_tensors(shards or {}, {file.filepath: file.header for file in files if file.header})
    taken = {file.filepath for file in files}
    left_out = tuple(name for name in names if name not in taken)
    return Source(tuple(sorted(files, key=lambda file: file.filepath)), left_out, _config(directory))


def _is_weight(name: str) -> bool:
    return name.startswith("model") and name.endswith(".safetensors")


def _require_parts(directory: Path, names: list[str], weights: list[str]) -> None:
    if CONFIG not in names:
        raise SourceMissing(directory, CONFIG)
    if not any(name in names for name in TOKENIZERS):
        raise SourceMissing(directory, TOKENIZERS[0])
    if not weights:
        raise SourceMissing(directory, "model.safetensors")


def _source_file(directory: Path, name: str) -> SourceFile:
    path = (directory / name).resolve()
    if not path.is_relative_to(directory.resolve()):
        raise SourceEscapes(name)
    media_type = WEIGHT_CONFIG if name in _CONFIGS else DOC
    with disk_errors(path):
        status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise SourceInvalid(name, "not a regular file")
    return SourceFile(path, name, media_type, status.st_size)


def _weight_file(directory: Path, name: str) -> SourceFile:
    try:
        check_layer_path(name)
    except LayerPathInvalid as error:
        raise SourceInvalid(name, error.reason) from None
    plain = _source_file(directory, name)
    with plain.open() as file, disk_errors(plain.path):
        prefix = file.read(LENGTH_BYTES)
        for magic, reason in _MAGICS.items():
            if prefix.startswith(magic):
                raise FormatUnsupported(name, reason)
        length = header_bytes(name, prefix, plain.size)
        header = parse_header(name, prefix + file.read(length - LENGTH_BYTES), plain.size)
    return SourceFile(plain.path, name, WEIGHT, plain.size, header)


def _weight_map(directory: Path) -> dict[str, str]:
    """Return tensor name → file name as the index has it."""
    document = _json_object(directory, INDEX, MAX_INDEX_BYTES)
    shards = document.get("weight_map")
    if not isinstance(shards, dict) or not shards or not all(isinstance(file, str) for file in shards.values()):
        raise SourceInvalid(INDEX, "weight_map does not name a file for each tensor")
    for tensor, file in shards.items():
        if "/" in file or "\\" in file or not file.endswith(".safetensors"):
            raise SourceInvalid(INDEX, f"{file[:80]!r} is no safetensors file of this directory")
        if not (directory / file).exists():
            raise TensorMissing(tensor, file)
    return shards


def _check_tensors(shards: Mapping[str, str], headers: Mapping[str, SafetensorsHeader]) -> None:
    homes: dict[str, str] = {}
    for file, header in headers.items():
        for tensor in header.tensors:
            if tensor.name in homes:
                raise SourceInvalid(file, f"tensor {tensor.name[:80]!r} is in {homes[tensor.name]} as well")
            homes[tensor.name] = file
    for tensor_name, file in shards.items():
        if homes.get(tensor_name) != file:
            raise TensorMissing(tensor_name, file)


def _config(directory: Path) -> Mapping[str, object]:
    config = _json_object(directory, CONFIG, MAX_CONFIG_BYTES)
    if not isinstance(config.get("model_type"), str):
        raise SourceInvalid(CONFIG, "model_type is missing")
    return config


def _json_object(directory: Path, name: str, max_bytes: int) -> dict[str, object]:
    source = _source_file(directory, name)
    with source.open() as file, disk_errors(source.path):
        data = file.read(max_bytes + 1)
    try:
        document = decode_json(data, max_bytes, name)
    except JsonInvalid as error:
        raise SourceInvalid(name, error.reason) from None
    if not isinstance(document, dict):
        raise SourceInvalid(name, "not a JSON object")
    return document
