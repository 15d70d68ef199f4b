"""Hostile bytes where a prefix file is expected: only the named error comes out, and nothing opens that was changed."""

from contextlib import suppress

from hypothesis import given
from hypothesis import strategies as st
from nacl.bindings import crypto_aead_xchacha20poly1305_ietf_encrypt

from protocol.codec import encode
from protocol.errors import NotEncodable, PrefixFileInvalid
from protocol.prefix_file import (
    FIXED_BYTES,
    MAGIC,
    PrefixHeader,
    PrefixKeys,
    Tensor,
    header_length,
    open_body,
    open_header,
    pack_tokens,
    seal_prefix,
)

KEYS = PrefixKeys.of(bytes(32))
HEADER = PrefixHeader("page", "", "x", KEYS.root("", "x"), 0, pack_tokens([1, 2, 3]), (Tensor("uint8", (4,)),))
NAME = KEYS.name("page", HEADER.parent, HEADER.tokens)
HEAD, BODY = seal_prefix(KEYS, HEADER, b"body", bytes(24), bytes([1]) * 24)
LEAVES = st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.binary(max_size=16)
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.just("a"), inner), max_leaves=6
)
TENSORS = st.lists(st.from_regex(r"\A[a-z]{1,8}[0-9]{0,2}( [0-9]{1,12}){0,9}\Z") | st.sampled_from(["int8 2", "bool"]))
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "v": st.just(1) | LEAVES,
        "kind": st.sampled_from(["page", "state"]) | LEAVES,
        "adapter": st.text(max_size=4) | LEAVES,
        "shape": st.text(max_size=4) | LEAVES,
        "parent": st.just(HEADER.parent) | LEAVES,
        "start": st.sampled_from([0, 128]) | LEAVES,
        "tokens": st.just(HEADER.tokens) | LEAVES,
        "tensors": TENSORS | VALUES,
        "values": st.lists(VALUES, max_size=3) | VALUES,
        "nonce": st.just(bytes(24)) | LEAVES,
        "more": LEAVES,
    },
)


def read(data: bytes) -> bytes | None:
    with suppress(PrefixFileInvalid):
        end = FIXED_BYTES + header_length(data)
        header, nonce = open_header(KEYS, NAME, data[:FIXED_BYTES], data[FIXED_BYTES:end])
        return open_body(KEYS, NAME, header, nonce, data[end:])
    return None


@given(st.binary(max_size=200) | st.binary(max_size=200).map(lambda data: MAGIC + b"\0\1\0\0\0\0\0" + data))
def test_any_bytes_are_refused(data: bytes) -> None:
    assert read(data) is None


@given(st.integers(0, len(HEAD + BODY) - 1), st.integers(1, 255))
def test_no_byte_can_be_changed(place: int, change: int) -> None:
    data = bytearray(HEAD + BODY)
    assert read(bytes(data)) == b"body"
    data[place] ^= change
    assert read(bytes(data)) is None


@given(FIELDS)
def test_a_header_of_anything_is_read_or_refused(fields: dict[str, object]) -> None:
    try:
        plain = encode(fields)
    except NotEncodable:
        return
    opening = MAGIC + b"\0\1\0\0" + (len(plain) + 16).to_bytes(4, "big") + bytes(24)
    sealed = crypto_aead_xchacha20poly1305_ietf_encrypt(plain, opening + NAME, bytes(24), KEYS.seal)
    with suppress(PrefixFileInvalid):
        header, _ = open_header(KEYS, NAME, opening, sealed)
        assert header.body_bytes >= 0
        assert len(header.tokens) % 4 == 0
