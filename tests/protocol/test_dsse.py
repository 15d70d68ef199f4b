import base64
import json
from pathlib import Path
from typing import Any

import pytest

from identity.did import parse_did
from identity.testing import key_from_number
from protocol.canonical_json import encode_json
from protocol.dsse import MAX_ENVELOPE_BYTES, open_envelope, pae, sign_envelope
from protocol.errors import EnvelopeInvalid

VECTORS = Path(__file__).parents[2] / "specs" / "vectors" / "0004-attestation-and-provenance"
CASES = json.loads((VECTORS / "envelopes.json").read_text())
KEY = key_from_number(1)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["comment"])
def test_vectors(case: dict[str, Any]) -> None:
    envelope, signer = case["input"]["envelope"].encode(), parse_did(case["input"]["signer"])
    if case["expect"] == "ok":
        assert open_envelope(envelope, signer).payload == case["output"]["payload"].encode()
        assert sign_envelope(KEY, case["output"]["payload"].encode()) == envelope
    else:
        with pytest.raises(EnvelopeInvalid):
            open_envelope(envelope, signer)


def test_the_encoding_of_the_dsse_specification() -> None:
    # The example of the DSSE protocol description.
    assert (
        pae("http://example.com/HelloWorld", b"hello world")
        == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )


def test_the_length_counts_bytes() -> None:
    assert pae("é", b"\xff") == b"DSSEv1 2 \xc3\xa9 1 \xff"


def test_the_size_is_capped() -> None:
    envelope = sign_envelope(KEY, bytes(MAX_ENVELOPE_BYTES))
    with pytest.raises(EnvelopeInvalid):
        open_envelope(envelope, KEY.did)


def test_any_changed_byte_is_refused() -> None:
    envelope = sign_envelope(KEY, b'{"a":1}')
    for position in range(len(envelope)):
        changed = bytearray(envelope)
        changed[position] ^= 1
        with pytest.raises(EnvelopeInvalid):
            open_envelope(bytes(changed), KEY.did)


def test_a_second_signature_is_not_smuggled_in() -> None:
    document = json.loads(sign_envelope(KEY, b"{}"))
    document["signatures"].append(document["signatures"][0])
    with pytest.raises(EnvelopeInvalid):
        open_envelope(encode_json(document), KEY.did)


def test_the_payload_is_what_was_signed() -> None:
    document = json.loads(sign_envelope(KEY, b"{}"))
    document["payload"] = base64.b64encode(b"[]").decode()
    with pytest.raises(EnvelopeInvalid):
        open_envelope(encode_json(document), KEY.did)
