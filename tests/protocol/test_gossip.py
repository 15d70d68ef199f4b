"""Announcements: the vectors, and that only the origin's key makes one."""

import json
from pathlib import Path
from typing import Any

import pytest

from identity.errors import SignatureInvalid
from protocol.codec import encode_message
from protocol.errors import CodecInvalid, FieldInvalid
from protocol.gossip import MAX_ANNOUNCEMENT_BYTES, open_announcement

VECTORS = Path(__file__).parents[2] / "specs" / "vectors" / "0011-heads-and-gossip" / "announcements.json"
FAILURES = {"CodecInvalid": CodecInvalid, "FieldInvalid": FieldInvalid, "SignatureInvalid": SignatureInvalid}


@pytest.mark.parametrize("case", json.loads(VECTORS.read_text()), ids=lambda case: case["comment"])
def test_vectors(case: dict[str, Any]) -> None:
    data = bytes.fromhex(case["input"]["hex"])
    if case["expect"] == "ok":
        announcement = open_announcement(data)
        assert {name: getattr(announcement, name) for name in case["facts"]} == case["facts"]
    else:
        with pytest.raises(FAILURES[case["expect"]]):
            open_announcement(data)


def test_a_large_message_is_refused_before_it_is_read() -> None:
    padded = encode_message("signed", body=bytes(MAX_ANNOUNCEMENT_BYTES), signature=bytes(64))
    with pytest.raises(CodecInvalid):
        open_announcement(padded)
