"""Deltas between blobs of this store: made where every weight moved a little, applied as a stream (specs/0025)."""

import io
import os
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

from protocol.chunkmap import ChunkMap
from protocol.delta import (
    FIXED_BYTES,
    LENGTH_BYTES,
    DeltaHeader,
    Region,
    decode_delta_header,
    decode_frame,
    delta_header_bytes,
    encode_delta_header,
    encode_frame,
    frame_bytes,
)
from protocol.digest import Digest
from protocol.errors import DeltaInvalid
from protocol.manifest import Layer
from store.blobs import Blobs, BlobWriter
from store.disk import disk_errors
from store.errors import SafetensorsInvalid
from store.leases import Lease
from store.models import ModelStore
from store.safetensors import DTYPE_BITS, SafetensorsHeader, Tensor, read_header

BLOCKS_AT_ONCE: Final = 2
WORTH: Final = 0.6  # of the target's bytes; above it the whole file costs little more and no reading of the base


def delta_limit(base: ChunkMap, target: ChunkMap) -> int:
    """Return how large a delta may be to be worth it: half of the chunks that the base lacks, so often zero or little.

    A blob that differs in a few tensors is moved by its chunks; only one whose every chunk changed needs a delta.
    """
    known = {chunk.blake3 for chunk in base}
    lacking = {chunk.blake3: chunk.length for chunk in target if chunk.blake3 not in known}
    return sum(lacking.values()) // 2


def make_delta(
    store: ModelStore, base: Digest, target: Digest, lease: Lease, max_bytes: int | None = None
) -> Digest | None:
    """Return the delta blob from `base` to `target`, both hashed first; `lease` keeps it from before it is there.

    None where it is not worth it: one of the two is no safetensors file, no tensor has a counterpart, or the delta
    would be larger than `max_bytes` (60 % of the target when not given). The same two blobs give the same delta with
    the same zstd.

    Raises:
        BlobMissing, LayerCorrupt: a blob is gone or changed.
        DiskFull, DiskFailed: nothing was stored.
    """
    header = _plan(store.blobs, base, target)
    if header is None:
        return None
    limit = int(header.target_size * WORTH) if max_bytes is None else max_bytes
    for blob in (base, target):
        store.blobs.verify(blob)
    with store.blobs.open(base) as old, store.blobs.open(target) as new, store.blobs.writer(limit) as writer:
        writer.write(encoded := encode_delta_header(header))
        left = limit - len(encoded)
        for frame in _encode(header, old, new):
            left -= len(frame)
            if left < 0:
                return None
            writer.write(frame)
        lease.add(writer.digest)
        return writer.commit()


def apply_delta(store: ModelStore, delta: Digest, base: Digest, target: Layer) -> None:
    """Make the blob of `target` from `base` and `delta`, all three in this store or in the caller's lease.

    It streams in less than 32 MiB; the output must have the size and digest of `target` before it is published. Its
    chunks are remembered where its chunk map is in the store. Nothing is done where the blob is there already.

    Raises:
        DeltaInvalid: no delta from this base to this target, or its output is another file; nothing was published.
        BlobMissing, LayerCorrupt: the delta or the base is gone, or the base changed on the disk.
        DiskFull, DiskFailed: nothing was published.
    """
    if not store.blobs.has(target.digest):
        with store.blobs.open(delta) as stream, store.blobs.open(base) as old:
            _apply(store, stream, old, base, target)
    pin = target.chunk_map
    if pin and store.blobs.has(pin.digest) and (chunk_map := store.chunk_map(target)):
        store.chunks.add(target.digest, chunk_map)


def _plan(blobs: Blobs, base: Digest, target: Digest) -> DeltaHeader | None:
    """Return which bytes of the target are told from which of the base; tensors are paired by name."""
    base_size, target_size = blobs.size(base), blobs.size(target)
    try:
        old, new = (read_header(blobs.layout.blob_path(digest)) for digest in (base, target))
    except SafetensorsInvalid:
        return None
    regions = tuple(_merged(_regions(old, new)))
    if all(region.base_offset is None for region in regions):
        return None
    return DeltaHeader(base, base_size, target, target_size, regions)


def _regions(old: SafetensorsHeader, new: SafetensorsHeader) -> Iterator[Region]:
    counterparts = {tensor.name: tensor for tensor in old.tensors}
    yield Region(new.data_start, 1, None)
    for tensor in new.tensors:
        width = max(1, DTYPE_BITS[tensor.dtype] // 8)
        shared = _shared_bytes(counterparts, tensor)
        if shared:
            yield Region(shared, width, counterparts[tensor.name].offset)
        if tensor.length > shared:
            yield Region(tensor.length - shared, width, None)


def _shared_bytes(counterparts: Mapping[str, Tensor], tensor: Tensor) -> int:
    """Return how many of a tensor's first bytes stand in the same rows of its counterpart, which may have grown."""
    old = counterparts.get(tensor.name)
    if old is None or old.dtype != tensor.dtype or old.shape[1:] != tensor.shape[1:]:
        return 0
    return min(old.length, tensor.length)


def _merged(regions: Iterator[Region]) -> Iterator[Region]:
    """Join neighbours that go on where the one before ended: a thousand small tensors need no thousand frames."""
    last = next(regions)
    for region in regions:
        follows = None if last.base_offset is None else last.base_offset + last.length
        if region.width == last.width and region.base_offset == follows:
            last = Region(last.length + region.length, last.width, last.base_offset)
        else:
            yield last
            last = region
    yield last


def _encode(header: DeltaHeader, old: io.FileIO, new: io.FileIO) -> Iterator[bytes]:
    """Yield the frames in order; two threads compress."""
    waiting: deque[Future[bytes]] = deque()
    position = 0
    with ThreadPoolExecutor(BLOCKS_AT_ONCE) as encoding:
        for block in header.blocks():
            waiting.append(encoding.submit(_encode_block, block, position, old, new))
            position += block.length
            if len(waiting) > BLOCKS_AT_ONCE:
                yield waiting.popleft().result()
        for frame in waiting:
            yield frame.result()


def _encode_block(block: Region, position: int, old: io.FileIO, new: io.FileIO) -> bytes:
    return encode_frame(os.pread(new.fileno(), block.length, position), _base_of(block, old), block.width)


def _base_of(block: Region, old: io.FileIO) -> bytes | None:
    return None if block.base_offset is None else os.pread(old.fileno(), block.length, block.base_offset)


def _apply(store: ModelStore, stream: io.FileIO, old: io.FileIO, base: Digest, target: Layer) -> None:
    with disk_errors(store.layout.blobs):
        header = _read_header(stream, base, os.fstat(old.fileno()).st_size, target)
    with store.blobs.writer(target.size) as writer:
        with disk_errors(store.layout.blobs):
            _write_blocks(header, stream, old, writer)
        if writer.digest != target.digest:
            store.blobs.verify(base)  # a base that changed on the disk is not the delta's fault
            raise DeltaInvalid("output", f"hashes to {writer.digest[:12]}, not {target.digest[:12]}")
        writer.commit(target.digest)


def _read_header(stream: io.FileIO, base: Digest, base_size: int, target: Layer) -> DeltaHeader:
    prefix = stream.read(FIXED_BYTES)
    header = decode_delta_header(prefix + stream.read(delta_header_bytes(prefix) - FIXED_BYTES))
    if (header.base, header.base_size) != (base, base_size):
        raise DeltaInvalid("header", f"from {header.base[:12]} of {header.base_size} bytes, not {base[:12]}")
    if (header.target, header.target_size) != (target.digest, target.size):
        raise DeltaInvalid("header", f"to {header.target[:12]} of {header.target_size} bytes, not {target.digest[:12]}")
    return header


def _write_blocks(header: DeltaHeader, stream: io.FileIO, old: io.FileIO, writer: BlobWriter) -> None:
    """Unpack here while a thread hashes and writes."""
    waiting: deque[Future[None]] = deque()
    with ThreadPoolExecutor(1) as writing:
        for block in header.blocks():
            frame = _next_frame(stream, block)
            waiting.append(writing.submit(writer.write, decode_frame(frame, block, _base_of(block, old))))
            if len(waiting) > BLOCKS_AT_ONCE:
                waiting.popleft().result()
        for written in waiting:
            written.result()
    if stream.read(1):
        raise DeltaInvalid("end", "bytes after the last frame")


def _next_frame(stream: io.FileIO, block: Region) -> bytes:
    length = frame_bytes(stream.read(LENGTH_BYTES), block)
    frame = stream.read(length)
    if len(frame) != length:
        raise DeltaInvalid("frame", f"cut off after {len(frame)} of {length} bytes")
    return frame
