"""What differs between two models, told tensor by tensor without loading a weight.

A chunk map says the hash of every tensor; a file without one is hashed where its header says that the tensor lies. The
tensors of all files are one set, so that another sharding or order of the same tensors is no difference.
"""

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from blake3 import blake3

from protocol.build_record import BUILD_RECORD
from protocol.canonical_json import Json, decode_json, encode_json
from protocol.chunkmap import ChunkMap
from protocol.digest import Digest
from protocol.errors import JsonInvalid
from protocol.manifest import Layer, Manifest
from protocol.modelfile import format_modelfile
from store.blobs import BLOCK_BYTES
from store.contents import MODELFILE, read_model
from store.disk import disk_errors
from store.layers import read_layer_header
from store.models import ModelStore
from store.safetensors import Tensor

CONFIG_FILE: Final = "config.json"
MAX_CONFIG_FILE_BYTES: Final = 4 << 20
_WEIGHTS: Final = ".safetensors"


class Change(StrEnum):
    """How something of the first model is in the second."""

    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"


@dataclass(frozen=True, order=True)
class TensorChange:
    """A tensor that differs: its bytes, type and shape before and after (0 and "" where it is not)."""

    name: str
    change: Change
    before_bytes: int
    after_bytes: int
    before: str
    after: str


@dataclass(frozen=True, order=True)
class FileChange:
    """A file without tensors that differs, and its bytes before and after."""

    file: str
    change: Change
    before_bytes: int
    after_bytes: int


@dataclass(frozen=True, order=True)
class ConfigChange:
    """A key of `config.json` that differs, with its values as JSON ("" where it is not)."""

    key: str
    before: str
    after: str


@dataclass(frozen=True)
class ModelDiff:
    """All that differs between two models; `new_bytes` of the second are in no chunk of the first."""

    before: Digest
    after: Digest
    tensors: tuple[TensorChange, ...]
    same_tensors: int
    same_bytes: int
    files: tuple[FileChange, ...]
    config: tuple[ConfigChange, ...]
    recipe: str
    new_bytes: int

    @property
    def differs(self) -> bool:
        """Whether anything that counts at run time differs."""
        return bool(self.tensors or self.files or self.config or self.recipe)


@dataclass(frozen=True)
class _Place:
    """Where a tensor lies, and its hash where a chunk map says it."""

    layer: Layer
    offset: int
    length: int
    hash: bytes | None
    about: str


def diff_models(store: ModelStore, before: Digest, after: Digest) -> ModelDiff:
    """Return what differs between two manifests of the store.

    Raises:
        BlobMissing, LayerCorrupt, ManifestInvalid, ModelfileInvalid: one of the models cannot be read.
        SafetensorsInvalid, ChunkMapInvalid: a weight file or its map is none.
    """
    (old, _, old_recipe), (new, _, new_recipe) = (read_model(store.blobs, digest) for digest in (before, after))
    mine, theirs = (_tensors(store, manifest) for manifest in (old, new))
    changes = tuple(sorted(_tensor_changes(store, mine, theirs)))
    touched = {change.name for change in changes}
    same = [place.length for name, place in theirs.items() if name not in touched]
    mine_text, theirs_text = (format_modelfile(recipe).splitlines(keepends=True) for recipe in (old_recipe, new_recipe))
    return ModelDiff(
        before=before,
        after=after,
        tensors=changes,
        same_tensors=len(same),
        same_bytes=sum(same),
        files=tuple(sorted(_file_changes(old, new))),
        config=tuple(sorted(_config_changes(_config(store, old), _config(store, new)))),
        recipe="".join(difflib.unified_diff(mine_text, theirs_text, "before", "after", n=2)),
        new_bytes=_new_bytes(store, old, new),
    )


def _tensors(store: ModelStore, manifest: Manifest) -> dict[str, _Place]:
    """Return the tensors of all weight files by name; those of an adapter have its folder before their names."""
    found = {}
    for layer in manifest.layers:
        if not layer.filepath.endswith(_WEIGHTS):
            continue
        folder = layer.filepath.rpartition("/")[0]
        header, chunk_map = read_layer_header(store.blobs, layer), store.chunk_map(layer)
        hashes = {span.name: span.hash for span in chunk_map.tensors} if chunk_map else {}
        for tensor in header.tensors:
            name = f"{folder}/{tensor.name}" if folder else tensor.name
            place = _Place(layer, tensor.offset, tensor.length, hashes.get(tensor.name), _about(tensor))
            found[name] = place
    return found


def _about(tensor: Tensor) -> str:
    return f"{tensor.dtype} {'×'.join(map(str, tensor.shape)) or 'scalar'}"


def _tensor_changes(
    store: ModelStore, before: Mapping[str, _Place], after: Mapping[str, _Place]
) -> Iterator[TensorChange]:
    for name in before.keys() - after.keys():
        yield TensorChange(name, Change.REMOVED, before[name].length, 0, before[name].about, "")
    for name in after.keys() - before.keys():
        yield TensorChange(name, Change.ADDED, 0, after[name].length, "", after[name].about)
    for name in before.keys() & after.keys():
        old, new = before[name], after[name]
        if old.about != new.about or not _is_same(store, old, new):
            yield TensorChange(name, Change.CHANGED, old.length, new.length, old.about, new.about)


def _is_same(store: ModelStore, old: _Place, new: _Place) -> bool:
    if (old.layer.digest, old.offset, old.length) == (new.layer.digest, new.offset, new.length):
        return True
    if old.hash is not None and new.hash is not None:
        return old.hash == new.hash
    return _hash(store, old) == _hash(store, new)


def _hash(store: ModelStore, place: _Place) -> bytes:
    """Return the BLAKE3 of a tensor's bytes, read a block at a time."""
    state, left = blake3(), place.length
    with store.blobs.open(place.layer.digest) as file, disk_errors(store.layout.blob_path(place.layer.digest)):
        file.seek(place.offset)
        while left and (block := file.read(min(left, BLOCK_BYTES))):
            state.update(block)
            left -= len(block)
    return state.digest()


def _file_changes(old: Manifest, new: Manifest) -> Iterator[FileChange]:
    """Yield the files that differ, but those of which tensors, keys or lines are told."""
    before, after = (
        {layer.filepath: layer for layer in manifest.layers if _is_plain(layer)} for manifest in (old, new)
    )
    for file in before.keys() | after.keys():
        mine, theirs = before.get(file), after.get(file)
        if mine is None and theirs is not None:
            yield FileChange(file, Change.ADDED, 0, theirs.size)
        elif mine is not None and theirs is None:
            yield FileChange(file, Change.REMOVED, mine.size, 0)
        elif mine is not None and theirs is not None and mine.digest != theirs.digest:
            yield FileChange(file, Change.CHANGED, mine.size, theirs.size)


def _is_plain(layer: Layer) -> bool:
    return not layer.filepath.endswith(_WEIGHTS) and layer.filepath not in (MODELFILE, CONFIG_FILE, BUILD_RECORD)


def _config(store: ModelStore, manifest: Manifest) -> dict[str, Json]:
    layer = manifest.layer(CONFIG_FILE)
    if layer is None:
        return {}
    try:
        content = store.blobs.read(layer.digest, MAX_CONFIG_FILE_BYTES)
        document = decode_json(content, MAX_CONFIG_FILE_BYTES, CONFIG_FILE)
    except JsonInvalid:
        return {CONFIG_FILE: f"sha256:{layer.digest}"}
    return document if isinstance(document, dict) else {}


def _config_changes(before: Mapping[str, Json], after: Mapping[str, Json]) -> Iterator[ConfigChange]:
    for key in before.keys() | after.keys():
        mine, theirs = (encode_json(each[key]).decode() if key in each else "" for each in (before, after))
        if mine != theirs:
            yield ConfigChange(key, mine, theirs)


def _new_bytes(store: ModelStore, old: Manifest, new: Manifest) -> int:
    """Return the bytes of `new` that are in no chunk and no whole file of `old`: what a pull has to move."""
    files = {layer.digest for layer in old.layers}
    chunks = {chunk for layer in old.layers for chunk, _ in _chunks(store.chunk_map(layer))}
    total = 0
    for layer in new.layers:
        if layer.digest not in files:
            chunk_map = store.chunk_map(layer)
            fresh = {chunk: length for chunk, length in _chunks(chunk_map) if chunk not in chunks}
            total += layer.size if chunk_map is None else sum(fresh.values())
    return total


def _chunks(chunk_map: ChunkMap | None) -> Iterator[tuple[bytes, int]]:
    return ((chunk.blake3, chunk.length) for chunk in chunk_map) if chunk_map else iter(())
