"""Our envelopes verify with PyPI's securesystemslib, which knows nothing of this project."""

import json

import pytest
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import SSlibKey  # type: ignore[attr-defined]  # exported without a word of it

from identity.keys import DeviceKey
from identity.testing import key_from_number
from protocol.dsse import sign_envelope
from protocol.provenance import decode_and_verify_provenance
from protocol.testing import MemoryLog, publish_in_memory, small_manifest

KEY = key_from_number(1)


def foreign_key(key: DeviceKey) -> SSlibKey:
    return SSlibKey(key.did, "ed25519", "ed25519", {"public": key.public_key.hex()})


def test_an_envelope_verifies() -> None:
    envelope = Envelope.from_dict(json.loads(sign_envelope(KEY, b'{"a":1}')))
    assert envelope.payload == b'{"a":1}'
    assert list(envelope.verify([foreign_key(KEY)], 1)) == [KEY.did]


def test_both_attestations_of_a_model_verify() -> None:
    provenance = decode_and_verify_provenance(publish_in_memory(MemoryLog(KEY), "demo:v1", small_manifest()))
    for event in (provenance.build, provenance.sign):
        envelope = Envelope.from_dict(json.loads(event.envelope))
        assert envelope.verify([foreign_key(KEY)], 1)
        assert json.loads(envelope.payload)["_type"] == "https://in-toto.io/Statement/v1"


def test_a_changed_payload_does_not() -> None:
    envelope = Envelope.from_dict(json.loads(sign_envelope(KEY, b'{"a":1}')))
    envelope.payload = b'{"a":2}'
    with pytest.raises(VerificationError):
        envelope.verify([foreign_key(KEY)], 1)


def test_another_key_does_not() -> None:
    envelope = Envelope.from_dict(json.loads(sign_envelope(KEY, b"{}")))
    with pytest.raises(VerificationError):
        envelope.verify([foreign_key(key_from_number(2))], 1)
