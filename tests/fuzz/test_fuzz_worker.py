"""Hostile bytes into the decoders of the worker protocol, and into request bodies: only named errors come out."""

from contextlib import suppress

from hypothesis import given
from hypothesis import strategies as st

from node.api.body import parse_body
from node.api.durations import parse_keep_alive
from node.api.errors import BodyInvalid
from node.api.openai_schemas import ChatCompletionBody
from node.api.schemas import ChatBody, GenerateBody
from protocol.codec import encode
from protocol.errors import CodecInvalid, FieldInvalid, NotEncodable
from protocol.worker.codec import decode_from_worker, decode_to_worker, encode_from_worker, encode_to_worker

KINDS = [
    *("load", "load-adapter", "drop-adapter", "generate", "embed", "cancel"),
    *("ready", "load-failed", "progress", "text", "tool-call", "vectors", "status", "done", "failed"),
]
NAMES = ["request", "directory", "prompt", "why", "text", "done", "total", "thinking", "tokens", "context", "sampling"]
LEAVES = st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.binary(max_size=8)
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3), max_leaves=5)
MESSAGES = st.builds(
    lambda kind, fields: {"v": 1, "t": kind, **fields},
    st.sampled_from(KINDS),
    st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=6),
)
JSON_LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
JSON = st.recursive(
    JSON_LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.sampled_from(["model", "messages", "stream", "options", "keep_alive", "tools", "stop", "role", "content"])


@given(st.binary(max_size=300))
def test_any_bytes_are_a_message_or_are_refused(data: bytes) -> None:
    with suppress(CodecInvalid, FieldInvalid):
        assert encode_to_worker(decode_to_worker(data)) == data
    with suppress(CodecInvalid, FieldInvalid):
        assert encode_from_worker(decode_from_worker(data)) == data


@given(MESSAGES)
def test_any_fields_are_a_message_or_are_refused(message: dict[str, object]) -> None:
    with suppress(CodecInvalid, FieldInvalid, NotEncodable):
        data = encode(message)
        assert encode_to_worker(decode_to_worker(data)) == data
    with suppress(CodecInvalid, FieldInvalid, NotEncodable):
        data = encode(message)
        assert encode_from_worker(decode_from_worker(data)) == data


@given(st.binary(max_size=300))
def test_any_bytes_are_a_body_or_are_refused(data: bytes) -> None:
    for schema in (ChatBody, GenerateBody, ChatCompletionBody):
        with suppress(BodyInvalid):
            parse_body(data, schema)


@given(st.dictionaries(FIELDS, JSON, max_size=5))
def test_any_json_is_a_body_or_is_refused(value: dict[str, object]) -> None:
    import json

    data = json.dumps(value).encode()
    for schema in (ChatBody, GenerateBody, ChatCompletionBody):
        with suppress(BodyInvalid):
            parse_body(data, schema)


@given(st.text(max_size=20) | JSON)
def test_any_keep_alive_is_read_or_refused(value: object) -> None:
    with suppress(BodyInvalid):
        seconds = parse_keep_alive(value)
        assert seconds is None or seconds == -1 or seconds >= 0
