import json

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from identity.errors import SeedInvalid, SignatureInvalid, UnsignableMessage
from identity.keys import PURPOSES, DeviceKey, domain, verify, verify_with
from identity.testing import key_from_number

KEY = key_from_number(1)
GROUP_ORDER = 2**252 + 27742317777372353535851937790883648493
CHECKPOINT = f"{KEY.did}\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n".encode()


@pytest.mark.parametrize("message", [CHECKPOINT, b"cosignature/v1\ntime 1\n", b"DSSEv1 1 a 1 b", domain("feed") + b"x"])
def test_what_begins_with_a_registered_domain_is_signed(message: bytes) -> None:
    verify(KEY.did, message, KEY.sign(message))


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"hello",
        b"did:key:",
        b"did:key:z6Mk",
        key_from_number(2).did.encode() + b"\n0\n",
        KEY.did.encode(),
        KEY.did.encode() + b" 0\n",
        b"cosignature/v1",
        b"DSSEv1",
        b"DSSEv2 ",
        b"tilenode/feed/v1",
        b"tilenode/feed/v2\0",
        b"tilenode/unheard-of/v1\0",
        b"tilenode//v1\0",
        b"tilenode/feed/v1\0".upper(),
        b" DSSEv1 ",
        b"noise-libp2p-static-key:" + bytes(32),
        b"libp2p-pubsub:",
    ],
)
def test_nothing_else_is_signed(message: bytes) -> None:
    with pytest.raises(UnsignableMessage):
        KEY.sign(message)


@given(st.binary(max_size=64))
@settings(max_examples=200)
def test_random_messages_are_not_signed(message: bytes) -> None:
    assume(not message.startswith((b"cosignature/v1\n", b"DSSEv1 ", b"tilenode/", b"did:key:")))
    with pytest.raises(UnsignableMessage):
        KEY.sign(message)


def test_an_unregistered_purpose_has_no_domain() -> None:
    with pytest.raises(UnsignableMessage):
        domain("anything")
    assert all(domain(purpose) == f"tilenode/{purpose}/v1\0".encode() for purpose in PURPOSES)


def test_a_signature_counts_for_one_message_and_one_key() -> None:
    message = domain("link") + b"a"
    signature = KEY.sign(message)
    for did, text, made in [
        (key_from_number(2).did, message, signature),
        (KEY.did, message + b"b", signature),
        (KEY.did, message, signature[:-1]),
        (KEY.did, message, signature + b"\0"),
        (KEY.did, message, b""),
        (KEY.did, message, signature[:-1] + bytes([signature[-1] ^ 0x80])),
    ]:
        with pytest.raises(SignatureInvalid):
            verify(did, text, made)


def test_a_signature_whose_scalar_is_not_reduced_is_refused() -> None:
    message = domain("link")
    signature = KEY.sign(message)
    scalar = int.from_bytes(signature[32:], "little") + GROUP_ORDER
    with pytest.raises(SignatureInvalid):
        verify(KEY.did, message, signature[:32] + scalar.to_bytes(32, "little"))


@pytest.mark.parametrize("point", [bytes(32), (1).to_bytes(32, "little"), (2**255 - 20).to_bytes(32, "little")])
def test_a_key_of_low_order_verifies_nothing(point: bytes) -> None:
    # With such a key the all-zero scalar would be a signature over every message.
    for nonce_point in (point, (1).to_bytes(32, "little")):
        with pytest.raises(SignatureInvalid):
            verify_with(point, b"any message", nonce_point + bytes(32), signer="nobody")


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_a_seed_has_32_bytes(length: int) -> None:
    with pytest.raises(SeedInvalid):
        DeviceKey(bytes(length))


def test_the_seed_does_not_show() -> None:
    key = DeviceKey(b"\x5a" * 32)
    shown = f"{key} {key!r} {key.__dict__}"
    assert "5a5a" not in shown
    assert "ZZZZ" not in shown
    with pytest.raises(TypeError):
        json.dumps(key)


def test_the_seed_makes_the_same_key_again() -> None:
    assert DeviceKey(KEY.seed).did == KEY.did
