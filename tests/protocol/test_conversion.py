"""What the converting process says: every vector of specs/0021, both ways."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from protocol.conversion import MAX_FRAME_BYTES, decode_from_converter, encode_from_converter
from protocol.errors import CodecInvalid, FieldInvalid, ProtocolError

VECTORS = Path(__file__).parents[2] / "specs" / "vectors" / "0021-builds"
CASES = json.loads((VECTORS / "conversion-messages.json").read_text())
REFUSALS: dict[str, type[ProtocolError]] = {"CodecInvalid": CodecInvalid, "FieldInvalid": FieldInvalid}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["comment"])
def test_messages(case: dict[str, Any]) -> None:
    data = bytes.fromhex(case["input"])
    if case["expect"] != "ok":
        with pytest.raises(REFUSALS[case["expect"]]):
            decode_from_converter(data)
        return
    message = decode_from_converter(data)
    assert asdict(message) == case["output"]
    assert encode_from_converter(message) == data


def test_a_message_larger_than_a_frame_is_refused() -> None:
    with pytest.raises(CodecInvalid, match="at most"):
        decode_from_converter(bytes(MAX_FRAME_BYTES + 1))
