"""JSON: one spelling out, strictly in."""

import pytest

from protocol.canonical_json import decode_json, encode_json
from protocol.errors import JsonInvalid


def test_one_spelling() -> None:
    assert encode_json({"b": [1, "é"], "a": {"y": None, "x": True}}) == '{"a":{"x":true,"y":null},"b":[1,"é"]}'.encode()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_without_a_spelling_are_not_written(value: float) -> None:
    with pytest.raises(ValueError, match="Out of range"):
        encode_json(value)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"\xff",
        b'{"a":1,"a":1}',
        b"NaN",
        b"-Infinity",
        b"1e999",
        b"[" * 100_000,
        b"9" * 5000,
        b"[1]" + b" " * 20_000,
    ],
    ids=[
        "empty",
        "open",
        "no UTF-8",
        "key twice",
        "NaN",
        "infinity",
        "too large a number",
        "deep",
        "huge number",
        "too large",
    ],
)
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(JsonInvalid) as caught:
        decode_json(data, 10_000 if data.startswith(b"[1]") else 1 << 20, "thing")
    assert caught.value.what == "thing"
    assert str(caught.value).startswith("thing: ")


def test_what_is_written_reads_back() -> None:
    assert decode_json(encode_json({"a": [1, 2.5, "x"]}), 100, "thing") == {"a": [1, 2.5, "x"]}
