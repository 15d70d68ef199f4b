"""Asking one peer for a blob: what it has of it, and ranges of its bytes (specs/0012)."""

from collections.abc import Callable
from typing import Final

import trio

from identity.did import DeviceId
from node.errors import BlobCorrupt
from node.net.streams import PeerStream
from node.net.transport import Transport
from protocol.blob import BLOB_PROTOCOL, MAX_ANSWER_BYTES, ReadRequest, decode_data_header, encode_read
from protocol.digest import Digest, digest_of
from protocol.have import (
    HAVE_PROTOCOL,
    MAX_HAVE_FRAME_BYTES,
    Have,
    decode_have,
    encode_have_request,
)

HAVE_S: Final = 20.0
SMALL_S: Final = 60.0
PIECE_BYTES: Final = 1024 * 1024
SMALL_RUN_BYTES: Final = 4 * 1024 * 1024


async def ask_have(transport: Transport, peer: DeviceId, blob: Digest) -> Have:
    """Return what `peer` has of `blob`.

    Raises:
        PeerUnreachable, PeerNotLinked, RemoteRefused, StreamClosed, TooSlowError: it did not say.
        CodecInvalid, FieldInvalid: it broke the rules.
    """
    with trio.fail_after(HAVE_S):
        async with transport.open(peer, HAVE_PROTOCOL) as stream:
            await stream.send(encode_have_request(blob))
            return decode_have(await stream.receive(MAX_HAVE_FRAME_BYTES))


async def receive_run(stream: PeerStream, length: int, arrived: Callable[[int], None]) -> bytearray:
    """Return the `length` bytes that answer the oldest request on `stream`; `arrived(n)` is called for every piece.

    Raises:
        RemoteRefused: the peer cannot serve them.
        StreamClosed, PeerNotLinked: the stream ended.
        CodecInvalid, FieldInvalid: the peer broke the rules.
    """
    decode_data_header(await stream.receive(MAX_ANSWER_BYTES), length)
    data = bytearray(length)
    position = 0
    while position < length:
        piece = await stream.receive_some(min(PIECE_BYTES, length - position))
        data[position : position + len(piece)] = piece
        position += len(piece)
        arrived(len(piece))
    return data


async def fetch_small(
    transport: Transport, peer: DeviceId, blob: Digest, size: int, arrived: Callable[[int], None]
) -> bytes:
    """Return a whole blob of `size` bytes from one peer, verified.

    Raises:
        BlobCorrupt: what came does not hash to its name.
        PeerUnreachable, PeerNotLinked, RemoteRefused, StreamClosed, TooSlowError: it did not come.
        CodecInvalid, FieldInvalid: the peer broke the rules.
    """
    content = bytearray()
    if size:
        with trio.fail_after(SMALL_S):
            async with transport.open(peer, BLOB_PROTOCOL) as stream:
                for offset in range(0, size, SMALL_RUN_BYTES):
                    length = min(SMALL_RUN_BYTES, size - offset)
                    await stream.send(encode_read(ReadRequest(blob, offset, length)))
                    content += await receive_run(stream, length, arrived)
    whole = bytes(content)
    if digest_of(whole) != blob:
        raise BlobCorrupt(blob, f"{peer} sent other bytes")
    return whole
