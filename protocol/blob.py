"""Reads of a blob's bytes on `/tilenode/blob/1` (specs/0012-fetch).

One stream carries many reads. The reader may send up to 32 requests before it takes the first answer; answers come in
order. An answer is the frame {"t":"data","length":n} followed by n raw bytes, or a refusal and no bytes.
"""

from dataclasses import dataclass
from typing import Final

from protocol.codec import decode_message, encode_message
from protocol.digest import Digest
from protocol.errors import FieldInvalid

BLOB_PROTOCOL: Final = "/tilenode/blob/1"
MAX_READ_BYTES: Final = 8 * 1024 * 1024
MAX_REQUEST_BYTES: Final = 256
MAX_ANSWER_BYTES: Final = 1024
MAX_UNANSWERED: Final = 32


@dataclass(frozen=True)
class ReadRequest:
    """Asks for the bytes [offset, offset + length) of a blob; 1 ≤ length ≤ 8 MiB."""

    blob: Digest
    offset: int
    length: int


def encode_read(request: ReadRequest) -> bytes:
    """Return the request as a message."""
    return encode_message("read", blob=bytes.fromhex(request.blob), offset=request.offset, length=request.length)


def decode_read(data: bytes) -> ReadRequest:
    """Return the request in `data`.

    Raises:
        CodecInvalid, FieldInvalid: not such a request, or a length beyond 8 MiB.
    """
    kind, fields = decode_message(data, MAX_REQUEST_BYTES)
    if kind != "read":
        raise FieldInvalid("message.t", f"expected 'read', found {kind!r}")
    request = ReadRequest(
        blob=Digest(fields.bytes("blob", length=32).hex()),
        offset=fields.int("offset", 0, 2**62),
        length=fields.int("length", 1, MAX_READ_BYTES),
    )
    fields.done()
    return request


def encode_data_header(length: int) -> bytes:
    """Return the frame that goes before `length` raw bytes."""
    return encode_message("data", length=length)


def decode_data_header(data: bytes, asked: int) -> None:
    """Check that the answer carries exactly the `asked` bytes.

    Raises:
        CodecInvalid, FieldInvalid: not such an answer, or another length.
    """
    kind, fields = decode_message(data, MAX_ANSWER_BYTES)
    if kind != "data":
        raise FieldInvalid("message.t", f"expected 'data', found {kind!r}")
    fields.int("length", asked, asked)
    fields.done()
