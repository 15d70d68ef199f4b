"""DSSE envelopes: a payload, its type and the device's signature over both (specs/0004)."""

import base64
import binascii
from dataclasses import dataclass
from typing import Final

from identity.did import DeviceId
from identity.errors import SignatureInvalid
from identity.keys import DeviceKey, verify
from protocol.canonical_json import decode_json, encode_json
from protocol.errors import EnvelopeInvalid, JsonInvalid

IN_TOTO: Final = "application/vnd.in-toto+json"
MAX_ENVELOPE_BYTES: Final = 512 * 1024


@dataclass(frozen=True)
class VerifiedPayload:
    """What a device signed: the very bytes over which its signature was checked."""

    signer: DeviceId
    payload_type: str
    payload: bytes


def pae(payload_type: str, payload: bytes) -> bytes:
    """Return DSSE's pre-authentication encoding, the message that is signed."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def sign_envelope(key: DeviceKey, payload: bytes, payload_type: str = IN_TOTO) -> bytes:
    """Return the envelope as canonical JSON with one signature, whose `keyid` is the device's id."""
    return _format(payload, payload_type, key.did, key.sign(pae(payload_type, payload)))


def open_envelope(envelope: bytes, signer: DeviceId, payload_type: str = IN_TOTO) -> VerifiedPayload:
    """Return the payload once `signer` is proven to have signed it; at most 512 KiB.

    Raises:
        EnvelopeInvalid: too large, not canonical, of another type, by another key, or the signature does not verify.
    """
    try:
        document = decode_json(envelope, MAX_ENVELOPE_BYTES, "envelope")
    except JsonInvalid as error:
        raise EnvelopeInvalid("envelope", str(error)) from error
    match document:
        case {
            "payload": str(payload64),
            "payloadType": str(found_type),
            "signatures": [{"keyid": str(keyid), "sig": str(signature64)}],
        }:
            payload, signature = _from_base64(payload64), _from_base64(signature64)
        case _:
            raise EnvelopeInvalid("envelope", "expected payload, payloadType and one signature with keyid and sig")
    if found_type != payload_type:
        raise EnvelopeInvalid("envelope", f"payload type {found_type[:80]!r}, expected {payload_type}")
    if keyid != signer:
        raise EnvelopeInvalid("envelope", f"signed by {keyid[:80]!r}, expected {signer}")
    if _format(payload, payload_type, signer, signature) != envelope:
        raise EnvelopeInvalid("envelope", "not in canonical form")
    try:
        verify(signer, pae(payload_type, payload), signature)
    except SignatureInvalid as error:
        raise EnvelopeInvalid("envelope", str(error)) from error
    return VerifiedPayload(signer, payload_type, payload)


def _format(payload: bytes, payload_type: str, keyid: str, signature: bytes) -> bytes:
    signatures = [{"keyid": keyid, "sig": base64.b64encode(signature).decode("ascii")}]
    body = base64.b64encode(payload).decode("ascii")
    return encode_json({"payload": body, "payloadType": payload_type, "signatures": signatures})


def _from_base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise EnvelopeInvalid("envelope", "a field that is not base64") from error
