"""Taking a file into the store in one pass: copied, hashed, cut, its weights checked, from the same bytes."""

import io
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from mmap import mmap
from pathlib import Path
from typing import Final

from blake3 import blake3

from protocol.chunkmap import ChunkMap, encode_chunk_map, make_chunk_map
from protocol.digest import digest_of
from protocol.manifest import Descriptor, pin_chunk_map
from store.blobs import Blobs, BlobWriter
from store.cutter import cutter_of
from store.disk import disk_errors
from store.errors import SourceInvalid
from store.finite import FiniteCheck
from store.leases import Lease
from store.safetensors import SafetensorsHeader, Tensor

BLOCK_BYTES: Final = 16 << 20  # large, because each costs three threads a turn at the interpreter
BLOCKS: Final = 4
# Below this a file is fetched whole: its map would save nothing.
MAPPED_FROM_BYTES: Final = 256 << 10


@dataclass(frozen=True)
class Ingested:
    """A file that is in the store now; `annotations` pin its chunk map, which is in the store as well."""

    blob: Descriptor
    chunk_map: ChunkMap | None
    annotations: dict[str, str]


class Ingestion:
    """One file on its way into the store; one thread writes, one hashes, and this one reads, cuts and checks."""

    def __init__(self, blobs: Blobs, lease: Lease, filepath: str, size: int, header: SafetensorsHeader | None) -> None:
        self._blobs = blobs
        self._lease = lease
        self._filepath = filepath
        self._size = size
        self._tensors: Sequence[Tensor] = header.tensors if header else ()
        self._mapped = header is not None or size >= MAPPED_FROM_BYTES
        self._cutter = cutter_of(header, size)
        self._finite = FiniteCheck(filepath, self._tensors)
        self._chunks: list[tuple[bytes, int]] = []

    def run(self, source: io.FileIO, media_type: str) -> Ingested:
        """Store what `source` holds from its current position on; see `ingest_file`."""
        with self._blobs.writer(self._size) as writer:
            read = self._copy(source, writer)
            if read != self._size:
                raise SourceInvalid(self._filepath, f"changed while it was read: {read} bytes, not {self._size}")
            self._lease.add(writer.digest)
            digest = writer.commit()
        blob = Descriptor(digest, self._size, media_type)
        if not self._mapped:
            return Ingested(blob, None, {})
        tensors = [(tensor.name, tensor.offset, tensor.length) for tensor in self._tensors]
        chunk_map = make_chunk_map(digest, self._size, self._chunks, tensors)
        encoded = encode_chunk_map(chunk_map)
        self._lease.add(digest_of(encoded))
        return Ingested(blob, chunk_map, pin_chunk_map(self._blobs.publish_bytes(encoded), len(encoded)))

    def _copy(self, source: io.FileIO, writer: BlobWriter) -> int:
        read = 0
        blocks = deque(memoryview(mmap(-1, BLOCK_BYTES)) for _ in range(BLOCKS))  # on pages, see `write_past_cache`
        busy: deque[tuple[memoryview, Future[None], Future[None]]] = deque()
        with ThreadPoolExecutor(1) as writing, ThreadPoolExecutor(1) as hashing:
            # One byte more than expected: a file that grew meanwhile is noticed.
            while count := source.readinto(blocks[0][: self._size + 1 - read]):
                read += count
                block = blocks[0][:count]
                busy.append(
                    (blocks.popleft(), writing.submit(writer.append, block), hashing.submit(writer.hash, block))
                )
                self._look_at(block)
                if not blocks:
                    blocks.append(_done(*busy.popleft()))
            for waiting in busy:
                _done(*waiting)
        return read

    def _look_at(self, block: memoryview) -> None:
        if self._mapped:
            self._chunks.extend((blake3(chunk).digest(), len(chunk)) for chunk in self._cutter.cut(block))
            self._finite.feed(block)


def _done(block: memoryview, written: Future[None], hashed: Future[None]) -> memoryview:
    """Return `block` for the next bytes, once nobody needs it any more."""
    written.result()
    hashed.result()
    return block


def ingest_file(
    blobs: Blobs,
    lease: Lease,
    source: io.FileIO,
    size: int,
    filepath: str,
    media_type: str,
    header: SafetensorsHeader | None,
) -> Ingested:
    """Store the `size` bytes of `source` from its current position, and their chunk map; `header` is set for weights.

    `lease` keeps both from before they are in the store.

    Raises:
        WeightsNotFinite: a weight is NaN or infinite; nothing was stored.
        SourceInvalid: the file changed its size meanwhile; nothing was stored.
        DiskFull, DiskFailed: nothing was stored.
    """
    with disk_errors(Path(filepath)):  # reading it; what is written names its own place
        return Ingestion(blobs, lease, filepath, size, header).run(source, media_type)
