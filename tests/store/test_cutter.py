"""The cutter: pinned cut points, the same for every way in which the bytes arrive."""

import hashlib
import json
import random
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st
from pyfastcdc.py import FastCDC as ReferenceFastCDC

from protocol.chunkmap import AVERAGE_CHUNK_BYTES, MAX_CHUNK_BYTES, MIN_CHUNK_BYTES
from store.cutter import TensorCutter

VECTORS = Path(__file__).parents[2] / "specs" / "vectors" / "0008-chunk-map"
CASES = json.loads((VECTORS / "cuts.json").read_text())


def stream(label: str, count: int) -> bytes:
    if not label:
        return bytes(count)
    blocks = (hashlib.sha256(label.encode() + number.to_bytes(8, "big")).digest() for number in range(count // 32 + 1))
    return b"".join(blocks)[:count]


CONTENT = stream("any", 600_000)


def cut(content: bytes, edges: list[int], blocks: list[int]) -> list[bytes]:
    cutter, position, chunks = TensorCutter(edges, len(content)), 0, []
    for block in [*blocks, len(content)]:
        chunks += [bytes(chunk) for chunk in cutter.cut(content[position : position + block])]
        position += block
    return chunks


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["comment"])
def test_cut_vectors(case: dict[str, Any]) -> None:
    content = stream(case["input"]["label"], case["input"]["bytes"])
    chunks = cut(content, case["input"]["edges"], [])
    assert [len(chunk) for chunk in chunks] == case["lengths"]
    assert blake3(b"".join(blake3(chunk).digest() for chunk in chunks)).hexdigest() == case["hash"]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 700_000), max_size=6), st.lists(st.integers(0, 200_000), max_size=8))
def test_blocks_do_not_move_cuts(edges: list[int], blocks: list[int]) -> None:
    chunks = cut(CONTENT, edges, blocks)
    assert b"".join(chunks) == CONTENT
    assert chunks == cut(CONTENT, edges, [])
    ends = set(accumulate(len(chunk) for chunk in chunks))
    assert {edge for edge in edges if 0 < edge < len(CONTENT)} <= ends
    assert all(0 < len(chunk) <= MAX_CHUNK_BYTES for chunk in chunks)


def test_the_compiled_cutter_agrees_with_the_slow_one() -> None:
    slow = ReferenceFastCDC(
        AVERAGE_CHUNK_BYTES, min_size=MIN_CHUNK_BYTES, max_size=MAX_CHUNK_BYTES, normalized_chunking=0, seed=0
    )
    assert [len(chunk) for chunk in cut(CONTENT, [], [])] == [chunk.length for chunk in slow.cut_buf(CONTENT)]


def test_a_byte_inserted_moves_only_the_cuts_around_it() -> None:
    content = random.Random(1).randbytes(2_000_000)
    before, after = cut(content, [], []), cut(content[:900_000] + b"x" + content[900_000:], [], [])
    assert len(set(after) - set(before)) <= 3


def test_no_bytes_have_no_chunks() -> None:
    assert cut(b"", [], []) == []
