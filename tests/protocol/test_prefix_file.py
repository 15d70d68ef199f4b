"""Files of kept prefixes: the vectors of specs/0028, where they are ok also opened by the words of the spec alone."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from nacl.bindings import crypto_aead_xchacha20poly1305_ietf_decrypt

from identity.secrets import Secrets
from protocol.codec import decode, encode
from protocol.errors import PrefixFileInvalid
from protocol.prefix_file import (
    FIXED_BYTES,
    MAX_HEADER_BYTES,
    PrefixHeader,
    PrefixKeys,
    Tensor,
    header_length,
    open_body,
    open_header,
    pack_tokens,
    seal_prefix,
)

VECTORS = Path(__file__).parents[2] / "specs" / "vectors" / "0028-prefix-cache"
FILES = json.loads((VECTORS / "files.json").read_text())
KEYS = PrefixKeys.of(bytes(32))


def opened(case: dict[str, Any]) -> tuple[PrefixHeader, bytes]:
    """Return header and body of a vector's file."""
    given = case["input"]
    keys, name, data = (
        PrefixKeys.of(bytes.fromhex(given["key"])),
        bytes.fromhex(given["name"]),
        bytes.fromhex(given["file"]),
    )
    end = FIXED_BYTES + header_length(data)
    header, nonce = open_header(keys, name, data[:FIXED_BYTES], data[FIXED_BYTES:end])
    return header, open_body(keys, name, header, nonce, data[end:])


@pytest.mark.parametrize("case", FILES, ids=lambda case: case["comment"])
def test_vectors(case: dict[str, Any]) -> None:
    given = case["input"]
    if case["expect"] != "ok":
        with pytest.raises(PrefixFileInvalid):
            opened(case)
        return
    header, body = opened(case)
    assert body == bytes.fromhex(given["body"])
    assert (header.kind, header.adapter, header.shape) == (given["kind"], given["adapter"], given["shape"])
    assert (header.parent.hex(), header.tokens.hex()) == (given["parent"], given["tokens"])
    assert header.start == given["start"]
    assert [[tensor.dtype, *tensor.axes] for tensor in header.tensors] == given["tensors"]
    assert list(header.values) == given["values"]


@pytest.mark.parametrize("case", [case for case in FILES if case["expect"] == "ok"], ids=lambda case: case["comment"])
def test_the_spec_alone_opens_the_files(case: dict[str, Any]) -> None:
    given, data = case["input"], bytes.fromhex(case["input"]["file"])

    def mac(key: bytes, person: bytes, message: bytes, size: int) -> bytes:
        return hashlib.blake2b(message, key=key, person=person, digest_size=size).digest()

    key = bytes.fromhex(given["key"])
    seal, names = mac(key, b"tnpx seal", b"", 32), mac(key, b"tnpx names", b"", 32)
    parent = mac(names, b"tnpx root", encode([given["adapter"], given["shape"]]), 16)
    if given["start"]:
        parent = mac(names, b"tnpx page", parent + pack_tokens(range(1, 129)), 16)
    assert parent.hex() == given["parent"]
    name = mac(names, b"tnpx " + given["kind"].encode(), parent + bytes.fromhex(given["tokens"]), 16)
    assert name.hex() == given["name"]
    assert data[:8] == b"TNPX\0\1\0\0"
    end = 36 + int.from_bytes(data[8:12], "big")
    plain = crypto_aead_xchacha20poly1305_ietf_decrypt(data[36:end], data[:36] + name, data[12:36], seal)
    fields = decode(plain, MAX_HEADER_BYTES)
    assert isinstance(fields, dict)
    body = crypto_aead_xchacha20poly1305_ietf_decrypt(data[end:], name, fields["nonce"], seal)
    assert body.hex() == given["body"]


def test_subkeys_are_those_of_the_vectors() -> None:
    for case in json.loads((VECTORS / "subkeys.json").read_text()):
        given = case["input"]
        secrets = Secrets(bytes(32), bytes.fromhex(given["database_key"]))
        assert secrets.subkey(given["purpose"], given["subject"]).hex() == case["key"]


def test_a_file_opens_under_its_own_name_and_key_only() -> None:
    header = PrefixHeader("page", "one", "x", KEYS.root("one", "x"), 0, pack_tokens([1, 2]), (Tensor("int8", (2, 3)),))
    head, body = seal_prefix(KEYS, header, b"sixsix", bytes(24), bytes([1]) * 24)
    name = KEYS.name("page", header.parent, header.tokens)
    opening, sealed = head[:FIXED_BYTES], head[FIXED_BYTES:]
    found, nonce = open_header(KEYS, name, opening, sealed)
    assert (found, open_body(KEYS, name, found, nonce, body)) == (header, b"sixsix")
    others = {
        KEYS.name("state", header.parent, header.tokens),
        KEYS.name("page", header.parent, pack_tokens([1, 3])),
        KEYS.name("page", KEYS.root("two", "x"), header.tokens),
        KEYS.root("one", "x"),
    }
    assert name not in others
    assert len(others) == 4
    for other in others:
        with pytest.raises(PrefixFileInvalid):
            open_header(KEYS, other, opening, sealed)
        with pytest.raises(PrefixFileInvalid):
            open_body(KEYS, other, found, nonce, body)
    with pytest.raises(PrefixFileInvalid):
        open_header(PrefixKeys.of(bytes([1]) * 32), name, opening, sealed)
    with pytest.raises(PrefixFileInvalid):
        open_body(KEYS, name, found, nonce, body + b"x")
