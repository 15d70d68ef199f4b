"""Safetensors headers: everything is checked before a byte of a tensor is used; one canonical way to write."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from store.errors import DiskFailed, SafetensorsInvalid
from store.safetensors import (
    ALIGNMENT,
    MAX_HEADER_BYTES,
    MAX_TENSORS,
    Tensor,
    encode_header,
    parse_header,
    read_header,
    write_safetensors,
)

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
    assert [tensor.name for tensor in header.tensors] == ["a", "b"]
    assert header.data_start % ALIGNMENT == 0
    assert (
        encode_header({"a": ("F16", (2, 3)), "b": ("F32", (4,))}, {"a": "2", "z": "1"})
        == (tmp_path / "x.safetensors").read_bytes()[: header.data_start]
    )


def test_tensors_whose_bytes_do_not_fit_their_shape_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(SafetensorsInvalid):
        write_safetensors(tmp_path / "x.safetensors", {"a": ("F16", (2, 3), bytes(11))})
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DiskFailed, match=r"none\.safetensors"):
        read_header(tmp_path / "none.safetensors")
