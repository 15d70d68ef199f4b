"""A delegation that others signed: our did:key, DAG-CBOR and signature check read it as its makers meant it.

Vector: specs/vectors/0001-identity/ucan-delegation.json, from the UCAN specification.
"""

import base64
import hashlib
import json
from pathlib import Path

import dag_cbor
import pytest
from nacl.signing import SigningKey

from identity.did import DeviceId, format_did, public_key_of
from identity.errors import SignatureInvalid, UnsignableMessage
from identity.keys import DeviceKey, verify

VECTOR = json.loads(
    (Path(__file__).parents[2] / "specs/vectors/0001-identity/ucan-delegation.json").read_text(encoding="utf-8")
)[0]
TOKEN = base64.b64decode(VECTOR["input"]["token"])
# varint 0x1300: an Ed25519 private key follows.
SEED = base64.b64decode(VECTOR["input"]["issuer_key"])[2:]


def _parts() -> tuple[bytes, bytes, DeviceId]:
    envelope = dag_cbor.decode(TOKEN)
    assert isinstance(envelope, list)
    signature, signed = envelope
    assert isinstance(signature, bytes)
    assert isinstance(signed, dict)
    payload = signed["ucan/dlg@1.0.0"]
    assert isinstance(payload, dict)
    return signature, dag_cbor.encode(signed), DeviceId(str(payload["iss"]))


def test_the_signature_verifies_under_the_issuers_did() -> None:
    signature, message, issuer = _parts()
    assert issuer == VECTOR["output"]["iss"] == format_did(public_key_of(issuer))
    assert signature == base64.b64decode(VECTOR["output"]["signature"])
    verify(issuer, message, signature)
    with pytest.raises(SignatureInvalid):
        verify(issuer, message + b"\0", signature)
    with pytest.raises(SignatureInvalid):
        verify(DeviceId(VECTOR["output"]["aud"]), message, signature)


def test_the_encoding_is_canonical_and_its_cid_is_the_published_one() -> None:
    assert dag_cbor.encode(dag_cbor.decode(TOKEN)) == TOKEN
    cid = bytes((0x01, 0x71, 0x12, 0x20)) + hashlib.sha256(TOKEN).digest()
    assert "b" + base64.b32encode(cid).decode().lower().rstrip("=") == VECTOR["output"]["cid"]


def test_the_same_key_signs_the_same_bytes_again_and_the_device_key_refuses_to() -> None:
    signature, message, issuer = _parts()
    assert DeviceKey(SEED).did == issuer
    assert SigningKey(SEED).sign(message).signature == signature
    # Delegations are no purpose of this version: nothing can talk a device into signing one.
    with pytest.raises(UnsignableMessage):
        DeviceKey(SEED).sign(message)
