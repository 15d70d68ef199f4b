"""The sealed files in which a worker keeps what it has read of prompts (specs/0028-prefix-cache).

A page holds the keys and values of at most 128 tokens, a state what caches hold that cannot be cut. The name of a file
is a keyed hash of all the tokens up to its end: who has no key learns neither tokens nor what two prompts share.
"""

import hashlib
import math
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from nacl.bindings import (
    crypto_aead_xchacha20poly1305_ietf_decrypt,
    crypto_aead_xchacha20poly1305_ietf_encrypt,
)
from nacl.exceptions import CryptoError

from protocol.codec import VERSION as CODEC_VERSION
from protocol.codec import Fields, decode, encode
from protocol.errors import CodecInvalid, FieldInvalid, PrefixFileInvalid

MAGIC: Final = b"TNPX"
VERSION: Final = 1
PAGE_TOKENS: Final = 128
KEY_BYTES: Final = 32
NONCE_BYTES: Final = 24
NAME_BYTES: Final = 16
TAG_BYTES: Final = 16
TOKEN_BYTES: Final = 4
MAX_HEADER_BYTES: Final = 512 * 1024
MAX_BODY_BYTES: Final = 1 << 30
MAX_TENSORS: Final = 8192
MAX_AXES: Final = 8
MAX_AXIS: Final = 2**31 - 1
MAX_ADAPTER_BYTES: Final = 128
MAX_SHAPE_BYTES: Final = 256
MAX_START: Final = 4 * 1024 * 1024
ITEM_BYTES: Final[Mapping[str, int]] = {
    "bool": 1,
    "uint8": 1,
    "int8": 1,
    "uint16": 2,
    "int16": 2,
    "float16": 2,
    "bfloat16": 2,
    "uint32": 4,
    "int32": 4,
    "float32": 4,
    "uint64": 8,
    "int64": 8,
}

Kind = Literal["page", "state"]
Value = None | bool | int | Sequence["Value"] | Mapping[str, int]
"""What a cache remembers beside arrays: `{"a": n}` stands for tensor n."""

_OPENING: Final = struct.Struct(">4sHHI")
# Opening and nonce, in the clear.
FIXED_BYTES: Final = _OPENING.size + NONCE_BYTES
_TENSOR: Final = re.compile(r"([a-z]+[0-9]*)((?: (?:0|[1-9][0-9]{0,9})){0,8})", re.ASCII)


@dataclass(frozen=True)
class Tensor:
    """One array of a body: its type as MLX names it, and its axes."""

    dtype: str
    axes: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """What it takes."""
        return math.prod(self.axes) * ITEM_BYTES[self.dtype]


@dataclass(frozen=True)
class PrefixHeader:
    """What a file holds: the tokens from `start` on that lie behind `parent`, and the arrays that were computed.

    `shape` tells for which engine the arrays are good. `values` is empty for a page; for a state it has one entry for
    each cache.
    """

    kind: Kind
    adapter: str = field(repr=False)
    shape: str
    parent: bytes
    start: int
    tokens: bytes = field(repr=False)
    tensors: tuple[Tensor, ...]
    values: Sequence[Value] = field(default=(), repr=False)

    @property
    def body_bytes(self) -> int:
        """How long the arrays are together."""
        return sum(tensor.nbytes for tensor in self.tensors)


@dataclass(frozen=True)
class PrefixKeys:
    """What a directory's key is used as: one key seals, one makes names."""

    seal: bytes = field(repr=False)
    names: bytes = field(repr=False)

    @classmethod
    def of(cls, key: bytes) -> "PrefixKeys":
        """Return the two keys that follow from the directory's 32 bytes."""
        return cls(_mac(key, b"seal", b"", KEY_BYTES), _mac(key, b"names", b"", KEY_BYTES))

    def root(self, adapter: str, shape: str) -> bytes:
        """Return what stands for no tokens at all, for an adapter and an engine."""
        return _mac(self.names, b"root", encode([adapter, shape]), NAME_BYTES)

    def name(self, kind: Kind, parent: bytes, tokens: bytes) -> bytes:
        """Return the name of the page or state that goes on from `parent` with `tokens`."""
        return _mac(self.names, kind.encode(), parent + tokens, NAME_BYTES)


def seal_prefix(
    keys: PrefixKeys, header: PrefixHeader, body: bytes, header_nonce: bytes, body_nonce: bytes
) -> tuple[bytes, bytes]:
    """Return the file for `header` and `body` in two parts; the nonces are 24 random bytes each, never used twice."""
    name = keys.name(header.kind, header.parent, header.tokens)
    plain = encode(
        {
            "v": CODEC_VERSION,
            "kind": header.kind,
            "adapter": header.adapter,
            "shape": header.shape,
            "parent": header.parent,
            "start": header.start,
            "tokens": header.tokens,
            "tensors": [_tensor_text(tensor) for tensor in header.tensors],
            "values": list(header.values),
            "nonce": body_nonce,
        }
    )
    opening = _OPENING.pack(MAGIC, VERSION, 0, len(plain) + TAG_BYTES) + header_nonce
    sealed = crypto_aead_xchacha20poly1305_ietf_encrypt(plain, opening + name, header_nonce, keys.seal)
    sealed_body = crypto_aead_xchacha20poly1305_ietf_encrypt(body, name, body_nonce, keys.seal)
    return opening + sealed, sealed_body


def header_length(opening: bytes) -> int:
    """Return how long the sealed header is that follows the first 36 bytes of a file.

    Raises:
        PrefixFileInvalid: no such file, another version, or a header over 512 KiB.
    """
    if len(opening) < FIXED_BYTES:
        raise PrefixFileInvalid("opening", f"{len(opening)} bytes")
    magic, version, zero, length = _OPENING.unpack_from(opening)
    if magic != MAGIC:
        raise PrefixFileInvalid("opening", "another format")
    if version != VERSION or zero:
        raise PrefixFileInvalid("opening", f"version {version}")
    if not TAG_BYTES < length <= MAX_HEADER_BYTES:
        raise PrefixFileInvalid("opening", f"a header of {length} bytes")
    return int(length)


def open_header(keys: PrefixKeys, name: bytes, opening: bytes, sealed: bytes) -> tuple[PrefixHeader, bytes]:
    """Return the header of the file `name` and the nonce of its body.

    Raises:
        PrefixFileInvalid: not sealed with these keys under this name, or not a header of version 1.
    """
    if len(sealed) != header_length(opening):
        raise PrefixFileInvalid("header", f"{len(sealed)} bytes")
    fixed = opening[:FIXED_BYTES]
    plain = _unseal(keys, sealed, fixed + name, fixed[_OPENING.size :], "header")
    try:
        header, nonce = _header(Fields(decode(plain, MAX_HEADER_BYTES), "header"))
    except (CodecInvalid, FieldInvalid) as error:
        raise PrefixFileInvalid("header", str(error)) from error
    if keys.name(header.kind, header.parent, header.tokens) != name:
        raise PrefixFileInvalid("header", "it belongs to another name")
    return header, nonce


def open_body(keys: PrefixKeys, name: bytes, header: PrefixHeader, nonce: bytes, sealed: bytes) -> bytes:
    """Return the arrays of the file `name`, one after the other.

    Raises:
        PrefixFileInvalid: the bytes are not the ones that were sealed with this header.
    """
    if len(sealed) != header.body_bytes + TAG_BYTES:
        raise PrefixFileInvalid("body", f"{len(sealed)} bytes, expected {header.body_bytes + TAG_BYTES}")
    return _unseal(keys, sealed, name, nonce, "body")


def pack_tokens(tokens: Sequence[int]) -> bytes:
    """Return `tokens` as unsigned 32-bit big-endian integers: their order as bytes is their order as numbers."""
    return struct.pack(f">{len(tokens)}I", *tokens)


def _mac(key: bytes, purpose: bytes, data: bytes, size: int) -> bytes:
    return hashlib.blake2b(data, key=key, digest_size=size, person=b"tnpx " + purpose).digest()


def _unseal(keys: PrefixKeys, sealed: bytes, bound: bytes, nonce: bytes, where: str) -> bytes:
    try:
        return crypto_aead_xchacha20poly1305_ietf_decrypt(sealed, bound, nonce, keys.seal)
    except CryptoError:
        raise PrefixFileInvalid(where, "not sealed with this key, or damaged") from None


def _header(fields: Fields) -> tuple[PrefixHeader, bytes]:
    fields.int("v", CODEC_VERSION, CODEC_VERSION)
    kind = fields.text("kind", max=8)
    tokens = fields.bytes("tokens", max=PAGE_TOKENS * TOKEN_BYTES)
    start = fields.int("start", 0, MAX_START)
    if kind not in ("page", "state"):
        raise fields.invalid("kind", "neither page nor state")
    if not tokens or len(tokens) % TOKEN_BYTES:
        raise fields.invalid("tokens", f"{len(tokens)} bytes")
    if start % PAGE_TOKENS:
        raise fields.invalid("start", "not where a page begins")
    tensors = tuple(_tensor(fields, text) for text in fields.texts("tensors", max=MAX_TENSORS, max_each=128))
    values = fields.list("values", max=MAX_TENSORS)
    if kind == "page" and values:
        raise fields.invalid("values", "a page has none")
    header = PrefixHeader(
        kind="page" if kind == "page" else "state",
        adapter=fields.text("adapter", max=MAX_ADAPTER_BYTES),
        shape=fields.text("shape", max=MAX_SHAPE_BYTES),
        parent=fields.bytes("parent", length=NAME_BYTES),
        start=start,
        tokens=tokens,
        tensors=tensors,
        values=tuple(_value(fields, value, len(tensors)) for value in values),
    )
    nonce = fields.bytes("nonce", length=NONCE_BYTES)
    fields.done()
    if header.body_bytes > MAX_BODY_BYTES:
        raise fields.invalid("tensors", f"{header.body_bytes} bytes")
    return header, nonce


def _tensor_text(tensor: Tensor) -> str:
    return " ".join([tensor.dtype, *map(str, tensor.axes)])


def _tensor(fields: Fields, text: str) -> Tensor:
    match = _TENSOR.fullmatch(text)
    if match is None or match[1] not in ITEM_BYTES:
        raise fields.invalid("tensors", "not a type with axes")
    axes = tuple(map(int, match[2].split()))
    if len(axes) > MAX_AXES or any(axis > MAX_AXIS for axis in axes):
        raise fields.invalid("tensors", "too large")
    return Tensor(match[1], axes)


def _value(fields: Fields, value: object, tensors: int) -> Value:
    match value:
        case None | bool() | int():
            return value
        case list():
            return [_value(fields, each, tensors) for each in value]
        case {"a": int(place), **rest} if not rest and type(place) is int and 0 <= place < tensors:
            return {"a": place}
    raise fields.invalid("values", "neither a number, a list nor an array")
