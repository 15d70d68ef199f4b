"""Blobs: bytes under their own digest, there completely or not at all."""

import hashlib
import io
import stat
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Final

from blake3 import blake3

from protocol.chunkmap import ChunkMap
from protocol.digest import Digest, digest_of, parse_digest, short_digest
from protocol.errors import ChunkMapInvalid, DigestInvalid
from store.disk import READ_ONLY, Temporary, disk_errors, flush_directory, open_regular, require_space
from store.errors import BlobMissing, BlobTooLarge, LayerCorrupt
from store.layout import Layout

BLOCK_BYTES: Final = 1 << 20  # stays in the processor's cache between reading and hashing
PAST_CACHE_FROM_BYTES: Final = 64 << 20


class Blobs:
    """The blobs of one store. Reading whole blobs and chunks verifies them; `open` hands out bytes as they lie."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout

    def has(self, digest: Digest) -> bool:
        """Return whether the blob is in the store."""
        return self._stat_size(digest) is not None

    def size(self, digest: Digest) -> int:
        """Return the blob's bytes.

        Raises:
            BlobMissing: it is not in the store.
        """
        size = self._stat_size(digest)
        if size is None:
            raise BlobMissing(digest)
        return size

    def list(self) -> Iterator[Digest]:
        """Yield the digest of every blob, in no order."""
        for path in self.layout.blobs.iterdir():
            try:
                yield parse_digest(path.name)
            except DigestInvalid:
                continue  # not ours; other programs may leave files in an OCI layout

    def open(self, digest: Digest) -> io.FileIO:
        """Return the blob's bytes as they lie on the disk, unbuffered and *not* verified.

        Raises:
            BlobMissing: it is not in the store.
        """
        try:
            return open_regular(self.layout.blob_path(digest))
        except OSError:
            raise BlobMissing(digest) from None

    def read(self, digest: Digest, max_bytes: int) -> bytes:
        """Return the whole blob, verified; at most `max_bytes`.

        Raises:
            BlobMissing, BlobTooLarge: it is not in the store, or larger.
            LayerCorrupt: its bytes changed; it is in quarantine now.
        """
        with self.open(digest) as file, disk_errors(self.layout.blob_path(digest)):
            data = _read_up_to(file, max_bytes + 1)
        if len(data) > max_bytes:
            raise BlobTooLarge(digest, self.size(digest), max_bytes)
        self._require(digest, digest_of(data))
        return data

    def read_chunks(self, chunk_map: ChunkMap, first: int, count: int) -> bytes:
        """Return `count` neighbouring chunks from `first` on, each verified: what a peer may be given.

        Raises:
            BlobMissing: the blob is not in the store.
            LayerCorrupt: a chunk changed on the disk; the blob is in quarantine now.
            ChunkMapInvalid: the blob is what it should be, so it is the map that lies.
        """
        start, end = chunk_map.edges[first], chunk_map.edges[first + count]
        with self.open(chunk_map.blob) as file, disk_errors(self.layout.blob_path(chunk_map.blob)):
            file.seek(start)
            data = _read_up_to(file, end - start)
        for index in range(first, first + count):
            chunk = chunk_map.chunk(index)
            piece = memoryview(data)[chunk.offset - start : chunk.offset - start + chunk.length]
            if blake3(piece).digest() != chunk.blake3:
                # The map may be a stranger's, and the blob another model's: only its own digest speaks against it.
                if self._hash(chunk_map.blob)[0] == chunk_map.blob:
                    raise ChunkMapInvalid(f"chunk {index}", f"not what {short_digest(chunk_map.blob)} holds there")
                self.quarantine(chunk_map.blob)
                raise LayerCorrupt(chunk_map.blob, None, f"at byte {chunk.offset}")
        return data

    def verify(self, digest: Digest) -> int:
        """Hash the whole blob again; return its bytes.

        Raises:
            BlobMissing: it is not in the store.
            LayerCorrupt: its bytes changed; it is in quarantine now.
        """
        found, size = self._hash(digest)
        self._require(digest, found)
        return size

    def publish_bytes(self, content: bytes) -> Digest:
        """Store `content`; when this returns it outlives a power cut.

        Raises:
            DiskFull, DiskFailed: nothing was stored.
        """
        digest = digest_of(content)
        if not self._holds(digest, content):
            with self.writer(len(content)) as writer:
                writer.write(content)
                writer.commit(digest)
        return digest

    def publish_file(self, path: Path, expected: Digest | None = None) -> Digest:
        """Store a copy of the regular file `path`; the digest is that of the bytes that were copied.

        Raises:
            DiskFull, DiskFailed: nothing was stored.
            LayerCorrupt: the bytes are not those of `expected`; nothing was stored.
        """
        with disk_errors(path), open_regular(path) as source, self.writer(path.stat().st_size) as writer:
            while block := source.read(BLOCK_BYTES):
                writer.write(block)
            return writer.commit(expected)

    def writer(self, expected_bytes: int = 0) -> "BlobWriter":
        """Return a writer for a blob whose bytes come piece by piece; `expected_bytes` must fit on the disk."""
        require_space(self.layout.blobs, expected_bytes)
        return BlobWriter(self, expected_bytes)

    def adopt(self, temporary: Temporary, digest: Digest) -> None:
        """Publish a temporary file whose bytes hash to `digest`: durable, read-only, under its name at once."""
        temporary.rename(self.layout.blob_path(digest), READ_ONLY)

    def quarantine(self, digest: Digest) -> None:
        """Take the blob out of the store and keep it aside; nothing is served from there."""
        path = self.layout.blob_path(digest)
        with self.layout.lock, disk_errors(path):
            if path.exists():
                path.replace(self.layout.quarantine_path(digest))
                # A materialised model may share the file: without its stamp it is hashed again before the next use.
                for stamp in self.layout.materialized.glob("*.json"):
                    stamp.unlink(missing_ok=True)
                flush_directory(self.layout.blobs)

    def delete(self, digest: Digest) -> int:
        """Remove the blob; return the bytes freed, 0 when it was not there. The caller knows that nothing needs it."""
        path = self.layout.blob_path(digest)
        with self.layout.lock, disk_errors(path):
            size = self._stat_size(digest)
            path.unlink(missing_ok=True)
        return size or 0

    def _hash(self, digest: Digest) -> tuple[Digest, int]:
        with self.open(digest) as file, disk_errors(self.layout.blob_path(digest)):
            return hash_file(file)

    def _stat_size(self, digest: Digest) -> int | None:
        try:
            status = self.layout.blob_path(digest).lstat()
        except OSError:
            return None
        return status.st_size if stat.S_ISREG(status.st_mode) else None

    def _holds(self, digest: Digest, content: bytes) -> bool:
        """Return whether the blob is there with these bytes: one that changed on the disk is published anew."""
        if self._stat_size(digest) != len(content):
            return False
        with self.open(digest) as file, disk_errors(self.layout.blob_path(digest)):
            return _read_up_to(file, len(content)) == content

    def _require(self, digest: Digest, found: Digest) -> None:
        if found != digest:
            self.quarantine(digest)
            raise LayerCorrupt(digest, found)


class BlobWriter:
    """Takes a blob's bytes in order and hashes them on the way; without `commit` nothing stays.

    Two threads may share the work: one appends and one hashes the same pieces, each in order, until both are done.
    """

    def __init__(self, blobs: Blobs, expected_bytes: int) -> None:
        self._blobs = blobs
        self._expected_bytes = expected_bytes
        self._hash = hashlib.sha256()
        self._written = 0
        with disk_errors(blobs.layout.blobs, expected_bytes):
            self._temporary = blobs.layout.new_temporary()
            if expected_bytes >= PAST_CACHE_FROM_BYTES:
                self._temporary.write_past_cache()

    def write(self, data: bytes | memoryview) -> None:
        """Append and hash `data`.

        Raises:
            DiskFull, DiskFailed: it could not be written.
        """
        self.append(data)
        self.hash(data)

    def append(self, data: bytes | memoryview) -> None:
        """Append `data` without hashing it; whoever does this hashes it as well.

        Raises:
            DiskFull, DiskFailed: it could not be written.
        """
        with disk_errors(self._blobs.layout.blobs, max(len(data), self._expected_bytes - self._written)):
            self._temporary.write(data)
        self._written += len(data)

    def hash(self, data: bytes | memoryview) -> None:
        """Take `data` into the digest without appending it."""
        self._hash.update(data)

    @property
    def digest(self) -> Digest:
        """The digest of what was hashed so far."""
        return Digest(self._hash.hexdigest())

    def commit(self, expected: Digest | None = None) -> Digest:
        """Publish what was written and return its digest.

        Raises:
            LayerCorrupt: it is not `expected`; nothing was published.
            DiskFull, DiskFailed: nothing was published.
        """
        digest = self.digest
        if expected is not None and digest != expected:
            raise LayerCorrupt(expected, digest)
        with disk_errors(self._blobs.layout.blobs, self._written):
            self._blobs.adopt(self._temporary, digest)
        return digest

    def __enter__(self) -> "BlobWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._temporary.__exit__(kind, error, at)


def hash_file(file: io.FileIO) -> tuple[Digest, int]:
    """Return the SHA-256 and the bytes of what is left to read in `file`."""
    state = hashlib.sha256()
    block = memoryview(bytearray(BLOCK_BYTES))
    size = 0
    while count := file.readinto(block):
        state.update(block[:count])
        size += count
    return Digest(state.hexdigest()), size


def _read_up_to(file: io.FileIO, count: int) -> bytes:
    pieces = []
    while count > 0 and (piece := file.read(min(count, BLOCK_BYTES))):
        pieces.append(piece)
        count -= len(piece)
    return b"".join(pieces)
