"""Hostile bytes into the delta decoder: only its named error escapes, and no block is larger than its header says."""

import hashlib
from contextlib import suppress

import zstandard
from hypothesis import given
from hypothesis import strategies as st

from protocol.delta import (
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
from protocol.digest import digest_of
from protocol.errors import DeltaInvalid

BASE = hashlib.shake_128(b"base").digest(512)
REGIONS = (Region(40, 1, None), Region(256, 2, 0), Region(256, 4, 256))
HEADER = DeltaHeader(digest_of(BASE), 512, digest_of(b"target"), 552, REGIONS)
FRAMES = [encode_frame(BASE[::-1][: region.length], None, region.width) for region in REGIONS]
VALID = encode_delta_header(HEADER) + b"".join(FRAMES)


def _apply(data: bytes) -> None:
    with suppress(DeltaInvalid):
        size = delta_header_bytes(data)
        header = decode_delta_header(data[:size])
        assert encode_delta_header(header) == data[:size]
        for block in header.blocks():
            length = frame_bytes(data[size : size + LENGTH_BYTES], block)
            size += LENGTH_BYTES
            base = None if block.base_offset is None else BASE[block.base_offset : block.base_offset + block.length]
            assert len(decode_frame(data[size : size + length], block, base)) == block.length
            size += length


@given(st.binary(max_size=400))
def test_any_bytes(data: bytes) -> None:
    _apply(data)


@given(st.integers(0, len(VALID) - 1), st.binary(min_size=1, max_size=8), st.integers(-40, 40))
def test_a_delta_with_bytes_changed_and_cut(position: int, change: bytes, cut: int) -> None:
    data = VALID[:position] + change + VALID[position + len(change) :]
    _apply(data[:cut] if cut < 0 else data + bytes(cut))


@given(st.binary(max_size=64), st.integers(1, 1 << 20), st.booleans())
def test_any_frame(data: bytes, length: int, is_zstd: bool) -> None:
    frame = zstandard.MAGIC_NUMBER.to_bytes(4, "little") + data if is_zstd else data
    with suppress(DeltaInvalid):
        assert len(decode_frame(frame, Region(length, 1, None), None)) == length
