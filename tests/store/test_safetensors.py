"""Safetensors headers: everything is checked before a byte of a tensor is used; one canonical way to write."""

import json
import math
import struct
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from store.errors import DiskFailed, SafetensorsInvalid
from store.safetensors import (
    ALIGNMENT,
    DTYPE_BITS,
    MAX_HEADER_BYTES,
    MAX_TENSORS,
    Tensor,
    canonical_order,
    encode_header,
    parse_header,
    read_header,
    write_safetensors,
    write_tensors,
)

VECTORS = Path(__file__).parents[2] / "specs" / "vectors" / "0021-builds"
CASES = json.loads((VECTORS / "canonical-safetensors.json").read_text())
A = {"dtype": "F16", "shape": [2, 3], "data_offsets": [0, 12]}
B = {"dtype": "F32", "shape": [2], "data_offsets": [12, 20]}


def parse(document: Any, data_bytes: int) -> Any:
    text = document if isinstance(document, bytes) else json.dumps(document).encode()
    data = struct.pack("<Q", len(text)) + text
    return parse_header("x.safetensors", data, len(data) + data_bytes)


def test_a_header_gives_types_shapes_and_places() -> None:
    header = parse({"b": B, "__metadata__": {"format": "mlx"}, "a": A}, 20)
    start = header.data_start
    assert header.tensors == (Tensor("a", "F16", (2, 3), start, 12), Tensor("b", "F32", (2,), start + 12, 8))
    assert header.metadata == {"format": "mlx"}
    assert parse({"a": A, "__metadata__": None}, 12).metadata == {}, "what mlx writes where it was given none"
    assert header.element_count == 8


@pytest.mark.parametrize(
    ("document", "data_bytes", "says"),
    [
        ({"a": A}, 11, "cut off"),
        ({"a": A}, 13, "too long"),
        ({"a": A, "b": {**B, "data_offsets": [13, 21]}}, 21, "gap"),
        ({"a": A, "b": {**B, "data_offsets": [8, 16]}}, 16, "overlaps"),
        ({"a": A, "b": A}, 12, "overlaps"),
        ({"a": {**A, "data_offsets": [0, 10]}}, 10, "12 bytes, not 10"),
        ({"a": {**A, "data_offsets": [12, 0]}}, 12, "not -12"),
        ({"a": {**A, "shape": [2, -3]}}, 12, "no sizes"),
        ({"a": {**A, "shape": [2, 3.0]}}, 12, "no sizes"),
        ({"a": {**A, "shape": [2, True]}}, 12, "no sizes"),
        ({"a": {**A, "shape": "23"}}, 12, "no sizes"),
        ({"a": {**A, "shape": [1] * 17}}, 2, "no sizes"),
        ({"a": {**A, "shape": [1 << 60, 0]}}, 0, "no sizes"),
        ({"a": {**A, "data_offsets": [0]}}, 12, "no sizes"),
        ({"a": {**A, "dtype": "F4"}}, 12, "unknown type"),
        ({"a": {**A, "dtype": ["F16"]}}, 12, "unknown type"),
        ({"a": {**A, "more": 1}}, 12, "expected dtype"),
        ({"a": {"dtype": "F16", "shape": [2, 3]}}, 12, "expected dtype"),
        ({"a": []}, 0, "expected dtype"),
        ({"": A}, 12, "not a tensor's name"),
        ({"a\x1b": A}, 12, "not a tensor's name"),
        ({"n" * 1025: A}, 12, "not a tensor's name"),
        ({"__metadata__": {"a": 1}}, 0, "text by text"),
        ({"__metadata__": []}, 0, "text by text"),
        (b"[]", 0, "begin with"),
        (b" {}", 0, "begin with"),
        (b"{", 0, "header"),
        (b'{"a":1,"a":1}', 0, "twice"),
        (b'{"a":NaN}', 0, "no JSON number"),
        (b"{\xff}", 0, "UTF-8"),
        (b'{"a":' + b"[" * 100_000, 0, "deep"),
        ({f"t{number}": 0 for number in range(MAX_TENSORS + 1)}, 0, "at most 32768"),
        (b"{" + b"{" * 70_000, 0, "more entries"),
    ],
)
def test_what_does_not_hang_together_is_refused(document: Any, data_bytes: int, says: str) -> None:
    with pytest.raises(SafetensorsInvalid, match=says):
        parse(document, data_bytes)


def test_the_headers_length_is_checked_first() -> None:
    for length, says in ((MAX_HEADER_BYTES + 1, "at most"), ((1 << 64) - 1, "at most"), (100, "cut off")):
        with pytest.raises(SafetensorsInvalid, match=says):
            parse_header("x", struct.pack("<Q", length) + b"{}", 10)
    with pytest.raises(SafetensorsInvalid, match="no safetensors"):
        parse_header("x", b"1234567", 7)


def test_what_is_written_is_canonical_and_read_by_the_reference(tmp_path: Path) -> None:
    one, two = np.arange(6, dtype="<f2").reshape(2, 3), np.arange(4, dtype="<f4")
    tensors = {"b": ("F32", (4,), two.tobytes()), "a": ("F16", (2, 3), one.tobytes())}
    write_safetensors(tmp_path / "x.safetensors", tensors, {"z": "1", "a": "2"})
    write_safetensors(tmp_path / "y.safetensors", dict(reversed(tensors.items())), {"a": "2", "z": "1"})
    assert (tmp_path / "x.safetensors").read_bytes() == (tmp_path / "y.safetensors").read_bytes()
    loaded = load_file(tmp_path / "x.safetensors")
    assert np.array_equal(loaded["a"], one)
    assert np.array_equal(loaded["b"], two)
    header = read_header(tmp_path / "x.safetensors")
    assert [tensor.name for tensor in header.tensors] == ["b", "a"]  # the wider numbers first
    assert header.data_start % ALIGNMENT == 0
    assert (
        encode_header({"a": ("F16", (2, 3)), "b": ("F32", (4,))}, {"a": "2", "z": "1"})
        == (tmp_path / "x.safetensors").read_bytes()[: header.data_start]
    )


def test_tensors_of_whole_pages_are_aligned_to_pages_and_all_others_to_their_numbers(tmp_path: Path) -> None:
    shapes = {
        "a": ("U8", (3,)), "b": ("F16", (2048,)), "c": ("F64", (5,)), "d": ("F32", (1024, 3)), "e": ("I8", (0,)),
        "f": ("F16", (7,)), "g": ("F32", (4,)),
    }  # fmt: skip
    tensors = {name: (dtype, shape, bytes(_bytes(dtype, shape))) for name, (dtype, shape) in shapes.items()}
    write_safetensors(tmp_path / "x.safetensors", tensors)
    header = read_header(tmp_path / "x.safetensors")
    assert [tensor.name for tensor in header.tensors] == ["b", "d", "e", "c", "g", "f", "a"]
    for tensor in header.tensors:
        assert tensor.offset % (ALIGNMENT if tensor.name in "bde" else DTYPE_BITS[tensor.dtype] // 8) == 0
    assert load_file(tmp_path / "x.safetensors")["d"].shape == (1024, 3)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["comment"])
def test_canonical_headers(case: dict[str, Any]) -> None:
    types = {name: (dtype, tuple(shape)) for name, (dtype, shape) in case["input"]["tensors"].items()}
    header = encode_header(types, case["input"]["metadata"])
    assert canonical_order(types) == case["output"]["order"]
    assert struct.unpack("<Q", header[:8])[0] == case["output"]["length"] == len(header) - 8
    assert header[8:].decode().rstrip(" ") == case["output"]["header"]


def _bytes(dtype: str, shape: tuple[int, ...]) -> int:
    return math.prod(shape) * DTYPE_BITS[dtype] // 8


def test_tensors_are_written_piece_by_piece_and_never_held_together(tmp_path: Path) -> None:
    shapes = {f"t{number:02}": ("U8", (1 << 20,)) for number in range(64)}

    def read(name: str) -> Iterator[bytes]:
        for _ in range(4):
            yield bytes([int(name[1:])]) * (1 << 18)

    tracemalloc.start()
    write_tensors(tmp_path / "x.safetensors", shapes, read)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 << 20
    assert load_file(tmp_path / "x.safetensors")["t63"].sum() == 63 << 20


def test_a_write_that_fails_half_way_leaves_the_old_file(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "x.safetensors", {"a": ("U8", (2,), b"ab")})
    before = (tmp_path / "x.safetensors").read_bytes()

    def read(name: str) -> Iterator[bytes]:
        yield b"x"
        raise SafetensorsInvalid("x", "stop")

    with pytest.raises(SafetensorsInvalid, match="stop"):
        write_tensors(tmp_path / "x.safetensors", {"a": ("U8", (4,))}, read)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [before]


def test_tensors_whose_bytes_do_not_fit_their_shape_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(SafetensorsInvalid):
        write_safetensors(tmp_path / "x.safetensors", {"a": ("F16", (2, 3), bytes(11))})
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DiskFailed, match=r"none\.safetensors"):
        read_header(tmp_path / "none.safetensors")
