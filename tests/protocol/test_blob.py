"""Reads of a blob: the vectors."""

import json
from pathlib import Path
from typing import Any

import pytest

from protocol.blob import (
    MAX_ANSWER_BYTES,
    MAX_REQUEST_BYTES,
    decode_data_header,
    decode_read,
    encode_data_header,
    encode_read,
)
from protocol.errors import CodecInvalid, FieldInvalid

VECTORS = Path(__file__).parents[2] / "specs" / "vectors" / "0012-fetch" / "reads.json"
FAILURES = {"CodecInvalid": CodecInvalid, "FieldInvalid": FieldInvalid}


def decoded(kind: str, data: bytes) -> dict[str, Any]:
    if kind == "read":
        request = decode_read(data)
        assert encode_read(request) == data
        assert len(data) <= MAX_REQUEST_BYTES
        return vars(request)
    decode_data_header(data, int(kind.split()[1]))
    return {}


@pytest.mark.parametrize("case", json.loads(VECTORS.read_text()), ids=lambda case: case["comment"])
def test_vectors(case: dict[str, Any]) -> None:
    kind, data = case["input"]["kind"], bytes.fromhex(case["input"]["hex"])
    if case["expect"] == "ok":
        assert decoded(kind, data) == case["facts"]
    else:
        with pytest.raises(FAILURES[case["expect"]]):
            decoded(kind, data)


def test_headers_fit_their_frame() -> None:
    assert len(encode_data_header(2**62)) <= MAX_ANSWER_BYTES
