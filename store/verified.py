"""A blob's bytes in any order, every one hashed before it is handed out: what leaves this machine (specs/0024).

A layer with a chunk map is read by its chunks. Any other blob is hashed whole once, block by block, and the hashes of
its blocks then stand in for a chunk map: 32 bytes for each MiB.
"""

import hashlib
import io
from dataclasses import dataclass
from typing import Final, Protocol

from blake3 import blake3

from protocol.chunkmap import ChunkMap, decode_chunk_map
from protocol.digest import Digest
from protocol.manifest import Descriptor
from store.blobs import Blobs
from store.disk import disk_errors
from store.errors import LayerCorrupt

BLOCK_BYTES: Final = 1 << 20


class VerifiedBlob(Protocol):
    """Verified bytes of one blob."""

    @property
    def size(self) -> int:
        """Bytes of the blob."""

    def run(self, first: int, end: int, max_bytes: int) -> bytes:
        """Return verified bytes from `first` on: at least one, at most about `max_bytes`, none from `end` on.

        Raises:
            BlobMissing: the blob is not in the store any more.
            LayerCorrupt: a byte of it changed; the blob is in quarantine now.
        """


def open_verified(blobs: Blobs, digest: Digest, size: int, chunk_map: Descriptor | None) -> VerifiedBlob:
    """Return the blob of `size` bytes for verified reading; without a chunk map it is hashed whole now.

    Raises:
        BlobMissing: the blob or its chunk map is not in the store.
        LayerCorrupt: one of them changed; it is in quarantine now.
        ChunkMapInvalid: the pinned blob is no map of this one.
    """
    if blobs.size(digest) != size:
        blobs.quarantine(digest)
        raise LayerCorrupt(digest, None, f"of another size than {size} bytes")
    if chunk_map is not None and size:
        content = blobs.read(chunk_map.digest, chunk_map.size)
        return _Mapped(blobs, decode_chunk_map(content, digest, size))
    return _Blocks(blobs, digest, size, _hash_blocks(blobs, digest))


@dataclass(frozen=True)
class _Mapped:
    blobs: Blobs
    chunk_map: ChunkMap

    @property
    def size(self) -> int:
        return self.chunk_map.size

    def run(self, first: int, end: int, max_bytes: int) -> bytes:
        chunks = self.chunk_map
        start = chunks.chunk_at(first)
        last = chunks.chunk_at(min(end, first + max_bytes) - 1)
        data = self.blobs.read_chunks(chunks, start, last - start + 1)
        offset = chunks.edges[start]
        return _cut(data, first - offset, end - offset)


@dataclass(frozen=True)
class _Blocks:
    blobs: Blobs
    digest: Digest
    size: int
    hashes: bytes

    def run(self, first: int, end: int, max_bytes: int) -> bytes:
        start = first // BLOCK_BYTES
        count = max(1, -(-(min(end, first + max_bytes) - start * BLOCK_BYTES) // BLOCK_BYTES))
        with self.blobs.open(self.digest) as file, disk_errors(self.blobs.layout.blob_path(self.digest)):
            file.seek(start * BLOCK_BYTES)
            data = b"".join(self._block(file, start + index) for index in range(count))
        return _cut(data, first - start * BLOCK_BYTES, end - start * BLOCK_BYTES)

    def _block(self, file: io.FileIO, index: int) -> bytes:
        block = _read_block(file)
        if blake3(block).digest() != self.hashes[index * 32 : index * 32 + 32]:
            self.blobs.quarantine(self.digest)
            raise LayerCorrupt(self.digest, None, f"at byte {index * BLOCK_BYTES}")
        return block


def _cut(data: bytes, first: int, end: int) -> bytes:
    return data if first == 0 and end >= len(data) else data[first:end]


def _hash_blocks(blobs: Blobs, digest: Digest) -> bytes:
    """Return the BLAKE3 of every block of a blob whose SHA-256 was found to be right."""
    state = hashlib.sha256()
    hashes = bytearray()
    with blobs.open(digest) as file, disk_errors(blobs.layout.blob_path(digest)):
        while block := _read_block(file):
            state.update(block)
            hashes += blake3(block).digest()
    if state.hexdigest() != digest:
        blobs.quarantine(digest)
        raise LayerCorrupt(digest, Digest(state.hexdigest()))
    return bytes(hashes)


def _read_block(file: io.FileIO) -> bytes:
    block = bytearray()
    while len(block) < BLOCK_BYTES and (piece := file.read(BLOCK_BYTES - len(block))):
        block += piece
    return bytes(block)
