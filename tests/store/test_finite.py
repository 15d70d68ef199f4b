"""Weights that are no numbers are found in every type, wherever they lie."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.errors import WeightsNotFinite
from store.finite import FiniteCheck
from store.safetensors import Tensor

BAD = {
    "F16": [struct.pack("<e", float("nan")), struct.pack("<e", float("-inf"))],
    "BF16": [b"\xc0\x7f", b"\x80\xff"],
    "F32": [struct.pack("<f", float("nan")), struct.pack("<f", float("inf"))],
    "F64": [struct.pack("<d", float("nan")), struct.pack("<d", float("-inf"))],
    "F8_E5M2": [b"\x7c", b"\xff"],
    "F8_E4M3": [b"\x7f", b"\xff"],
    "F8_E8M0": [b"\xff"],
}
LARGEST = {
    "F8_E8M0": b"\xfe",
    "F16": b"\xff\x7b",
    "BF16": b"\x7f\xff",
    "F32": b"\xff\xff\x7f\x7f",
    "F64": b"\xff" * 6 + b"\xef\xff",
}


def feed(check: FiniteCheck, content: bytes, block: int) -> None:
    for start in range(0, len(content), block):
        check.feed(memoryview(content)[start : start + block])


@given(st.sampled_from(sorted(BAD)), st.data(), st.integers(0, 5), st.integers(1, 40))
def test_one_bad_number_is_found_and_its_tensor_named(kind: str, data: st.DataObject, header: int, block: int) -> None:
    bad = data.draw(st.sampled_from(BAD[kind]))
    place = data.draw(st.integers(0, 9))
    clean = bytes(10 * len(bad))
    spoilt = clean[: place * len(bad)] + bad + clean[(place + 1) * len(bad) :]
    first = Tensor("first", kind, (10,), header, len(clean))
    second = Tensor("second", kind, (10,), header + len(clean), len(clean))
    feed(FiniteCheck("f", [first, second]), bytes(header) + clean + clean, block)
    for tensors, name in ((clean + spoilt, "second"), (spoilt + clean, "first")):
        with pytest.raises(WeightsNotFinite) as caught:
            feed(FiniteCheck("f", [first, second]), bytes(header) + tensors, block)
        assert caught.value.tensor == name


@pytest.mark.parametrize("kind", sorted(LARGEST))
def test_the_largest_numbers_are_numbers(kind: str) -> None:
    content = LARGEST[kind] * 3
    feed(FiniteCheck("f", [Tensor("t", kind, (3,), 0, len(content))]), content, 5)


def test_whole_numbers_and_headers_may_have_any_bits() -> None:
    content = b"\xff" * 64
    feed(FiniteCheck("f", [Tensor("t", "U32", (4,), 32, 16), Tensor("u", "F16", (0,), 48, 0)]), content, 7)
