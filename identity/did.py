"""`did:key` names for device keys, and the libp2p peer id, which is the same key in another coat."""

from functools import lru_cache
from typing import Final, NewType

import base58
from nacl.bindings import crypto_core_ed25519_is_valid_point, crypto_sign_ed25519_pk_to_curve25519

from identity.errors import DidInvalid

DeviceId = NewType("DeviceId", str)

PUBLIC_KEY_BYTES: Final = 32
_METHOD: Final = "did:key:"
_MULTIBASE_BASE58BTC: Final = "z"
_ED25519_PUBLIC: Final = bytes.fromhex("ed01")
_X25519_PUBLIC: Final = bytes.fromhex("ec01")
# An identity multihash of 36 bytes: a protobuf of {1: Ed25519, 2: 32 bytes}.
_PEER_ID_PREFIX: Final = bytes.fromhex("002408011220")
# The longest accepted text; longer input is refused before base58, whose cost grows with the square of its length.
_MAX_CHARS: Final = 80


def format_did(public_key: bytes) -> DeviceId:
    """Return the `did:key` of a 32-byte Ed25519 public key.

    Raises:
        DidInvalid: not 32 bytes, not a canonical point of the main subgroup, or a point of low order.
    """
    _require_point(public_key.hex(), public_key)
    return DeviceId(_METHOD + _multibase(_ED25519_PUBLIC + public_key))


def parse_did(text: str) -> DeviceId:
    """Return `text` as a device id once it is proven to be the one spelling of a usable Ed25519 key.

    `did:key:z` ‖ base58btc(`ed01` ‖ public key), specs/0001.

    Raises:
        DidInvalid: another method, prefix, length or spelling, or a key that no device can hold.
    """
    _decode(text)
    return DeviceId(text)


def public_key_of(did: DeviceId) -> bytes:
    """Return the 32 bytes of the Ed25519 public key that `did` spells."""
    return _decode(did)


def peer_id_of(did: DeviceId) -> str:
    """Return the libp2p peer id of the same key, `12D3Koo…`."""
    return str(base58.b58encode(_PEER_ID_PREFIX + public_key_of(did)).decode("ascii"))


def did_of_peer_id(peer_id: str) -> DeviceId:
    """Return the device id of the key that a libp2p peer id spells.

    Raises:
        DidInvalid: the peer id is not that of an Ed25519 key in its identity form.
    """
    raw = _base58(peer_id, peer_id)
    if not raw.startswith(_PEER_ID_PREFIX):
        raise DidInvalid(peer_id, "a peer id that does not hold an Ed25519 key")
    did = format_did(raw.removeprefix(_PEER_ID_PREFIX))
    if peer_id_of(did) != peer_id:
        raise DidInvalid(peer_id, "not the canonical spelling of its key")
    return did


def short_did(did: DeviceId) -> str:
    """Return the form for people: `did:key:z6Mk…8WkA`. It identifies nothing, never compare it."""
    bare = did.removeprefix(_METHOD)
    return f"{_METHOD}{bare[:4]}…{bare[-4:]}"


def key_agreement_of(did: DeviceId) -> str:
    """Return the X25519 key that belongs to `did`, as multibase text `z6LS…`."""
    return _multibase(_X25519_PUBLIC + crypto_sign_ed25519_pk_to_curve25519(public_key_of(did)))


def did_document(did: DeviceId) -> dict[str, object]:
    """Return the DID document of `did` with `Multikey` verification methods, ready for JSON."""
    signing = did.removeprefix(_METHOD)
    agreement = key_agreement_of(did)
    purposes = ("authentication", "assertionMethod", "capabilityDelegation", "capabilityInvocation")
    return {
        "@context": ["https://www.w3.org/ns/did/v1", "https://w3id.org/security/multikey/v1"],
        "id": did,
        "verificationMethod": [_multikey(did, signing)],
        **{purpose: [f"{did}#{signing}"] for purpose in purposes},
        "keyAgreement": [_multikey(did, agreement)],
    }


def _multikey(did: DeviceId, multibase: str) -> dict[str, str]:
    return {"id": f"{did}#{multibase}", "type": "Multikey", "controller": did, "publicKeyMultibase": multibase}


def _multibase(raw: bytes) -> str:
    return _MULTIBASE_BASE58BTC + str(base58.b58encode(raw).decode("ascii"))


@lru_cache(maxsize=1024)  # the subgroup check is a scalar multiplication, and every message names a few keys again
def _decode(text: str) -> bytes:
    if not text.startswith(_METHOD):
        raise DidInvalid(text, "expected the method did:key")
    multibase = text.removeprefix(_METHOD)
    if not multibase.startswith(_MULTIBASE_BASE58BTC):
        raise DidInvalid(text, "expected base58btc, which begins with z")
    raw = _base58(text, multibase[1:])
    if not raw.startswith(_ED25519_PUBLIC):
        raise DidInvalid(text, f"expected an Ed25519 key (ed01), found the prefix {raw[:2].hex() or 'nothing'}")
    public_key = raw.removeprefix(_ED25519_PUBLIC)
    _require_point(text, public_key)
    if _multibase(raw) != multibase:
        raise DidInvalid(text, "not the canonical spelling of its key")
    return public_key


def _base58(text: str, encoded: str) -> bytes:
    if len(text) > _MAX_CHARS:
        raise DidInvalid(text, f"{len(text)} characters, at most {_MAX_CHARS} are allowed")
    try:
        return bytes(base58.b58decode(encoded.encode("ascii")))
    except ValueError as error:
        raise DidInvalid(text, "characters outside base58") from error


def _require_point(text: str, public_key: bytes) -> None:
    if len(public_key) != PUBLIC_KEY_BYTES:
        raise DidInvalid(text, f"expected {PUBLIC_KEY_BYTES} bytes of key, found {len(public_key)}")
    if not crypto_core_ed25519_is_valid_point(public_key):
        raise DidInvalid(text, "not a usable point: off the curve, not canonical, or of low order")
