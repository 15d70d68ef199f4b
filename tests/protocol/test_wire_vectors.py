"""The vectors of specs/0010-wire: values, refused bytes, frames, refusals, addresses."""

import json
from pathlib import Path
from typing import Any

import pytest

from protocol import errors
from protocol.address import dialable, parse_address, parse_peer_address
from protocol.codec import decode, decode_message, encode
from protocol.errors import AddressInvalid, CodecInvalid
from protocol.refusal import encode_refusal, parse_refusal
from protocol.wire import FrameReader

VECTORS = Path(__file__).parents[2] / "specs/vectors/0010-wire"


def cases(name: str) -> pytest.MarkDecorator:
    found = json.loads((VECTORS / f"{name}.json").read_text())
    return pytest.mark.parametrize("case", found, ids=lambda case: str(case["comment"]))


def plain(value: Any) -> Any:
    """Return the value that a vector writes as JSON."""
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        ((kind, inner),) = value.items()
        if kind == "map":
            return {key: plain(item) for key, item in inner.items()}
        return bytes.fromhex(inner) if kind == "bytes" else int(inner)
    return value


@cases("values")
def test_values(case: dict[str, Any]) -> None:
    data, value = bytes.fromhex(case["input"]["bytes"]), plain(case["output"])
    assert encode(value) == data
    assert decode(data, len(data)) == value


@cases("refused")
def test_refused_bytes(case: dict[str, Any]) -> None:
    with pytest.raises(CodecInvalid):
        decode(bytes.fromhex(case["input"]["bytes"]), 1_000)


@cases("frames")
def test_frames(case: dict[str, Any]) -> None:
    reader, found = FrameReader(case["input"]["max_bytes"]), []
    reader.receive_data(bytes.fromhex(case["input"]["stream"]))
    failure = "ok"
    try:
        while (frame := reader.next_frame()) is not None:
            found.append(frame.hex())
        reader.receive_eof()
    except errors.ProtocolError as error:
        failure = type(error).__name__
    assert (found, failure) == (case["output"], case["expect"])


@cases("refusals")
def test_refusals(case: dict[str, Any]) -> None:
    data = bytes.fromhex(case["input"]["bytes"])
    if case["expect"] == "ok":
        kind, fields = decode_message(data, 512)
        refusal = parse_refusal(fields)
        assert (kind, vars(refusal)) == ("refused", case["output"])
        return
    with pytest.raises(getattr(errors, case["expect"])):
        parse_refusal(decode_message(data, 512)[1])


@cases("addresses")
def test_addresses(case: dict[str, Any]) -> None:
    text, peer_id = case["input"]["address"], case["input"]["peer_id"]
    if case["expect"] == "ok":
        assert str(parse_peer_address(text, peer_id)) == case["output"]
        assert dialable((text, text, "junk"), peer_id) == (case["output"],)
        return
    with pytest.raises(AddressInvalid) as caught:
        parse_peer_address(text, peer_id)
    assert caught.value.hint
    assert dialable((text,), peer_id) == ()


def test_an_address_to_listen_on_may_leave_host_and_port_open() -> None:
    for text in ("/ip4/0.0.0.0/tcp/0", "/ip6/::/tcp/0"):
        assert str(parse_address(text)) == text


def test_a_reason_is_always_short_enough_for_the_receiver() -> None:
    kind, fields = decode_message(encode_refusal("busy", "☕" * 5_000), 512)
    assert parse_refusal(fields).why.startswith("☕☕")
    assert kind == "refused"
