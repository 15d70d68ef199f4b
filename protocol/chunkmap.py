"""Chunk maps: where a blob may be cut, and the BLAKE3 hash of every piece (specs/0008).

Readers use the lengths that are written down and never run the cutter; the cutter's parameters stand here because
they are part of the format: another cutter is another algorithm number.
"""

import struct
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from blake3 import blake3

from protocol.digest import Digest, parse_digest
from protocol.errors import ChunkMapInvalid

MAGIC: Final = b"TNCM"
VERSION: Final = 1
# Algorithm 2: cuts at the end of a safetensors header and at every tensor's edge. A tensor with rows is cut after every
# so many of them, so that what was joined to it or added to it leaves its chunks as they are. Anything else is cut by
# FastCDC 2020 with gear seed 0, these bounds and no normalisation: one mask, so that a cut does not depend on where
# its chunk began.
ALGORITHM: Final = 2
MAX_ROWS_BYTES: Final = 96 << 10
MIN_CHUNK_BYTES: Final = 8 << 10
AVERAGE_CHUNK_BYTES: Final = 64 << 10
MAX_CHUNK_BYTES: Final = 128 << 10
NORMALIZATION: Final = 0

MAX_CHUNK_MAP_BYTES: Final = 64 << 20
MAX_TENSOR_NAME_BYTES: Final = 1024
HASH_BYTES: Final = 32

_HEADER: Final = struct.Struct(">4sHHQ32sIII4x")  # magic, version, algorithm, size, sha256, tensors, table, chunks
_TENSOR: Final = struct.Struct(">QQ32sI")  # offset, length, hash, first chunk; before it u16 length and the name
_RECORD: Final = struct.Struct(">32sI")  # BLAKE3, length
_RECORD_LENGTH: Final = struct.Struct(">32xI")


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a blob: its number, its place in bytes and its BLAKE3 hash."""

    index: int
    offset: int
    length: int
    blake3: bytes


@dataclass(frozen=True)
class TensorSpan:
    """A tensor's bytes in a blob; `hash` is BLAKE3 over u64be length and the hashes of the tensor's chunks."""

    name: str
    offset: int
    length: int
    hash: bytes
    first_chunk: int


@dataclass(frozen=True, eq=False)
class ChunkMap:
    """The cuts of one blob: `len(map)` chunks that cover it without a gap.

    `records` holds 36 bytes a chunk (BLAKE3, u32be length) and `edges` the offset of every chunk and of the end, so
    that a map of 200,000 chunks costs 9 MB and not 30.
    """

    blob: Digest
    size: int
    tensors: tuple[TensorSpan, ...]
    records: bytes
    edges: "array[int]"

    def __len__(self) -> int:
        return len(self.edges) - 1

    def __iter__(self) -> Iterator[Chunk]:
        return (self.chunk(index) for index in range(len(self)))

    def chunk(self, index: int) -> Chunk:
        """Return chunk `index`; IndexError outside 0 … len - 1."""
        if not 0 <= index < len(self):
            raise IndexError(f"chunk {index} of {len(self)}")
        offset = self.edges[index]
        start = index * _RECORD.size
        return Chunk(index, offset, self.edges[index + 1] - offset, self.records[start : start + HASH_BYTES])

    def chunk_at(self, offset: int) -> int:
        """Return the number of the chunk that holds the byte at `offset`; IndexError outside the blob."""
        if not 0 <= offset < self.size:
            raise IndexError(f"byte {offset} of {self.size}")
        return bisect_right(self.edges, offset) - 1


def make_chunk_map(
    blob: Digest,
    size: int,
    chunks: Iterable[tuple[bytes, int]],
    tensors: Iterable[tuple[str, int, int]] = (),
) -> ChunkMap:
    """Return the map of `blob` from its (BLAKE3, length) pairs in order and its (name, offset, length) tensors.

    Raises:
        ChunkMapInvalid: lengths that do not add up to `size`, or a tensor whose edges are no cuts.
    """
    records = b"".join(_RECORD.pack(digest, length) for digest, length in chunks)
    edges = _edges(records, size)
    spans = []
    for name, offset, length in sorted(tensors, key=lambda tensor: (tensor[1], tensor[2], tensor[0])):
        first, last = _tensor_chunks(name, edges, offset, length)
        spans.append(TensorSpan(name, offset, length, _tensor_hash(records, length, first, last), first))
    return ChunkMap(blob, size, _checked_order(tuple(spans)), records, edges)


def encode_chunk_map(chunk_map: ChunkMap) -> bytes:
    """Return the bytes of `chunk_map` in version 1.

    Raises:
        ChunkMapInvalid: more than 64 MiB, the limit for a blob of about 120 GB.
    """
    table = b"".join(_encode_tensor(tensor) for tensor in chunk_map.tensors)
    header = _HEADER.pack(
        MAGIC,
        VERSION,
        ALGORITHM,
        chunk_map.size,
        bytes.fromhex(chunk_map.blob),
        len(chunk_map.tensors),
        len(table),
        len(chunk_map),
    )
    data = header + table + chunk_map.records
    if len(data) > MAX_CHUNK_MAP_BYTES:
        raise ChunkMapInvalid("size", f"{len(data)} bytes, at most {MAX_CHUNK_MAP_BYTES} are allowed")
    return data


def decode_chunk_map(data: bytes, blob: Digest, size: int) -> ChunkMap:
    """Return the map in `data`, which must be of the blob with this digest and size.

    Everything that can be checked without the blob is: the lengths cover it, each tensor begins and ends on a cut,
    and each tensor's hash follows from its chunks.

    Raises:
        ChunkMapInvalid: anything else than a version 1 map of that blob.
    """
    if len(data) > MAX_CHUNK_MAP_BYTES:
        raise ChunkMapInvalid("size", f"{len(data)} bytes, at most {MAX_CHUNK_MAP_BYTES} are allowed")
    if len(data) < _HEADER.size:
        raise ChunkMapInvalid("header", f"{len(data)} bytes, {_HEADER.size} expected")
    magic, version, algorithm, found_size, found_blob, tensor_count, table_bytes, chunk_count = _HEADER.unpack_from(
        data
    )
    if magic != MAGIC or version != VERSION or algorithm != ALGORITHM:
        raise ChunkMapInvalid("header", f"{magic!r} version {version} algorithm {algorithm}")
    if any(data[_HEADER.size - 4 : _HEADER.size]):
        raise ChunkMapInvalid("header", "the reserved bytes are not zero")
    if (found_blob.hex(), found_size) != (blob, size):
        raise ChunkMapInvalid(
            "header", f"maps {found_blob.hex()[:12]} of {found_size} bytes, not {blob[:12]} of {size}"
        )
    if len(data) != _HEADER.size + table_bytes + chunk_count * _RECORD.size:
        raise ChunkMapInvalid(
            "header", f"{tensor_count} tensors and {chunk_count} chunks do not fill {len(data)} bytes"
        )
    table_end = _HEADER.size + table_bytes
    records = data[table_end:]
    edges = _edges(records, size)
    tensors = _decode_tensors(data[_HEADER.size : table_end], tensor_count, records, edges)
    return ChunkMap(parse_digest(blob), size, tensors, records, edges)


def _edges(records: bytes, size: int) -> "array[int]":
    lengths = [length for (length,) in _RECORD_LENGTH.iter_unpack(records)]
    if lengths and (min(lengths) == 0 or max(lengths) > MAX_CHUNK_BYTES):
        raise ChunkMapInvalid("chunks", f"a chunk of {min(lengths)} or {max(lengths)} bytes")
    total = sum(lengths)
    if total != size:
        raise ChunkMapInvalid("chunks", f"cover {total} bytes of {size}")
    return array("Q", accumulate(lengths, initial=0))


def _tensor_chunks(name: str, edges: Sequence[int], offset: int, length: int) -> tuple[int, int]:
    first, last = bisect_left(edges, offset), bisect_left(edges, offset + length)
    if last >= len(edges) or edges[first] != offset or edges[last] != offset + length:
        raise ChunkMapInvalid(f"tensor {name[:80]!r}", f"bytes {offset} to {offset + length} do not lie on cuts")
    return first, last


def _tensor_hash(records: bytes, length: int, first: int, last: int) -> bytes:
    size = _RECORD.size
    hashes = (records[index * size : index * size + HASH_BYTES] for index in range(first, last))
    return blake3(length.to_bytes(8, "big") + b"".join(hashes)).digest()


def _encode_tensor(tensor: TensorSpan) -> bytes:
    name = tensor.name.encode()
    place = _TENSOR.pack(tensor.offset, tensor.length, tensor.hash, tensor.first_chunk)
    return len(name).to_bytes(2, "big") + name + place


def _decode_tensors(table: bytes, count: int, records: bytes, edges: Sequence[int]) -> tuple[TensorSpan, ...]:
    if count * (2 + _TENSOR.size) > len(table):
        raise ChunkMapInvalid("tensors", f"{count} tensors do not fit {len(table)} bytes")
    spans = []
    position = 0
    for _ in range(count):
        span, position = _decode_tensor(table, position)
        spans.append(span)
    if position != len(table):
        raise ChunkMapInvalid("tensors", f"{len(table) - position} bytes after the last one")
    # Order first: tensors that do not overlap make the hashing below linear, whatever the sender wrote.
    for span in _checked_order(tuple(spans)):
        first, last = _tensor_chunks(span.name, edges, span.offset, span.length)
        if span.first_chunk != first or span.hash != _tensor_hash(records, span.length, first, last):
            raise ChunkMapInvalid(f"tensor {span.name[:80]!r}", "first chunk or hash do not follow from the chunks")
    return tuple(spans)


def _decode_tensor(table: bytes, position: int) -> tuple[TensorSpan, int]:
    name_end = position + 2 + int.from_bytes(table[position : position + 2], "big")
    end = name_end + _TENSOR.size
    if end > len(table):
        raise ChunkMapInvalid("tensors", "the table ends inside a tensor")
    try:
        name = table[position + 2 : name_end].decode()
    except UnicodeDecodeError:
        raise ChunkMapInvalid("tensors", f"a name that is no UTF-8 at byte {position}") from None
    return TensorSpan(name, *_TENSOR.unpack_from(table, name_end)), end


def _checked_order(tensors: tuple[TensorSpan, ...]) -> tuple[TensorSpan, ...]:
    """Return `tensors` when they are in the one canonical order, do not overlap and have distinct names."""
    end, previous = 0, (-1, -1, "")
    for tensor in tensors:
        order = (tensor.offset, tensor.length, tensor.name)
        if order <= previous or tensor.offset < end:
            raise ChunkMapInvalid(f"tensor {tensor.name[:80]!r}", "out of order or over its neighbour")
        if not 0 < len(tensor.name.encode()) <= MAX_TENSOR_NAME_BYTES:
            raise ChunkMapInvalid("tensors", f"a name of {len(tensor.name.encode())} bytes")
        end, previous = tensor.offset + tensor.length, order
    if len({tensor.name for tensor in tensors}) != len(tensors):
        raise ChunkMapInvalid("tensors", "one name twice")
    return tensors
