"""Hostile bytes into the readers of build.json and of the converting process: only their named errors come out."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from protocol.build_record import encode_build_record, parse_build_record
from protocol.canonical_json import encode_json
from protocol.codec import encode
from protocol.conversion import decode_from_converter, encode_from_converter
from protocol.errors import BuildRecordInvalid, CodecInvalid, FieldInvalid, NotEncodable

VECTORS = Path(__file__).parents[2] / "specs" / "vectors" / "0021-builds"
RECORD = json.loads(json.loads((VECTORS / "build-records.json").read_text())[0]["input"])
LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8)
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
MESSAGES = st.builds(
    lambda kind, fields: {"v": 1, "t": kind, **fields},
    st.sampled_from(["converting", "converted", "refused", "load"]),
    st.dictionaries(st.sampled_from(["item", "done", "total", "tools", "why"]), VALUES, max_size=4),
)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_record_or_are_refused(data: bytes) -> None:
    with suppress(BuildRecordInvalid):
        assert encode_build_record(parse_build_record(data)) == data


@given(st.dictionaries(st.sampled_from(sorted(RECORD)), VALUES, min_size=1, max_size=2))
def test_any_field_is_read_or_refused(changes: dict[str, object]) -> None:
    with suppress(BuildRecordInvalid, UnicodeEncodeError):
        document: Any = {**RECORD, **changes}
        data = encode_json(document)
        assert encode_build_record(parse_build_record(data)) == data


@given(st.sampled_from(["kind", "name", "revision", "files"]), VALUES)
def test_any_source_is_read_or_refused(key: str, value: object) -> None:
    source: Any = {**RECORD["sources"][0], key: value}
    with suppress(BuildRecordInvalid, UnicodeEncodeError):
        data = encode_json({**RECORD, "sources": [source]})
        assert encode_build_record(parse_build_record(data)) == data


@given(st.binary(max_size=300))
def test_any_bytes_are_a_message_or_are_refused(data: bytes) -> None:
    with suppress(CodecInvalid, FieldInvalid):
        assert encode_from_converter(decode_from_converter(data)) == data


@given(MESSAGES)
def test_any_fields_are_a_message_or_are_refused(message: dict[str, object]) -> None:
    with suppress(CodecInvalid, FieldInvalid, NotEncodable):
        data = encode(message)
        assert encode_from_converter(decode_from_converter(data)) == data
