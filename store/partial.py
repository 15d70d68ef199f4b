"""Partial layers: a layer that is still arriving, chunk by verified chunk, and survives a kill at any point."""

import fcntl
import io
import os
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol

from blake3 import blake3

from protocol.chunkmap import ChunkMap
from protocol.digest import Digest
from store.blobs import Blobs, hash_file
from store.chunks import ChunkIndex
from store.disk import (
    PRIVATE,
    READ_ONLY,
    disk_errors,
    flush_data,
    flush_directory,
    flush_file,
    open_regular,
    replace_file,
    require_space,
)
from store.errors import BlobMissing, ChunkCorrupt, LayerCorrupt, PartialBusy, PartialIncomplete
from store.layout import Layout

BITMAP_MAGIC: Final = b"TNPB\x00\x01"  # version 1; then u32be chunk count and the bitmap itself


class PartialStore(Protocol):
    """What a partial layer needs of the model store."""

    @property
    def layout(self) -> Layout:
        """Where files lie."""

    @property
    def blobs(self) -> Blobs:
        """Where the finished layer goes."""

    @property
    def chunks(self) -> ChunkIndex:
        """Where its chunks are remembered."""


class PartialLayer:
    """A sparse file and one bit a chunk; every method may be called from any thread.

    After `close`, `finish` and `discard` a further use of the file is a ValueError. The lock is held while bytes move,
    so that none of them can reach a descriptor that was closed and given to another file.

    A bit is written down only after the chunk's bytes are on the disk, and after a restart every chunk whose bit is
    set is hashed again, so `missing`, `have_bitmap` and `read_chunk` only ever count verified bytes.
    """

    def __init__(self, store: PartialStore, digest: Digest, size: int, chunk_map: ChunkMap) -> None:
        """Use `PartialLayer.open`."""
        if (chunk_map.blob, chunk_map.size) != (digest, size):
            raise ValueError(f"the chunk map of {chunk_map.blob[:12]} does not map {digest[:12]}")
        self.digest = digest
        self.size = size
        self.chunk_map = chunk_map
        self._store = store
        self._path = store.layout.partial_path(digest)
        self._lock = threading.Lock()
        self._verified = bytearray((len(chunk_map) + 7) // 8)
        self._left = len(chunk_map)
        with store.layout.sweeping.shared(), disk_errors(self._path):  # who sweeps locks it for a moment, to look
            self._file = open_locked(self._path, digest)
        try:
            self._take_up()
            require_space(self._path, self.missing_bytes())
        except BaseException:
            self._file.close()
            raise

    @classmethod
    def open(cls, store: PartialStore, digest: Digest, size: int, chunk_map: ChunkMap) -> "PartialLayer":
        """Return the layer with what an earlier run has left of it, hashed again.

        Raises:
            PartialBusy: the layer is already open, here or in another process.
            DiskFull: what is missing does not fit on the disk.
        """
        return cls(store, digest, size, chunk_map)

    def missing(self) -> list[int]:
        """Return the numbers of the chunks that are not there yet, in order."""
        with self._lock:
            return [index for index in range(len(self.chunk_map)) if not self._has(index)]

    def missing_bytes(self) -> int:
        """Return how many bytes are not there yet."""
        return sum(self.chunk_map.chunk(index).length for index in self.missing())

    def have_bitmap(self) -> bytes:
        """Return one bit a chunk, chunk 0 in the highest bit of the first byte; set bits can be read."""
        with self._lock:
            return bytes(self._verified)

    def write_chunk(self, index: int, data: bytes) -> None:
        """Keep chunk `index`, whose bytes are verified before one of them is written. Durable after `sync`.

        Raises:
            ChunkCorrupt: `data` is not that chunk; nothing was written.
            DiskFull, DiskFailed: the chunk is still missing.
            IndexError: there is no such chunk.
        """
        chunk = self.chunk_map.chunk(index)
        if len(data) != chunk.length or blake3(data).digest() != chunk.blake3:
            raise ChunkCorrupt(self.digest, index, chunk.offset)
        with self._lock, disk_errors(self._path, chunk.length):
            _write_at(self._file.fileno(), data, chunk.offset)
            self._mark(index)

    def read_chunk(self, index: int) -> bytes:
        """Return chunk `index`, hashed once more.

        Raises:
            ChunkCorrupt: it is not there, or its bytes changed on the disk; then it counts as missing from now on.
        """
        chunk = self.chunk_map.chunk(index)
        with self._lock, disk_errors(self._path):
            data = os.pread(self._file.fileno(), chunk.length, chunk.offset) if self._has(index) else b""
        if blake3(data).digest() != chunk.blake3:
            self._forget(index)
            raise ChunkCorrupt(self.digest, index, chunk.offset)
        return data

    def fill_from_local(self, index: ChunkIndex) -> int:
        """Copy every missing chunk that another blob of this store holds; return the bytes reused.

        Raises:
            DiskFull, DiskFailed: what was copied before stays.
        """
        return sum(self._fill_chunk(index, number) for number in self.missing())

    def sync(self) -> None:
        """Make everything written so far survive a power cut: the bytes first, then their bits.

        Raises:
            DiskFull, DiskFailed: what the last `sync` made durable still is.
        """
        with self._lock:
            bitmap, descriptor = bytes(self._verified), os.dup(self._file.fileno())
        try:
            with disk_errors(self._path):
                flush_data(descriptor)  # not under the lock: chunks go on arriving meanwhile
        finally:
            os.close(descriptor)
        content = BITMAP_MAGIC + len(self.chunk_map).to_bytes(4, "big") + bitmap
        replace_file(self._store.layout.temporary, self._store.layout.bitmap_path(self.digest), content)

    def finish(self) -> None:
        """Hash the whole layer, publish it as a blob and remember its chunks; the partial layer is closed then.

        Raises:
            PartialIncomplete: chunks are missing, or changed on the disk and count as missing now.
            LayerCorrupt: every chunk is right and the whole is not, so the chunk map lies; everything is discarded.
            DiskFull, DiskFailed: it can be tried again.
        """
        if self._left:
            raise PartialIncomplete(self.digest, self._left)
        with disk_errors(self._path):
            os.lseek(self._file.fileno(), 0, os.SEEK_SET)
            found, size = hash_file(self._file)
        if (found, size) != (self.digest, self.size):
            self._require_chunks()
            self.discard()
            raise LayerCorrupt(self.digest, found)
        self._publish()
        self._store.chunks.add(self.digest, self.chunk_map)

    def discard(self) -> None:
        """Throw away what has arrived."""
        with disk_errors(self._path):
            self._path.unlink(missing_ok=True)
            self._store.layout.bitmap_path(self.digest).unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Let go of the file; what was synced is taken up again by the next `open`."""
        with self._lock:
            self._file.close()

    def __enter__(self) -> "PartialLayer":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _require_chunks(self) -> None:
        """Hash every chunk once more, so that one that changed on the disk costs itself and not the whole layer."""
        for index in range(len(self.chunk_map)):
            with suppress(ChunkCorrupt):
                self.read_chunk(index)
        if self._left:
            raise PartialIncomplete(self.digest, self._left)

    def _publish(self) -> None:
        layout = self._store.layout
        with disk_errors(self._path):
            os.fchmod(self._file.fileno(), READ_ONLY)
            flush_file(self._file.fileno())
            self._path.replace(layout.blob_path(self.digest))
            flush_directory(layout.blobs)
            layout.bitmap_path(self.digest).unlink(missing_ok=True)
            self.close()

    def _take_up(self) -> None:
        """Set the bits that an earlier run wrote down and whose chunks still hash."""
        path = self._store.layout.bitmap_path(self.digest)
        with disk_errors(self._path):
            content = path.read_bytes() if path.exists() else b""
            if os.fstat(self._file.fileno()).st_size != self.size:
                os.ftruncate(self._file.fileno(), self.size)
        head = BITMAP_MAGIC + len(self.chunk_map).to_bytes(4, "big")
        if not content.startswith(head) or len(content) != len(head) + len(self._verified):
            return
        for index in range(len(self.chunk_map)):
            if content[len(head) + index // 8] >> (7 - index % 8) & 1:
                chunk = self.chunk_map.chunk(index)
                with disk_errors(self._path):
                    data = os.pread(self._file.fileno(), chunk.length, chunk.offset)
                if blake3(data).digest() == chunk.blake3:
                    self._mark(index)

    def _fill_chunk(self, index: ChunkIndex, number: int) -> int:
        chunk = self.chunk_map.chunk(number)
        place = index.find(chunk.blake3)
        if place is None or place.length != chunk.length:
            return 0
        try:
            with self._store.blobs.open(place.blob) as file:
                data = os.pread(file.fileno(), place.length, place.offset)
            self.write_chunk(number, data)
        except (BlobMissing, ChunkCorrupt):
            index.remove(place.blob)  # the blob is gone or changed: none of its chunks can be relied on
            return 0
        return chunk.length

    def _has(self, index: int) -> bool:
        return bool(self._verified[index // 8] >> (7 - index % 8) & 1)

    def _mark(self, index: int) -> None:
        if not self._has(index):
            self._verified[index // 8] |= 1 << (7 - index % 8)
            self._left -= 1

    def _forget(self, index: int) -> None:
        with self._lock:
            if self._has(index):
                self._verified[index // 8] &= ~(1 << (7 - index % 8))
                self._left += 1


def open_locked(path: Path, digest: Digest) -> io.FileIO:
    """Return the file of a partial layer, made where there is none, for this process alone.

    Raises:
        PartialBusy: it is open already, here or in another process.
        OSError: the disk says no.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        descriptor = os.open(path, flags, PRIVATE)
    except PermissionError:
        _make_writable(path, digest)
        descriptor = os.open(path, flags, PRIVATE)
    file = io.FileIO(descriptor, "r+")
    _lock(file, path, digest)
    return file


def _make_writable(path: Path, digest: Digest) -> None:
    # A run that was killed while it finished had made the file read-only, as blobs are, and not renamed it yet.
    with open_regular(path) as file:
        _lock(file, path, digest)
        os.fchmod(file.fileno(), PRIVATE)


def _lock(file: io.FileIO, path: Path, digest: Digest) -> None:
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not (path.exists() and os.path.samestat(path.stat(), os.fstat(file.fileno()))):
            raise BlockingIOError  # finished or discarded between opening and locking
    except BlockingIOError:
        file.close()
        raise PartialBusy(digest) from None


def _write_at(descriptor: int, data: bytes, offset: int) -> None:
    rest = memoryview(data)
    while rest:
        written = os.pwrite(descriptor, rest, offset)
        rest, offset = rest[written:], offset + written
