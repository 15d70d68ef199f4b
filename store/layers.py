"""Files becoming layers: each is read once, and is in the store with its chunk map and its tensors known."""

import hashlib
import io
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from protocol.build_record import SourceDigest
from protocol.chunkmap import ChunkMap
from protocol.digest import Digest
from protocol.manifest import WEIGHT, Layer
from store.blobs import Blobs, BlobWriter
from store.disk import disk_errors
from store.errors import LayerCorrupt, SourceInvalid
from store.fetched import Report
from store.ingest import ingest_file
from store.leases import Lease
from store.models import ModelStore
from store.safetensors import LENGTH_BYTES, SafetensorsHeader, header_bytes, parse_header
from store.sources import SourceFile

BLOCK_BYTES: Final = 4 << 20
REPORT_EVERY_S: Final = 0.1
# Name, type, shape, tensor hash of specs/0008: what a content digest is made of.
TensorRow = tuple[str, str, tuple[int, ...], bytes]


@dataclass(frozen=True)
class StoredLayer:
    """A file that is a layer now, and the tensors in it."""

    layer: Layer
    tensors: tuple[TensorRow, ...] = ()


class Progress:
    """Tells how far the reading of so many bytes is, some times a second; `report` may raise to stop the work."""

    def __init__(self, report: Report, status: str, total: int) -> None:
        self._report = report
        self._status = status
        self._total = total
        self._completed = 0
        self._started_s = time.monotonic()
        self._told_s = 0.0
        self.item = ""

    def add(self, count: int) -> None:
        """Tell that `count` more bytes of the current item are done."""
        self._completed += count
        now_s = time.monotonic()
        if now_s - self._told_s < REPORT_EVERY_S and self._completed < self._total:
            return
        self._told_s = now_s
        self._report(
            {
                "status": self._status,
                "source": self.item,
                "completed": self._completed,
                "total": self._total,
                "rate": int(self._completed / max(now_s - self._started_s, REPORT_EVERY_S)),
            }
        )


def store_file(store: ModelStore, lease: Lease, file: SourceFile, progress: Progress) -> StoredLayer:
    """Store `file` as a layer; one that is a blob of the store already is read, but not written again.

    Raises:
        LayerCorrupt: its bytes are not those that are vouched for; nothing was stored.
        WeightsNotFinite, SourceInvalid, DiskFull, DiskFailed: nothing was stored.
    """
    progress.item = file.filepath
    blobs: Blobs = store.blobs
    if file.digest is not None:
        lease.add(file.digest)
        if file.path == store.layout.blob_path(file.digest).resolve():
            blobs = _Present(store, file.digest)
    with file.open() as opened, _Watched(opened, progress) as watched:
        ingested = ingest_file(blobs, lease, watched, file.size, file.filepath, file.media_type, file.header)
    if file.digest is not None and file.digest != ingested.blob.digest:
        raise LayerCorrupt(file.digest, ingested.blob.digest, f"in {file.filepath}")
    layer = Layer(ingested.blob.digest, file.size, file.media_type, file.filepath, ingested.annotations)
    if ingested.chunk_map:
        store.chunks.add(layer.digest, ingested.chunk_map)
    return StoredLayer(layer, _rows(file.filepath, file.header, ingested.chunk_map))


def hash_source(file: SourceFile, progress: Progress) -> SourceDigest:
    """Return what `file` is now, without storing it.

    Raises:
        LayerCorrupt: its bytes are not those that are vouched for.
        SourceInvalid: it changed its size meanwhile.
        DiskFailed: it cannot be read.
    """
    progress.item = file.filepath
    state, size = hashlib.sha256(), 0
    with file.open() as opened, disk_errors(file.path):
        while block := opened.read(BLOCK_BYTES):
            state.update(block)
            size += len(block)
            progress.add(len(block))
    found = Digest(state.hexdigest())
    if size != file.size:
        raise SourceInvalid(file.filepath, f"changed while it was read: {size} bytes, not {file.size}")
    if file.digest is not None and file.digest != found:
        raise LayerCorrupt(file.digest, found, f"in {file.filepath}")
    return SourceDigest(file.filepath, found, size)


def known_layers(
    store: ModelStore, lease: Lease, layers: Iterable[Layer], progress: Progress
) -> tuple[StoredLayer, ...]:
    """Return layers that are stored already, each with its tensors; weights without a chunk map get one.

    Raises:
        BlobMissing, LayerCorrupt, ChunkMapInvalid: one is gone or changed.
        SafetensorsInvalid: weights that are none.
    """
    return tuple(_known_layer(store, lease, layer, progress) for layer in layers)


def _known_layer(store: ModelStore, lease: Lease, layer: Layer, progress: Progress) -> StoredLayer:
    lease.add(layer.digest, *((pin.digest,) if (pin := layer.chunk_map) else ()))
    if layer.media_type != WEIGHT:
        store.blobs.size(layer.digest)
        return StoredLayer(layer)
    header = read_layer_header(store.blobs, layer)
    chunk_map = store.chunk_map(layer)
    if chunk_map is not None:
        return StoredLayer(layer, _rows(layer.filepath, header, chunk_map))
    path = store.layout.blob_path(layer.digest).resolve()
    file = SourceFile(path, layer.filepath, layer.media_type, layer.size, header, layer.digest)
    return store_file(store, lease, file, progress)


def layer_tensors(store: ModelStore, layer: Layer) -> tuple[TensorRow, ...]:
    """Return the tensors of a stored weight layer with a chunk map; none of any other layer.

    Raises:
        BlobMissing, LayerCorrupt, ChunkMapInvalid, SafetensorsInvalid: it is gone, changed or no such layer.
    """
    if layer.media_type != WEIGHT or layer.chunk_map is None:
        return ()
    return _rows(layer.filepath, read_layer_header(store.blobs, layer), store.chunk_map(layer))


def read_layer_header(blobs: Blobs, layer: Layer) -> SafetensorsHeader:
    """Return the safetensors header of a stored weight layer.

    Raises:
        BlobMissing: it is not in the store.
        SafetensorsInvalid: it is no safetensors file.
    """
    with blobs.open(layer.digest) as file, disk_errors(blobs.layout.blob_path(layer.digest)):
        prefix = file.read(LENGTH_BYTES)
        rest = file.read(header_bytes(layer.filepath, prefix, layer.size) - LENGTH_BYTES)
    return parse_header(layer.filepath, prefix + rest, layer.size)


def _rows(filepath: str, header: SafetensorsHeader | None, chunk_map: ChunkMap | None) -> tuple[TensorRow, ...]:
    if header is None or chunk_map is None:
        return ()
    directory, slash, _ = filepath.rpartition("/")
    hashes = {span.name: span.hash for span in chunk_map.tensors}
    return tuple(
        (f"{directory}{slash}{tensor.name}", tensor.dtype, tensor.shape, hashes[tensor.name])
        for tensor in header.tensors
    )


class _Watched(io.FileIO):
    """A second descriptor on an open file, whose reading is told."""

    def __init__(self, file: io.FileIO, progress: Progress) -> None:
        super().__init__(os.dup(file.fileno()), "rb")
        self._progress = progress

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size) or b""
        self._progress.add(len(data))
        return data

    def readinto(self, buffer: Any, /) -> int:
        count = super().readinto(buffer) or 0
        self._progress.add(count)
        return count


class _Present(Blobs):
    """The store's blobs for a file that is one of them: its bytes are hashed and not written again."""

    def __init__(self, store: ModelStore, expected: Digest) -> None:
        super().__init__(store.layout)
        self._stored = store.blobs
        self._expected = expected

    def publish_bytes(self, content: bytes) -> Digest:
        return self._stored.publish_bytes(content)  # its chunk map, which is a blob of its own

    def writer(self, expected_bytes: int = 0) -> BlobWriter:
        return _Hasher(self, self._expected)


class _Hasher(BlobWriter):
    """Takes the bytes of a blob that is there, and says whether they are its own."""

    def __init__(self, blobs: Blobs, expected: Digest) -> None:
        self._blobs = blobs
        self._expected = expected
        self._hash = hashlib.sha256()

    def append(self, data: bytes | memoryview) -> None:
        """The bytes are there already."""

    def commit(self, expected: Digest | None = None) -> Digest:
        if self.digest != self._expected:
            self._blobs.quarantine(self._expected)
            raise LayerCorrupt(self._expected, self.digest)
        return self.digest

    def __exit__(self, *_: object) -> None:
        return None
