"""Repairing blobs: what of a damaged one is still right is kept, and only the rest has to come from elsewhere (0027).

A blob whose bytes changed lies in quarantine. `salvage` copies every chunk of it that still hashes into a partial
layer, `restore_manifest` and `restore_chunk_map` make anew what follows from something else that is here, and
`settle` removes the damaged copies once the blob is whole again.
"""

import errno
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

from protocol.chunkmap import encode_chunk_map, make_chunk_map
from protocol.digest import Digest, digest_of
from protocol.errors import ChunkMapInvalid, ProvenanceInvalid
from protocol.manifest import Descriptor, Layer, Manifest
from protocol.provenance import decode_and_verify_provenance
from store.blobs import BLOCK_BYTES
from store.cutter import cutter_of
from store.disk import disk_errors, flush_directory, open_regular
from store.errors import BlobMissing, DiskFailed, LayerCorrupt, SafetensorsInvalid
from store.layout import Layout
from store.models import ModelStore
from store.partial import PartialLayer
from store.safetensors import read_header

SYNC_BYTES = 64 << 20


@dataclass(frozen=True)
class Salvage:
    """What was found of a damaged layer: bytes that still hash, and bytes that have to come from elsewhere."""

    kept_bytes: int
    bad_bytes: int


def find_bad(store: ModelStore, blobs: Iterable[Descriptor], checked: Callable[[Descriptor], None]) -> list[Descriptor]:
    """Hash every blob again and return those that are gone or changed; a changed one is in quarantine then.

    `checked` is called before each blob is hashed.

    Raises:
        DiskFailed: the disk says no.
    """
    bad = []
    for blob in blobs:
        checked(blob)
        if not is_whole(store, blob.digest):
            bad.append(blob)
    return bad


def is_whole(store: ModelStore, digest: Digest) -> bool:
    """Hash a blob again; False where it is gone, or changed or unreadable and in quarantine then.

    Raises:
        DiskFailed: the disk says no to more than reading the bytes.
    """
    try:
        store.blobs.verify(digest)
    except (BlobMissing, LayerCorrupt):
        store.chunks.remove(digest)
        return False
    except DiskFailed as error:
        if error.errno != errno.EIO:
            raise
        store.blobs.quarantine(digest)  # a bad sector: `salvage` reads around it
        store.chunks.remove(digest)
        return False
    return True


def restore_manifest(store: ModelStore, digest: Digest) -> bool:
    """Publish the manifest again from a provenance bundle that is kept here; False where there is none."""
    for bundle in store.provenance.all(digest):
        try:
            content = decode_and_verify_provenance(bundle).manifest
        except ProvenanceInvalid:
            continue  # damaged as well; another publisher's bundle of the same manifest may do
        store.blobs.publish_bytes(content)
        return True
    return False


def restore_chunk_map(store: ModelStore, layer: Layer) -> bool:
    """Cut a whole layer once more and publish its chunk map again; False where that does not give the pinned one."""
    pin = layer.chunk_map
    if pin is None or not store.blobs.has(layer.digest):
        return False
    try:
        content = _cut(store, layer)
    except (SafetensorsInvalid, ChunkMapInvalid, BlobMissing):
        return False  # no file that this program's cutter maps: the map has to come from elsewhere
    if digest_of(content) != pin.digest:
        return False
    store.blobs.publish_bytes(content)
    return True


def salvage(partial: PartialLayer, places: Iterable[Path]) -> Salvage:
    """Copy every missing chunk that one of the files `places` still holds right; the damaged blob comes first.

    Durable every 64 MiB and at the end, so that a repair that was killed goes on.

    Raises:
        DiskFull, DiskFailed: what was copied before stays.
    """
    kept = 0
    bad = None
    for path in places:
        kept += _salvage_from(partial, path)
        if bad is None:
            bad = partial.missing_bytes()
    partial.sync()
    return Salvage(kept, partial.missing_bytes() if bad is None else bad)


def damaged_copies(layout: Layout, manifest: Digest, layer: Layer) -> list[Path]:
    """Return where bytes of a damaged layer may lie: in quarantine, and as a file in the materialised model."""
    return [layout.quarantine_path(layer.digest), layout.materialized_path(manifest) / layer.filepath]


def settle(store: ModelStore, digest: Digest) -> None:
    """Remove the damaged copies of a blob that is whole again, and every materialised model that shares their bytes."""
    path = store.layout.quarantine_path(digest)
    with store.layout.materializing, disk_errors(path):
        if not path.exists():
            return
        _remove_sharing(store.layout, path)
        path.unlink()
        flush_directory(path.parent)


def mapped_layers(manifest: Manifest) -> dict[Digest, Layer]:
    """Return the layers that have a chunk map, by digest."""
    return {layer.digest: layer for layer in manifest.layers if layer.chunk_map is not None}


@contextmanager
def opened(store: ModelStore, layer: Layer) -> Iterator[PartialLayer]:
    """Give the partial layer in which `layer` is put together again, with what an earlier repair has left of it.

    Raises:
        BlobMissing, LayerCorrupt, ChunkMapInvalid: its chunk map cannot be read: that is repaired first.
        PartialBusy: it is being fetched already.
        DiskFull: there is no room for it.
    """
    chunk_map = store.chunk_map(layer)
    assert chunk_map is not None, "only layers with a chunk map come here"
    with PartialLayer.open(store, layer.digest, layer.size, chunk_map) as partial:
        yield partial


def _salvage_from(partial: PartialLayer, path: Path) -> int:
    """Copy what is right of one file; a file that is not there or cannot be read has nothing."""
    try:
        file = open_regular(path)
    except OSError:
        return 0
    kept = unsynced = 0
    with file:
        for index in partial.missing():
            chunk = partial.chunk_map.chunk(index)
            try:
                data = os.pread(file.fileno(), chunk.length, chunk.offset)
            except OSError:
                continue  # a bad sector costs the chunks on it, which come from elsewhere
            if len(data) != chunk.length or blake3(data).digest() != chunk.blake3:
                continue
            partial.write_chunk(index, data)
            kept += chunk.length
            unsynced += chunk.length
            if unsynced >= SYNC_BYTES:
                partial.sync()
                unsynced = 0
    return kept


def _cut(store: ModelStore, layer: Layer) -> bytes:
    path = store.layout.blob_path(layer.digest)
    tensors = read_header(path) if layer.filepath.endswith(".safetensors") else None
    cutter = cutter_of(tensors, layer.size)
    chunks = []
    with store.blobs.open(layer.digest) as file, disk_errors(path):
        while block := file.read(BLOCK_BYTES):
            chunks += [(blake3(chunk).digest(), len(chunk)) for chunk in cutter.cut(block)]
    spans = [(tensor.name, tensor.offset, tensor.length) for tensor in tensors.tensors] if tensors else []
    return encode_chunk_map(make_chunk_map(layer.digest, layer.size, chunks, spans))


def _remove_sharing(layout: Layout, damaged: Path) -> None:
    """Remove each materialised model one of whose files is the damaged file itself, by hard link."""
    for directory in layout.materialized.iterdir():
        if directory.is_dir() and any(_is_same(file, damaged) for file in directory.rglob("*")):
            directory.with_name(f"{directory.name}.json").unlink(missing_ok=True)
            shutil.rmtree(directory)


def _is_same(path: Path, damaged: Path) -> bool:
    return path.is_file() and not path.is_symlink() and path.samefile(damaged)
