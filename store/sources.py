"""The files that a model is made of: which ones are taken, and what is refused before a byte of it is stored.

Where they lie does not matter: in one directory, in the cache of another program, or in the store already. Whoever
knows a place hands its files to `read_files`, each with the digest that is vouched for, and gets a checked `Source`.
"""

import io
import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from protocol.build_record import SourceKind
from protocol.canonical_json import decode_json
from protocol.digest import Digest
from protocol.errors import JsonInvalid, LayerPathInvalid
from protocol.layer_path import check_layer_path
from protocol.manifest import DOC, WEIGHT, WEIGHT_CONFIG
from store.disk import disk_errors, open_regular
from store.embedding_files import is_embedding_file, is_step_config
from store.errors import FormatUnsupported, SourceEscapes, SourceInvalid, SourceMissing, TensorMissing
from store.safetensors import LENGTH_BYTES, SafetensorsHeader, header_bytes, parse_header

CONFIG: Final = "config.json"
INDEX: Final = "model.safetensors.index.json"
MAX_CONFIG_BYTES: Final = 4 << 20
MAX_INDEX_BYTES: Final = 64 << 20
TOKENIZERS: Final = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")

TOKENIZER_FILES: Final = frozenset(
    {
        *TOKENIZERS,
        "added_tokens.json",
        "chat_template.jinja",
        "chat_template.json",
        "merges.txt",
        "special_tokens_map.json",
        "tokenizer_config.json",
    }
)
ADAPTER_FILES: Final = frozenset({"adapters.safetensors", "adapter_config.json"})
_CONFIGS: Final = frozenset({CONFIG, INDEX, *TOKENIZER_FILES, "generation_config.json", "preprocessor_config.json"})
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
class FileAt:
    """Where a file's bytes lie now.

    `digest` is what somebody vouches for (the hub's `lfs.sha256`, a stored layer): the bytes are refused when they hash
    to anything else. `within` is a directory out of which no symbolic link may lead.
    """

    path: Path
    digest: Digest | None = None
    within: Path | None = None


@dataclass(frozen=True)
class Origin:
    """Where files come from, as it is recorded: `revision` is a hub's 40-hex commit or a manifest's digest.

    `time_s` is when that revision was made, None where nobody says so.
    """

    kind: SourceKind
    name: str
    revision: str = ""
    time_s: int | None = None


@dataclass(frozen=True)
class SourceFile:
    """A file that goes into the model: where it is, what it is, and its safetensors header if it has one."""

    path: Path
    filepath: str
    media_type: str
    size: int
    header: SafetensorsHeader | None = None
    digest: Digest | None = None

    def open(self) -> io.FileIO:
        """Return the file opened for reading."""
        with disk_errors(self.path):
            return open_regular(self.path)


@dataclass(frozen=True)
class Source:
    """The files that are taken, in name order, the names of those that are not, the model's config, the origin."""

    files: tuple[SourceFile, ...]
    left_out: tuple[str, ...]
    config: Mapping[str, object]
    origin: Origin

    @property
    def size_bytes(self) -> int:
        """Bytes of all files that are taken."""
        return sum(file.size for file in self.files)


def read_source(directory: Path, origin: Origin | None = None) -> Source:
    """Return what of `directory` makes up the model; only files directly in it count, and an embedding's configs.

    Raises:
        SourceEscapes: a symbolic link leads out of the directory.
        DiskFailed: the directory cannot be read.
        FormatUnsupported, SourceMissing, SourceInvalid, SafetensorsInvalid, TensorMissing: see `read_files`.
    """
    origin = origin or Origin(SourceKind.DIRECTORY, f"./{directory.resolve().name}")
    return read_files(list_directory(directory), origin, directory)


def list_directory(directory: Path) -> dict[str, FileAt]:
    """Return the files directly in `directory`, links included, by name, and the configs of an embedding's steps.

    Raises:
        DiskFailed: the directory cannot be read.
    """
    with disk_errors(directory):
        entries = list(os.scandir(directory))
        names = [entry.name for entry in entries if not entry.is_dir(follow_symlinks=False)]
        steps = [f"{entry.name}/{CONFIG}" for entry in entries if entry.is_dir(follow_symlinks=False)]
        names += [step for step in steps if is_step_config(step) and (directory / step).is_file()]
    return {name: FileAt(directory / name, within=directory) for name in sorted(names)}


def read_files(files: Mapping[str, FileAt], origin: Origin, place: Path) -> Source:
    """Return what of `files` makes up the model, after every check that needs no weight to be read.

    Weights are the files that the index names, else `model*.safetensors`. `place` is named where something is missing.

    Raises:
        FormatUnsupported: GGUF or pickled weights are there.
        SourceMissing, SourceInvalid, SourceEscapes: config, tokenizer or weights are missing or unfit.
        SafetensorsInvalid: a weight file is cut off or otherwise not what its header says.
        TensorMissing: the index names a file or tensor that is not there.
    """
    for name in sorted(files):
        _refuse_format(name)
    shards = _weight_map(files) if INDEX in files else None
    weights = sorted(set(shards.values())) if shards else sorted(filter(_is_weight, files))
    _require_parts(place, files, weights)
    taken = [_plain_file(name, at) for name, at in files.items() if _is_config(name) or name in _DOCS]
    taken += [_weight_file(name, files[name]) for name in weights]
    _check_tensors(shards or {}, {file.filepath: file.header for file in taken if file.header})
    left_out = tuple(sorted(files.keys() - {file.filepath for file in taken}))
    in_order = tuple(sorted(taken, key=lambda file: file.filepath))
    return Source(in_order, left_out, _config(files[CONFIG]), origin)


def wanted_of_repository(names: Iterable[str]) -> list[str]:
    """Return which files of a model repository are worth fetching; pickled copies beside safetensors are none.

    Of a repository that holds an adapter and no model it is the adapter's two.

    Raises:
        FormatUnsupported: its weights are there as GGUF or pickle only.
    """
    known = sorted(name for name in names if "/" not in name or is_step_config(name))
    if not any(name.endswith(".safetensors") for name in known):
        for name in known:
            _refuse_format(name)
    if not any(map(_is_weight, known)) and set(known) >= ADAPTER_FILES:
        return sorted(ADAPTER_FILES)
    return [name for name in known if _is_config(name) or name in _DOCS or _is_weight(name)]


def _refuse_format(name: str) -> None:
    if reason := _REFUSED.get(Path(name).suffix.lower()):
        raise FormatUnsupported(name, reason)


def _is_config(name: str) -> bool:
    return name in _CONFIGS or is_embedding_file(name)


def _is_weight(name: str) -> bool:
    return name.startswith("model") and name.endswith(".safetensors")


def _require_parts(place: Path, files: Mapping[str, FileAt], weights: list[str]) -> None:
    if CONFIG not in files:
        raise SourceMissing(place, CONFIG)
    if not any(name in files for name in TOKENIZERS):
        raise SourceMissing(place, TOKENIZERS[0])
    if not weights:
        raise SourceMissing(place, "model.safetensors")


def _plain_file(name: str, at: FileAt) -> SourceFile:
    path = at.path.resolve()
    if at.within is not None and not path.is_relative_to(at.within.resolve()):
        raise SourceEscapes(name)
    media_type = WEIGHT_CONFIG if _is_config(name) else DOC
    with disk_errors(path):
        status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise SourceInvalid(name, "not a regular file")
    return SourceFile(path, name, media_type, status.st_size, digest=at.digest)


def _weight_file(name: str, at: FileAt) -> SourceFile:
    try:
        check_layer_path(name)
    except LayerPathInvalid as error:
        raise SourceInvalid(name, error.reason) from None
    plain = _plain_file(name, at)
    with plain.open() as file, disk_errors(plain.path):
        prefix = file.read(LENGTH_BYTES)
        for magic, reason in _MAGICS.items():
            if prefix.startswith(magic):
                raise FormatUnsupported(name, reason)
        length = header_bytes(name, prefix, plain.size)
        header = parse_header(name, prefix + file.read(length - LENGTH_BYTES), plain.size)
    return replace(plain, media_type=WEIGHT, header=header)


def _weight_map(files: Mapping[str, FileAt]) -> dict[str, str]:
    """Return tensor name → file name as the index has it."""
    document = _json_object(files[INDEX], INDEX, MAX_INDEX_BYTES)
    shards = document.get("weight_map")
    if not isinstance(shards, dict) or not shards or not all(isinstance(file, str) for file in shards.values()):
        raise SourceInvalid(INDEX, "weight_map does not name a file for each tensor")
    for tensor, file in shards.items():
        if "/" in file or "\\" in file or not file.endswith(".safetensors"):
            raise SourceInvalid(INDEX, f"{file[:80]!r} is no safetensors file of this directory")
        if file not in files:
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


def _config(at: FileAt) -> Mapping[str, object]:
    config = _json_object(at, CONFIG, MAX_CONFIG_BYTES)
    if not isinstance(config.get("model_type"), str):
        raise SourceInvalid(CONFIG, "model_type is missing")
    return config


def _json_object(at: FileAt, name: str, max_bytes: int) -> dict[str, object]:
    source = _plain_file(name, at)
    with source.open() as file, disk_errors(source.path):
        data = file.read(max_bytes + 1)
    try:
        document = decode_json(data, max_bytes, name)
    except JsonInvalid as error:
        raise SourceInvalid(name, error.reason) from None
    if not isinstance(document, dict):
        raise SourceInvalid(name, "not a JSON object")
    return document
