"""Chunk maps: every vector; lengths, tensors and hashes hang together or are refused."""

import hashlib
import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from protocol.chunkmap import MAX_CHUNK_MAP_BYTES, ChunkMap, decode_chunk_map, encode_chunk_map, make_chunk_map
from protocol.digest import digest_of
from protocol.errors import ChunkMapInvalid

VECTORS = Path(__file__).parents[2] / "specs" / "vectors" / "0008-chunk-map"
ACCEPTED = json.loads((VECTORS / "accepted.json").read_text())
REFUSED = json.loads((VECTORS / "refused.json").read_text())


def _map(content: bytes, lengths: list[int], tensors: list[tuple[str, int, int]]) -> ChunkMap:
    chunks, position = [], 0
    for length in lengths:
        chunks.append((blake3(content[position : position + length]).digest(), length))
        position += length
    return make_chunk_map(digest_of(content), len(content), chunks, tensors)


@pytest.mark.parametrize("case", ACCEPTED, ids=lambda case: case["comment"])
def test_accepted_vectors(case: dict[str, Any]) -> None:
    data = bytes.fromhex(case["input"]["map"])
    found = decode_chunk_map(data, case["input"]["blob"], case["input"]["size"])
    assert [[chunk.offset, chunk.length, chunk.blake3.hex()] for chunk in found] == case["chunks"]
    tensors = [[t.name, t.offset, t.length, t.first_chunk, t.hash.hex()] for t in found.tensors]
    assert tensors == case["tensors"]
    assert encode_chunk_map(found) == data


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case["comment"])
def test_refused_vectors(case: dict[str, Any]) -> None:
    with pytest.raises(ChunkMapInvalid):
        decode_chunk_map(bytes.fromhex(case["input"]["map"]), case["input"]["blob"], case["input"]["size"])


@given(st.lists(st.integers(1, 300), max_size=30), st.data())
def test_what_is_written_reads_back(lengths: list[int], data: st.DataObject) -> None:
    content = hashlib.shake_128(b"content").digest(sum(lengths))
    edges = [sum(lengths[:index]) for index in range(len(lengths) + 1)]
    cuts = sorted(data.draw(st.sets(st.sampled_from(edges)))) if lengths else []
    tensors = [(f"t{start}", start, end - start) for start, end in itertools.pairwise(cuts)]
    chunk_map = _map(content, lengths, tensors)
    decoded = decode_chunk_map(encode_chunk_map(chunk_map), chunk_map.blob, len(content))
    assert (decoded.tensors, decoded.records, decoded.edges) == (chunk_map.tensors, chunk_map.records, chunk_map.edges)
    for chunk in decoded:
        assert blake3(content[chunk.offset : chunk.offset + chunk.length]).digest() == chunk.blake3
        assert decoded.chunk_at(chunk.offset) == decoded.chunk_at(chunk.offset + chunk.length - 1) == chunk.index


def test_a_tensor_has_the_same_hash_wherever_it_lies() -> None:
    head, tensor = bytes(10), hashlib.shake_128(b"tensor").digest(200)
    one = _map(head + tensor, [10, 150, 50], [("w", 10, 200)])
    other = _map(tensor, [150, 50], [("renamed", 0, 200)])
    assert one.tensors[0].hash == other.tensors[0].hash


@pytest.mark.parametrize(
    "tensors",
    [[("a", 5, 5)], [("a", 0, 20), ("b", 10, 10)], [("a", 0, 10), ("a", 10, 10)], [("", 0, 10)], [("a", 20, 10)]],
    ids=["not on cuts", "overlap", "one name twice", "no name", "beyond the end"],
)
def test_tensors_that_do_not_fit_make_no_map(tensors: list[tuple[str, int, int]]) -> None:
    with pytest.raises(ChunkMapInvalid):
        _map(bytes(20), [10, 10], tensors)


def test_numbers_outside_the_map_are_index_errors() -> None:
    chunk_map = _map(bytes(20), [10, 10], [])
    for index in (-1, 2):
        with pytest.raises(IndexError):
            chunk_map.chunk(index)
    for offset in (-1, 20):
        with pytest.raises(IndexError):
            chunk_map.chunk_at(offset)


def test_limits_hold_on_both_sides() -> None:
    small = _map(bytes(20), [10, 10], [])
    with pytest.raises(ChunkMapInvalid, match="at most"):
        encode_chunk_map(replace(small, records=bytes(MAX_CHUNK_MAP_BYTES)))
    with pytest.raises(ChunkMapInvalid, match="at most"):
        decode_chunk_map(bytes(MAX_CHUNK_MAP_BYTES + 1), small.blob, small.size)


def test_many_overlapping_tensors_cost_no_quadratic_work() -> None:
    """Each of 20,000 tensors claims the whole blob: refused on order, before 20,000 times 20,000 hashes are joined."""
    count = 20_000
    base = make_chunk_map(digest_of(b""), count, [(bytes(32), 1)] * count)
    whole = make_chunk_map(base.blob, count, [(bytes(32), 1)] * count, [("a", 0, count)]).tensors[0]
    hostile = replace(base, tensors=tuple(replace(whole, name=f"{number:05}") for number in range(count)))
    with pytest.raises(ChunkMapInvalid, match="over its neighbour"):
        decode_chunk_map(encode_chunk_map(hostile), base.blob, count)
