"""Canonical msgpack: one value, one encoding, and a path in every refusal."""

from collections.abc import Callable
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.codec import MAX_DEPTH, Fields, decode, decode_message, encode, encode_message
from protocol.errors import CodecInvalid, FieldInvalid, NotEncodable

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.binary(max_size=300) | st.text(max_size=80),
    lambda inner: st.lists(inner, max_size=20) | st.dictionaries(st.text(max_size=8), inner, max_size=20),
    max_leaves=30,
)


@given(VALUES)
def test_what_is_encoded_decodes_to_the_same_value(value: object) -> None:
    data = encode(value)
    assert decode(data, len(data)) == value
    assert msgpack.unpackb(data, strict_map_key=True) == value


@given(VALUES, st.data())
def test_one_value_has_one_encoding(value: object, data: Any) -> None:
    good = encode(value)
    at = data.draw(st.integers(0, len(good) - 1))
    bad = good[:at] + bytes([data.draw(st.integers(0, 255))]) + good[at + 1 :]
    try:
        found = decode(bad, len(bad))
    except CodecInvalid:
        return
    assert encode(found) == bad


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "expected 1 bytes"),
        (b"\xcc\x7f", "shortest"),
        (b"\xcd\x00\xff", "shortest"),
        (b"\xd0\x05", "shortest"),
        (b"\xd0\xe0", "shortest"),
        (b"\xd9\x01a", "shortest"),
        (b"\xc5\x00\x01a", "shortest"),
        (b"\xdc\x00\x01\x00", "shortest"),
        (b"\xde\x00\x01\xa1a\x00", "shortest"),
        (b"\x82\xa1b\x00\xa1a\x00", "ascending"),
        (b"\x82\xa1a\x00\xa1a\x00", "ascending"),
        (b"\x81\x01\x00", "text key"),
        (b"\xcb" + bytes(8), "0xcb"),
        (b"\xc1", "0xc1"),
        (b"\xd4\x01\x00", "0xd4"),
        (b"\xa1\xff", "UTF-8"),
        (b"\xa3\xed\xa0\x80", "UTF-8"),
        (b"\x00\x00", "after the end"),
        (b"\x91" * 18 + b"\x00", "levels"),
        (b"\xdd\xff\xff\xff\xff", "expected 1 bytes"),
        (b"\xc6\xff\xff\xff\xff", "expected 4294967295 bytes"),
    ],
)
def test_what_is_not_canonical_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(CodecInvalid) as caught:
        decode(data, 100)
    assert reason in str(caught.value)


def test_size_and_number_of_items_are_capped() -> None:
    with pytest.raises(CodecInvalid):
        decode(bytes(1), 0)
    with pytest.raises(CodecInvalid):
        decode(encode([0] * 10), 100, max_items=10)
    assert decode(encode([0] * 10), 100, max_items=11) == [0] * 10


@pytest.mark.parametrize("value", [1.0, {1: 2}, 2**64, -(2**63) - 1, {"a": object()}, "\ud800", bytearray(b"x")])
def test_what_cannot_be_carried_is_our_own_error(value: object) -> None:
    with pytest.raises(NotEncodable):
        encode(value)


def test_depth_is_the_same_on_both_ways() -> None:
    value: object = 0
    for _ in range(MAX_DEPTH):
        value = [value]
    assert decode(encode(value), 100) == value
    with pytest.raises(NotEncodable):
        encode([value])


def test_a_message_names_its_version_and_type() -> None:
    kind, fields = decode_message(encode_message("ask", n=3), 100)
    assert (kind, fields.int("n", 0, 5)) == ("ask", 3)
    fields.done()


@pytest.mark.parametrize(
    ("value", "path"),
    [([], "message"), ({"v": 2, "t": "ask"}, "message.v"), ({"t": "ask"}, "message.v"), ({"v": 1}, "message.t")],
)
def test_a_message_of_another_shape_is_refused(value: object, path: str) -> None:
    with pytest.raises(FieldInvalid) as caught:
        decode_message(encode(value), 100)
    assert caught.value.path == path


def test_every_getter_checks_type_and_bounds_and_names_the_field() -> None:
    fields = Fields(
        {"i": 5, "b": b"abc", "t": "é", "l": [1], "m": {"x": 1}, "o": True, "s": ["a"], "e": [{"x": 1}]}, "thing"
    )
    assert fields.int("i", 5, 5) == 5
    assert fields.bytes("b", length=3) == b"abc"
    assert fields.text("t", max=2) == "é"
    assert fields.list("l", max=1) == [1]
    assert fields.bool("o") is True
    assert fields.texts("s", max=1, max_each=1) == ("a",)
    assert fields.fields("m").int("x", 0, 1) == 1
    assert fields.each("e", max=1)[0].int("x", 0, 1) == 1
    assert fields.has("i")
    assert not fields.has("zz")
    fields.done()
    attempts: list[tuple[Callable[[], object], str]] = [
        (lambda: fields.int("i", 0, 4), "thing.i"),
        (lambda: fields.int("o", 0, 4), "thing.o"),
        (lambda: fields.int("b", 0, 4), "thing.b"),
        (lambda: fields.bytes("b", length=4), "thing.b"),
        (lambda: fields.bytes("b", max=2), "thing.b"),
        (lambda: fields.bytes("i", max=2), "thing.i"),
        (lambda: fields.text("t", max=1), "thing.t"),
        (lambda: fields.text("i", max=1), "thing.i"),
        (lambda: fields.list("l", max=0), "thing.l"),
        (lambda: fields.list("i", max=0), "thing.i"),
        (lambda: fields.bool("i"), "thing.i"),
        (lambda: fields.texts("s", max=1, max_each=0), "thing.s[0]"),
        (lambda: fields.texts("l", max=1, max_each=9), "thing.l[0]"),
        (lambda: fields.fields("i"), "thing.i"),
        (lambda: fields.each("l", max=1), "thing.l[0]"),
        (lambda: fields.int("zz", 0, 1), "thing.zz"),
    ]
    for attempt, path in attempts:
        with pytest.raises(FieldInvalid) as caught:
            attempt()
        assert caught.value.path == path


def test_unknown_fields_are_refused() -> None:
    fields = Fields({"a": 1, "b": 2}, "thing")
    fields.int("a", 0, 1)
    with pytest.raises(FieldInvalid) as caught:
        fields.done()
    assert caught.value.path == "thing.b"
