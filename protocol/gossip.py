"""Announcements: the hint that goes over GossipSub when a node publishes a model (specs/0011-heads-and-gossip).

The origin signs the body with its device key; who relays it does not matter. A valid announcement decides nothing:
it makes the receiver fetch the provenance bundle, and that is verified as at every contact.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from identity.did import DeviceId, parse_did
from identity.errors import IdentityError
from identity.keys import verify
from protocol.codec import decode_message, encode_message
from protocol.digest import Digest
from protocol.errors import FieldInvalid
from protocol.heads import MAX_BUNDLE_BYTES, MAX_DID_BYTES, MAX_NOTE_BYTES

TOPIC: Final = "tilenode/models/1"
ANNOUNCE_PREFIX: Final = b"tilenode/announce/v1\0"
MAX_BODY_BYTES: Final = MAX_NOTE_BYTES + 512
MAX_ANNOUNCEMENT_BYTES: Final = MAX_BODY_BYTES + 256


@dataclass(frozen=True)
class Announcement:
    """One published model: who published it, the checkpoint that includes it, its manifest and its bundle."""

    origin: DeviceId
    checkpoint: bytes
    manifest: Digest
    bundle: Digest
    bundle_bytes: int


def sign_announcement(announcement: Announcement, sign: Callable[[bytes], bytes]) -> bytes:
    """Return the announcement as it goes over the topic; `sign` is the origin's `DeviceKey.sign`."""
    body = encode_message(
        "announce",
        origin=announcement.origin,
        checkpoint=announcement.checkpoint,
        manifest=bytes.fromhex(announcement.manifest),
        bundle=bytes.fromhex(announcement.bundle),
        bundle_bytes=announcement.bundle_bytes,
    )
    return encode_message("signed", body=body, signature=sign(ANNOUNCE_PREFIX + body))


def open_announcement(data: bytes) -> Announcement:
    """Return the announcement in `data`, its signature verified against the origin that it names.

    Raises:
        CodecInvalid, FieldInvalid: too large, not canonical, an unknown version or field.
        SignatureInvalid: not signed by its origin.
    """
    kind, fields = decode_message(data, MAX_ANNOUNCEMENT_BYTES)
    if kind != "signed":
        raise FieldInvalid("message.t", f"expected 'signed', found {kind!r}")
    body, signature = fields.bytes("body", max=MAX_BODY_BYTES), fields.bytes("signature", length=64)
    fields.done()
    announcement = _parse_body(body)
    verify(announcement.origin, ANNOUNCE_PREFIX + body, signature)
    return announcement


def _parse_body(body: bytes) -> Announcement:
    kind, fields = decode_message(body, MAX_BODY_BYTES)
    if kind != "announce":
        raise FieldInvalid("message.t", f"expected 'announce', found {kind!r}")
    try:
        origin = parse_did(fields.text("origin", max=MAX_DID_BYTES))
    except IdentityError:
        raise fields.invalid("origin", "not a did:key of an Ed25519 key") from None
    announcement = Announcement(
        origin=origin,
        checkpoint=fields.bytes("checkpoint", max=MAX_NOTE_BYTES),
        manifest=Digest(fields.bytes("manifest", length=32).hex()),
        bundle=Digest(fields.bytes("bundle", length=32).hex()),
        bundle_bytes=fields.int("bundle_bytes", 1, MAX_BUNDLE_BYTES),
    )
    fields.done()
    return announcement
