"""Hostile bytes into everything that linked peers say about models: only named errors come out."""

from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from identity.errors import SignatureInvalid
from identity.testing import key_from_number
from protocol.blob import ReadRequest, decode_data_header, decode_read, encode_data_header, encode_read
from protocol.codec import decode, encode
from protocol.digest import digest_of
from protocol.errors import CodecInvalid, FieldInvalid
from protocol.gossip import Announcement, open_announcement, sign_announcement
from protocol.have import HaveSome, decode_bitmap, decode_have, decode_have_request, encode_have, encode_have_request
from protocol.heads import (
    Answer,
    BundleRequest,
    Greeting,
    Heads,
    OfferedModel,
    Proof,
    ProofRequest,
    decode_answer,
    decode_bundle,
    decode_bundle_request,
    decode_greeting,
    decode_heads,
    decode_proof,
    decode_proof_request,
    encode_answer,
    encode_bundle,
    encode_bundle_request,
    encode_greeting,
    encode_heads,
    encode_proof,
    encode_proof_request,
    heads_digest,
)
from protocol.model_name import parse_model_name

KEY = key_from_number(1)
DIGEST = digest_of(b"x")
HEADS = encode_heads(
    Heads(
        "ann",
        ("/ip4/1.2.3.4/tcp/5",),
        b"note",
        (b"other",),
        (OfferedModel(parse_model_name("m"), DIGEST, KEY.did, DIGEST, 9),),
    )
)
MESSAGES: list[tuple[Callable[[bytes], object], bytes]] = [
    (decode_heads, HEADS),
    (decode_greeting, encode_greeting(Greeting(bytes(32), bytes(32)))),
    (decode_answer, encode_answer(Answer(heads_digest(HEADS), True, HEADS))),
    (decode_bundle_request, encode_bundle_request(BundleRequest(DIGEST, DIGEST))),
    (decode_bundle, encode_bundle(b"bundle")),
    (decode_proof_request, encode_proof_request(ProofRequest(KEY.did, 2, 4))),
    (decode_proof, encode_proof(Proof((bytes(32),), bytes(32)))),
    (open_announcement, sign_announcement(Announcement(KEY.did, b"note", DIGEST, DIGEST, 9), KEY.sign)),
    (decode_have_request, encode_have_request(DIGEST)),
    (decode_have, encode_have(HaveSome(DIGEST, b"\xff"))),
    (decode_read, encode_read(ReadRequest(DIGEST, 0, 9))),
    (lambda data: decode_data_header(data, 9), encode_data_header(9)),
]
ids = [getattr(decoder, "__name__", "decoder") for decoder, _ in MESSAGES]

values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 2**64 - 1) | st.binary(max_size=40) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.parametrize(("decoder", "message"), MESSAGES, ids=ids)
@given(data=st.binary(max_size=300))
def test_any_bytes(decoder: Callable[[bytes], object], message: bytes, data: bytes) -> None:
    with suppress(CodecInvalid, FieldInvalid, SignatureInvalid):
        decoder(data)


@pytest.mark.parametrize(("decoder", "message"), MESSAGES, ids=ids)
@given(at=st.integers(0, 2000), change=st.binary(min_size=1, max_size=4))
def test_a_few_bytes_changed(decoder: Callable[[bytes], object], message: bytes, at: int, change: bytes) -> None:
    at %= len(message)
    with suppress(CodecInvalid, FieldInvalid, SignatureInvalid):
        decoder(message[:at] + change + message[at + len(change) :])


@pytest.mark.parametrize(("decoder", "message"), MESSAGES, ids=ids)
@given(data=st.data())
def test_any_value_in_any_field(decoder: Callable[[bytes], object], message: bytes, data: st.DataObject) -> None:
    fields = decode(message, len(message))
    assert isinstance(fields, dict)
    fields[data.draw(st.sampled_from([*sorted(fields), "extra"]))] = data.draw(values)
    with suppress(CodecInvalid, FieldInvalid, SignatureInvalid):
        decoder(encode(fields))


@given(st.binary(max_size=20), st.integers(0, 200))
def test_any_bitmap(bitmap: bytes, count: int) -> None:
    with suppress(FieldInvalid):
        assert all(0 <= chunk < count for chunk in decode_bitmap(bitmap, count))
