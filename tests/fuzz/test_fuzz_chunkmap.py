"""Hostile bytes into the chunk map decoder: what it accepts, it would have written the same."""

from contextlib import suppress

from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from protocol.chunkmap import decode_chunk_map, encode_chunk_map, make_chunk_map
from protocol.digest import digest_of
from protocol.errors import ChunkMapInvalid

CONTENT = bytes(range(256)) * 2
CHUNKS = [(blake3(CONTENT[start : start + 128]).digest(), 128) for start in range(0, 512, 128)]
VALID = encode_chunk_map(
    make_chunk_map(digest_of(CONTENT), 512, CHUNKS, [("a", 128, 256), ("b", 384, 128), ("c", 128, 0)])
)


def _decode(data: bytes) -> None:
    with suppress(ChunkMapInvalid):
        assert encode_chunk_map(decode_chunk_map(data, digest_of(CONTENT), 512)) == data


@given(st.binary(max_size=300))
def test_any_bytes(data: bytes) -> None:
    _decode(data)


@given(st.integers(0, len(VALID) - 1), st.binary(min_size=1, max_size=8), st.integers(-40, 40))
def test_a_map_with_bytes_changed_and_cut(position: int, change: bytes, cut: int) -> None:
    data = VALID[:position] + change + VALID[position + len(change) :]
    _decode(data[:cut] if cut < 0 else data + bytes(cut))
