"""Deltas: one blob told as its difference from another, for weights that all moved a little (specs/0025).

A delta is a header, then one zstd frame for each block of the target, in order. Both sides stream: nothing larger than
the header and one block is ever held.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import zstandard

from protocol.digest import Digest, parse_digest
from protocol.errors import DeltaInvalid

MAGIC: Final = b"TNDL"
VERSION: Final = 1
# Method 1: XOR with the base, byte planes, one zstd frame a block. The level is the writer's choice.
METHOD: Final = 1
ZSTD_LEVEL: Final = 3

BLOCK_BYTES: Final = 1 << 20
MAX_REGIONS: Final = 2 * 32_768 + 1  # two a tensor, and the file's header
MAX_TARGET_BYTES: Final = 1 << 50
WIDTHS: Final = (1, 2, 4, 8)
LENGTH_BYTES: Final = 4  # before each frame, u32be
_SLACK_BYTES: Final = 8 << 10  # what zstd adds to a block that it cannot shrink is far less

_FIXED: Final = struct.Struct(">4sHH32sQ32sQI4x")  # magic, version, method, base, size, target, size, regions
_REGION: Final = struct.Struct(">BB6xQQ")  # 1 where there is a base, bytes an item, base offset, length
FIXED_BYTES: Final = _FIXED.size
MAX_HEADER_BYTES: Final = _FIXED.size + MAX_REGIONS * _REGION.size


@dataclass(frozen=True, slots=True)
class Region:
    """The next `length` bytes of the target: items of `width` bytes, XORed with the base from `base_offset` on.

    `base_offset` is None where the target stands for itself.
    """

    length: int
    width: int
    base_offset: int | None


@dataclass(frozen=True)
class DeltaHeader:
    """What a delta leads from and to; its regions cover the target in order, without gap or overlap."""

    base: Digest
    base_size: int
    target: Digest
    target_size: int
    regions: tuple[Region, ...]

    def blocks(self) -> Iterator[Region]:
        """Yield the regions in blocks of at most 1 MiB: there is one frame for each of these, in this order."""
        for region in self.regions:
            for start in range(0, region.length, BLOCK_BYTES):
                base_offset = None if region.base_offset is None else region.base_offset + start
                yield Region(min(BLOCK_BYTES, region.length - start), region.width, base_offset)


def encode_delta_header(header: DeltaHeader) -> bytes:
    """Return the bytes of `header` in version 1.

    Raises:
        DeltaInvalid: a header that `decode_delta_header` would refuse.
    """
    _check(header)
    fixed = _FIXED.pack(
        MAGIC,
        VERSION,
        METHOD,
        bytes.fromhex(header.base),
        header.base_size,
        bytes.fromhex(header.target),
        header.target_size,
        len(header.regions),
    )
    return fixed + b"".join(
        _REGION.pack(region.base_offset is not None, region.width, region.base_offset or 0, region.length)
        for region in header.regions
    )


def delta_header_bytes(prefix: bytes) -> int:
    """Return the whole header's length from its first 96 bytes: at most 1.5 MiB.

    Raises:
        DeltaInvalid: fewer bytes, another format or version, more than 65,537 regions.
    """
    if len(prefix) < _FIXED.size:
        raise DeltaInvalid("header", f"cut off after {len(prefix)} bytes")
    magic, version, method, *_, regions = _FIXED.unpack_from(prefix)
    if magic != MAGIC or version != VERSION or method != METHOD:
        raise DeltaInvalid("header", f"{magic!r} version {version} method {method}")
    if regions > MAX_REGIONS:
        raise DeltaInvalid("header", f"{regions} regions, at most {MAX_REGIONS} are allowed")
    return int(_FIXED.size + regions * _REGION.size)


def decode_delta_header(data: bytes) -> DeltaHeader:
    """Return the header that `data` is, all of it; whether it leads from and to the right blobs is the caller's.

    Raises:
        DeltaInvalid: anything else than a version 1 header whose regions cover the target and lie within the base.
    """
    expected = delta_header_bytes(data[: _FIXED.size])
    if len(data) != expected:
        raise DeltaInvalid("header", f"{len(data)} bytes, {expected} expected")
    _, _, _, base, base_size, target, target_size, _ = _FIXED.unpack_from(data)
    regions = tuple(_decode_region(*fields) for fields in _REGION.iter_unpack(data[_FIXED.size :]))
    header = DeltaHeader(parse_digest(base.hex()), base_size, parse_digest(target.hex()), target_size, regions)
    if encode_delta_header(header) != data:
        raise DeltaInvalid("header", "bytes that must be zero are not")
    return header


def encode_frame(target: bytes | memoryview, base: bytes | memoryview | None, width: int) -> bytes:
    """Return the frame of one block, its length before it: `target` XOR `base`, as `width` byte planes, compressed."""
    items = np.frombuffer(target, np.uint8)
    if base is not None:
        items = items ^ np.frombuffer(base, np.uint8)
    planes = np.ascontiguousarray(items.reshape(-1, width).T)
    frame = zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress(planes.data)
    return len(frame).to_bytes(LENGTH_BYTES, "big") + frame


def frame_bytes(prefix: bytes, block: Region) -> int:
    """Return the length of the frame that follows `prefix`, its 4 length bytes.

    Raises:
        DeltaInvalid: the stream ended here, or a frame longer than its block could need.
    """
    length = int.from_bytes(prefix, "big")
    if len(prefix) != LENGTH_BYTES or not 0 < length <= block.length + _SLACK_BYTES:
        raise DeltaInvalid("frame", f"cut off, or {length} bytes for a block of {block.length}")
    return length


def decode_frame(frame: bytes, block: Region, base: bytes | memoryview | None) -> bytes:
    """Return the block's bytes from its frame and, where it has a base, exactly that part of the base.

    The frame's own size is checked before anything is unpacked: never more than `block.length` bytes are.

    Raises:
        DeltaInvalid: no zstd frame of exactly this many bytes, or a base that ends before the block does.
    """
    if base is not None and len(base) != block.length:
        raise DeltaInvalid("base", f"ends inside the block at byte {block.base_offset}")
    _check_frame(frame, block)
    try:
        planes = zstandard.ZstdDecompressor().decompress(frame, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise DeltaInvalid("frame", str(error)) from None
    if len(planes) != block.length:
        raise DeltaInvalid("frame", f"unpacks to {len(planes)} bytes, {block.length} expected")
    items = np.frombuffer(planes, np.uint8).reshape(block.width, -1).T
    if base is None:
        return items.tobytes()
    return (np.ascontiguousarray(items).reshape(-1) ^ np.frombuffer(base, np.uint8)).tobytes()


def _check_frame(frame: bytes, block: Region) -> None:
    try:
        facts = zstandard.get_frame_parameters(frame)
    except zstandard.ZstdError as error:
        raise DeltaInvalid("frame", str(error)) from None
    if facts.content_size != block.length or facts.window_size > BLOCK_BYTES or facts.dict_id:
        raise DeltaInvalid("frame", f"says {facts.content_size} bytes, {block.length} expected")


def _decode_region(has_base: int, width: int, base_offset: int, length: int) -> Region:
    if has_base > 1 or (not has_base and base_offset):
        raise DeltaInvalid("regions", f"kind {has_base} with base offset {base_offset}")
    return Region(length, width, base_offset if has_base else None)


def _check(header: DeltaHeader) -> None:
    if len(header.regions) > MAX_REGIONS:
        raise DeltaInvalid("header", f"{len(header.regions)} regions, at most {MAX_REGIONS} are allowed")
    total = 0
    for number, region in enumerate(header.regions):
        if region.width not in WIDTHS or region.length <= 0 or region.length % region.width:
            raise DeltaInvalid(f"region {number}", f"{region.length} bytes in items of {region.width}")
        if region.base_offset is not None and not 0 <= region.base_offset <= header.base_size - region.length:
            raise DeltaInvalid(f"region {number}", f"lies outside the base of {header.base_size} bytes")
        total += region.length
    if total != header.target_size or total > MAX_TARGET_BYTES:
        raise DeltaInvalid("regions", f"cover {total} bytes of {header.target_size}")
