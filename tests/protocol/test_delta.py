"""Deltas: every vector; what is written reads back; a hostile one is refused before anything is unpacked."""

import hashlib
import json
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from protocol.delta import (
    BLOCK_BYTES,
    FIXED_BYTES,
    LENGTH_BYTES,
    MAX_REGIONS,
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

VECTORS = Path(__file__).parents[2] / "specs" / "vectors" / "0025-delta"
ACCEPTED = json.loads((VECTORS / "accepted.json").read_text())
REFUSED = json.loads((VECTORS / "refused.json").read_text())
BASE = hashlib.shake_128(b"base").digest(4096)
TARGET = hashlib.shake_128(b"target").digest(64) + bytes(byte ^ (place % 7 == 0) for place, byte in enumerate(BASE))
REGIONS = (Region(64, 1, None), Region(2048, 2, 0), Region(2048, 8, 2048))


def make(base: bytes, target: bytes, regions: tuple[Region, ...]) -> bytes:
    header = DeltaHeader(digest_of(base), len(base), digest_of(target), len(target), regions)
    frames, position = [], 0
    for block in header.blocks():
        piece = None if block.base_offset is None else base[block.base_offset :][: block.length]
        frames.append(encode_frame(target[position : position + block.length], piece, block.width))
        position += block.length
    return encode_delta_header(header) + b"".join(frames)


def apply(delta: bytes, base: bytes) -> bytes:
    """The whole of specs/0025 in memory, as slowly and plainly as it can be said."""
    size = delta_header_bytes(delta)
    header, output = decode_delta_header(delta[:size]), b""
    for block in header.blocks():
        length = frame_bytes(delta[size : size + LENGTH_BYTES], block)
        size += LENGTH_BYTES
        piece = None if block.base_offset is None else base[block.base_offset : block.base_offset + block.length]
        output += decode_frame(delta[size : size + length], block, piece)
        size += length
    if size != len(delta) or digest_of(output) != header.target:
        raise DeltaInvalid("output", "another")
    return output


@pytest.mark.parametrize("case", ACCEPTED, ids=lambda case: case["comment"])
def test_accepted_vectors(case: dict[str, Any]) -> None:
    assert case["expect"] == "ok"
    delta, base = bytes.fromhex(case["input"]["delta"]), bytes.fromhex(case["input"]["base"])
    assert apply(delta, base).hex() == case["target"]
    header = decode_delta_header(delta[: delta_header_bytes(delta)])
    assert [[region.length, region.width, region.base_offset] for region in header.regions] == case["regions"]


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case["comment"])
def test_refused_vectors(case: dict[str, Any]) -> None:
    assert case["expect"] == "DeltaInvalid"
    with pytest.raises(DeltaInvalid):
        apply(bytes.fromhex(case["input"]["delta"]), bytes.fromhex(case["input"]["base"]))


def test_what_is_written_reads_back() -> None:
    delta = make(BASE, TARGET, REGIONS)
    assert apply(delta, BASE) == TARGET
    assert make(BASE, TARGET, REGIONS) == delta
    assert len(delta) < len(TARGET) / 2


@given(st.lists(st.tuples(st.integers(1, 40), st.sampled_from([1, 2, 4, 8]), st.booleans()), max_size=6))
def test_any_regions(parts: list[tuple[int, int, bool]]) -> None:
    regions = tuple(Region(count * width, width, 3 if has_base else None) for count, width, has_base in parts)
    target = hashlib.shake_128(b"any").digest(sum(region.length for region in regions))
    assert apply(make(BASE, target, regions), BASE) == target


def test_a_region_is_told_in_blocks() -> None:
    header = DeltaHeader(digest_of(b"a"), 3 << 20, digest_of(b"b"), (2 << 20) + 8, (Region((2 << 20) + 8, 4, 16),))
    assert list(header.blocks()) == [
        Region(BLOCK_BYTES, 4, 16),
        Region(BLOCK_BYTES, 4, 16 + BLOCK_BYTES),
        Region(8, 4, 16 + 2 * BLOCK_BYTES),
    ]


@pytest.mark.parametrize(
    "change",
    [
        {"regions": (Region(8, 3, None),)},
        {"regions": (Region(8, 8, -1),)},
        {"regions": (Region(4, 8, None), Region(4, 1, None))},
        {"regions": (Region(8, 8, 4089),)},
        {"regions": (Region(0, 1, None), Region(8, 1, None))},
        {"target_size": 9},
    ],
    ids=["items of 3 bytes", "before the base", "half an item", "beyond the base", "nothing", "a gap"],
)
def test_a_header_that_does_not_hang_together_is_not_written(change: dict[str, Any]) -> None:
    header = DeltaHeader(digest_of(BASE), len(BASE), digest_of(b"12345678"), 8, (Region(8, 8, 0),))
    encode_delta_header(header)
    with pytest.raises(DeltaInvalid):
        encode_delta_header(replace(header, **change))


def test_too_many_regions_are_refused_by_the_first_bytes() -> None:
    prefix = bytearray(encode_delta_header(DeltaHeader(digest_of(b""), 0, digest_of(b""), 0, ())))
    struct.pack_into(">I", prefix, FIXED_BYTES - 8, MAX_REGIONS + 1)
    with pytest.raises(DeltaInvalid, match="65538 regions"):
        delta_header_bytes(bytes(prefix))
    header = DeltaHeader(digest_of(b""), 0, digest_of(b""), MAX_REGIONS + 1, (Region(1, 1, None),) * (MAX_REGIONS + 1))
    with pytest.raises(DeltaInvalid, match="65538 regions"):
        encode_delta_header(header)


def test_a_bomb_is_refused_by_what_it_says_of_itself() -> None:
    bomb = zstandard.ZstdCompressor().compress(bytes(64 << 20))
    assert len(bomb) < 8192
    with pytest.raises(DeltaInvalid, match="says 67108864 bytes, 1024 expected"):
        decode_frame(bomb, Region(1024, 1, None), None)


@pytest.mark.parametrize("size", [1023, 1025])
def test_a_frame_without_its_size_is_refused(size: int) -> None:
    frame = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(size))
    with pytest.raises(DeltaInvalid):
        decode_frame(frame, Region(1024, 1, None), None)


def test_a_frame_with_a_window_larger_than_its_block_is_refused() -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=27, write_content_size=True)
    stream = zstandard.ZstdCompressor(compression_params=parameters).compressobj(size=1024)
    frame = bytearray(stream.compress(bytes(1024)) + stream.flush())
    assert zstandard.get_frame_parameters(bytes(frame)).content_size == 1024
    frame[4] &= ~0x20  # no single segment: a window follows
    frame.insert(5, 0x88)
    with pytest.raises(DeltaInvalid):
        decode_frame(bytes(frame), Region(1024, 1, None), None)
