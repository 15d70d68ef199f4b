"""Hostile headers into the safetensors reader: only the named error, and no memory beyond the header's own size."""

import json
import struct
import tracemalloc
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.errors import SafetensorsInvalid
from store.safetensors import MAX_COMMAS, MAX_HEADER_BYTES, parse_header

numbers = st.integers(-2, 40) | st.integers() | st.floats() | st.none() | st.booleans() | st.text(max_size=3)
tensors = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F16", "F32", "U8", "F4", 1]),
        "shape": st.lists(numbers, max_size=4) | numbers,
        "data_offsets": st.lists(numbers, max_size=3) | numbers,
    }
)
headers = st.dictionaries(st.text(max_size=8) | st.just("__metadata__"), tensors | numbers, max_size=4)


def _parse(text: bytes, data_bytes: int, length: int | None = None) -> None:
    prefix = struct.pack("<Q", len(text) if length is None else length)
    with suppress(SafetensorsInvalid):
        header = parse_header("x.safetensors", prefix + text, 8 + len(text) + data_bytes)
        assert header.data_start + sum(tensor.length for tensor in header.tensors) == 8 + len(text) + data_bytes


@given(headers, st.integers(0, 100))
def test_any_header(header: object, data_bytes: int) -> None:
    _parse(json.dumps(header).encode(), data_bytes)


@given(st.binary(max_size=200), st.integers(0, 100), st.none() | st.integers(0, (1 << 64) - 1))
def test_any_bytes(text: bytes, data_bytes: int, length: int | None) -> None:
    _parse(text, data_bytes, length)


@pytest.mark.parametrize(
    "text",
    [
        b"{" + b'"a":[],' * (MAX_HEADER_BYTES // 7 - 1) + b'"b":1}',
        b"{" + b'"":{' * (MAX_HEADER_BYTES // 4 - 1),
        b'{"a":' + b"[" * (MAX_HEADER_BYTES - 5),
        b"{" + b",".join(b'"%05x":1' % number for number in range(MAX_COMMAS)) + b"}",
    ],
    ids=["many lists", "many objects", "deep", "as many entries as are read"],
)
def test_a_header_full_of_nothing_costs_no_multiple_of_itself(text: bytes) -> None:
    data = struct.pack("<Q", len(text)) + text
    tracemalloc.start()
    with pytest.raises(SafetensorsInvalid):
        parse_header("x.safetensors", data, len(data))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * MAX_HEADER_BYTES
