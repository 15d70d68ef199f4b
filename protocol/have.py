"""Have: which part of a blob a node can serve, complete, some chunks of a chunk map, or none (specs/0012-fetch).

Chunk i is bit `7 - i % 8` of byte `i // 8` of a bitmap (most significant first); unused bits of the last byte are 0.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from protocol.codec import decode_message, encode_message
from protocol.digest import Digest
from protocol.errors import FieldInvalid

HAVE_PROTOCOL: Final = "/tilenode/have/1"
MAX_REQUEST_BYTES: Final = 256
# 256 KiB of bits are 2,097,152 chunks: 128 GiB at 64 KiB each.
MAX_BITMAP_BYTES: Final = 256 * 1024
MAX_HAVE_FRAME_BYTES: Final = MAX_BITMAP_BYTES + 1024


@dataclass(frozen=True)
class HaveComplete:
    """The whole blob, `size_bytes` long."""

    size_bytes: int


@dataclass(frozen=True)
class HaveSome:
    """The chunks of the chunk map with digest `chunk_map` whose bits are set."""

    chunk_map: Digest
    bitmap: bytes


@dataclass(frozen=True)
class HaveNone:
    """Nothing of the blob."""


Have = HaveComplete | HaveSome | HaveNone


def encode_have_request(blob: Digest) -> bytes:
    """Return the question which part of `blob` the other side can serve."""
    return encode_message("have?", blob=bytes.fromhex(blob))


def decode_have_request(data: bytes) -> Digest:
    """Return the blob that is asked for.

    Raises:
        CodecInvalid, FieldInvalid: not such a request.
    """
    kind, fields = decode_message(data, MAX_REQUEST_BYTES)
    if kind != "have?":
        raise FieldInvalid("message.t", f"expected 'have?', found {kind!r}")
    blob = Digest(fields.bytes("blob", length=32).hex())
    fields.done()
    return blob


def encode_have(have: Have) -> bytes:
    """Return the answer as a message."""
    match have:
        case HaveComplete(size_bytes):
            return encode_message("complete", size=size_bytes)
        case HaveSome(chunk_map, bitmap):
            return encode_message("some", map=bytes.fromhex(chunk_map), bitmap=bitmap)
        case HaveNone():
            return encode_message("none")


def decode_have(data: bytes) -> Have:
    """Return the answer in `data`.

    Raises:
        CodecInvalid, FieldInvalid: not such an answer, or a bitmap of more than 256 KiB.
    """
    kind, fields = decode_message(data, MAX_HAVE_FRAME_BYTES)
    have: Have
    match kind:
        case "complete":
            have = HaveComplete(fields.int("size", 0, 2**63 - 1))
        case "some":
            chunk_map = Digest(fields.bytes("map", length=32).hex())
            have = HaveSome(chunk_map, fields.bytes("bitmap", max=MAX_BITMAP_BYTES))
        case "none":
            have = HaveNone()
        case _:
            raise FieldInvalid("message.t", f"expected 'complete', 'some' or 'none', found {kind!r}")
    fields.done()
    return have


def encode_bitmap(chunks: Iterable[int], chunk_count: int) -> bytes:
    """Return the bitmap of `chunk_count` bits in which those of `chunks` are set."""
    bitmap = bytearray((chunk_count + 7) // 8)
    for chunk in chunks:
        bitmap[chunk // 8] |= 0x80 >> chunk % 8
    return bytes(bitmap)


def decode_bitmap(bitmap: bytes, chunk_count: int) -> frozenset[int]:
    """Return the chunks whose bits are set.

    Raises:
        FieldInvalid: not exactly the bytes for `chunk_count` chunks, or a bit set beyond the last chunk.
    """
    if len(bitmap) != (chunk_count + 7) // 8:
        raise FieldInvalid("message.bitmap", f"{len(bitmap)} bytes for {chunk_count} chunks")
    chunks = frozenset(
        8 * index + bit for index, byte in enumerate(bitmap) if byte for bit in range(8) if byte & 0x80 >> bit
    )
    if chunks and max(chunks) >= chunk_count:
        raise FieldInvalid("message.bitmap", f"bit {max(chunks)} is set, there are {chunk_count} chunks")
    return chunks
