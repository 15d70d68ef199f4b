"""The device key: the only place where this device signs, and the only way in which anybody's signature is checked."""

import re
from typing import Final

from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey

from identity.did import DeviceId, format_did, public_key_of
from identity.errors import SeedInvalid, SignatureInvalid, UnsignableMessage

SEED_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64

# What a signature of this device can mean; specs/0001. A purpose is registered here and described in its own spec.
PURPOSES: Final = frozenset({"announce", "feed", "link", "ticket"})
_FIXED_PREFIXES: Final = (b"cosignature/v1\n", b"DSSEv1 ")
_PURPOSE: Final = re.compile(rb"tilenode/([a-z-]{1,32})/v1\0")


def domain(purpose: str) -> bytes:
    """Return the bytes with which every message signed for `purpose` begins, `tilenode/<purpose>/v1` and a zero.

    Raises:
        UnsignableMessage: the purpose is not registered.
    """
    prefix = b"tilenode/" + purpose.encode("utf-8", "replace") + b"/v1\0"
    if purpose not in PURPOSES:
        raise UnsignableMessage(prefix)
    return prefix


class DeviceKey:
    """An Ed25519 key pair; its secret half never shows in a repr, an error or a log."""

    def __init__(self, seed: bytes) -> None:
        """Make the key of a 32-byte seed (RFC 8032).

        Raises:
            SeedInvalid: not 32 bytes.
        """
        if len(seed) != SEED_BYTES:
            raise SeedInvalid(len(seed))
        self._signing_key: Final = SigningKey(seed)
        self.public_key: Final = bytes(self._signing_key.verify_key)
        self.did: Final = format_did(self.public_key)

    def __repr__(self) -> str:
        return f"DeviceKey({self.did})"

    @property
    def seed(self) -> bytes:
        """The secret seed, for the libp2p host alone: it signs its own handshakes with the same key."""
        return bytes(self._signing_key)

    def sign(self, message: bytes) -> bytes:
        """Return the 64-byte signature over `message`, which begins with a registered domain prefix.

        Raises:
            UnsignableMessage: it does not, or it is a checkpoint of somebody else's log.
        """
        if not self._may_sign(message):
            raise UnsignableMessage(message)
        return bytes(self._signing_key.sign(message).signature)

    def _may_sign(self, message: bytes) -> bool:
        if message.startswith(_FIXED_PREFIXES):
            return True
        if message.startswith(b"did:key:"):
            return message.startswith(self.did.encode("ascii") + b"\n")
        match = _PURPOSE.match(message)
        return match is not None and match.group(1).decode("ascii") in PURPOSES


def verify(did: DeviceId, message: bytes, signature: bytes) -> None:
    """Return only if `signature` is by the key of `did` over `message`.

    libsodium alone decides, so that no two peers disagree about an edge case.

    Raises:
        SignatureInvalid: the signature does not verify, or it is not 64 bytes.
        DidInvalid: `did` was not parsed before, and is not one.
    """
    verify_with(public_key_of(did), message, signature, signer=did)


def verify_with(public_key: bytes, message: bytes, signature: bytes, *, signer: str) -> None:
    """Return only if `signature` is by the 32-byte `public_key` over `message`; `signer` names it in the error.

    Raises:
        SignatureInvalid: the signature does not verify, or it is not 64 bytes.
    """
    if len(signature) != SIGNATURE_BYTES:
        raise SignatureInvalid(signer)
    try:
        VerifyKey(public_key).verify(message, signature)
    except BadSignatureError as error:
        raise SignatureInvalid(signer) from error
