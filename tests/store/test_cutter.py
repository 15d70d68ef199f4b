"""The cutter: pinned cut points, the same for every way in which the bytes arrive."""

import hashlib
import json
import math
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
from store.cutter import TensorCutter, cutter_of
from store.safetensors import DTYPE_BITS, SafetensorsHeader, Tensor

VECTORS = Path(__file__).parents[2] / "specs" / "vectors" / "0008-chunk-map"
CASES = json.loads((VECTORS / "cuts.json").read_text())
ROWS = json.loads((VECTORS / "rows.json").read_text())


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


def tensor_of(name: str, dtype: str, shape: list[int], offset: int) -> Tensor:
    return Tensor(name, dtype, tuple(shape), offset, math.prod(shape) * DTYPE_BITS[dtype] // 8)


def cut_tensors(tensors: list[Tensor], content: bytes, block: int) -> list[bytes]:
    cutter = cutter_of(SafetensorsHeader(tuple(tensors), {}, tensors[0].offset), len(content))
    pieces = (content[start : start + block] for start in range(0, len(content), block))
    return [bytes(chunk) for piece in pieces for chunk in cutter.cut(piece)]


@pytest.mark.parametrize("case", ROWS, ids=lambda case: case["comment"])
def test_row_vectors(case: dict[str, Any]) -> None:
    tensor = tensor_of("t", **case["input"])
    end = tensor.offset + tensor.length
    content = stream("rows", end)
    inside = [place for place in _ends(cut_tensors([tensor], content, end + 1)) if place > tensor.offset]
    by_content = [place for place in _ends(cut(content, [tensor.offset], [])) if place > tensor.offset]
    assert inside == (case["ends"] or by_content)


def _ends(chunks: list[bytes]) -> list[int]:
    return list(accumulate(len(chunk) for chunk in chunks))


@pytest.mark.parametrize("block", [1000, 4096, 57_344, 100_000, 1 << 20])
def test_rows_are_cut_the_same_in_blocks_of_any_size(block: int) -> None:
    tensors = [
        tensor_of("a", "F16", [100, 896], 5000),
        tensor_of("b", "F16", [70_000], 184_200),
        tensor_of("c", "F16", [7, 3], 324_200),
        tensor_of("d", "F16", [64, 896], 324_242),
    ]
    content = CONTENT[: 324_242 + 64 * 1792]
    assert cut_tensors(tensors, content, block) == cut_tensors(tensors, content, len(content))
    assert b"".join(cut_tensors(tensors, content, block)) == content


def test_tensors_that_were_joined_or_grew_keep_their_chunks() -> None:
    q, k = CONTENT[: 128 * 896], CONTENT[200_000 : 200_000 + 64 * 896]
    alone = [tensor_of("q", "U8", [128, 896], 1), tensor_of("k", "U8", [64, 896], 1 + len(q))]
    apart = cut_tensors(alone, b"h" + q + k, 1 << 20)
    joined = cut_tensors([tensor_of("qk", "U8", [192, 896], 2)], b"hh" + q + k, 1 << 20)
    grown = cut_tensors([tensor_of("q", "U8", [133, 896], 2)], b"hh" + q + bytes(5 * 896), 1 << 20)
    assert set(joined) - set(apart) == {b"hh"}
    assert set(grown) - set(apart) == {b"hh", bytes(5 * 896)}
