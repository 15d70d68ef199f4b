"""A stream to one authenticated peer, in frames or raw bytes, with the peer's permission checked at every frame."""

from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, Self

import trio
from libp2p.exceptions import BaseLibp2pError
from libp2p.io.abc import ReadWriteCloser
from libp2p.network.stream.exceptions import StreamEOF, StreamReset

from identity.did import DeviceId
from node.errors import PeerNotLinked, RemoteRefused, StreamClosed
from protocol.codec import decode_message
from protocol.errors import CodecInvalid, FieldInvalid
from protocol.refusal import REFUSED, RefusalCode, encode_refusal, parse_refusal
from protocol.wire import HEADER_BYTES, MAX_FRAME_BYTES, encode_frame, frame_size

MAX_REFUSAL_BYTES: Final = 512
READ_BYTES: Final = 256 * 1024
# How long a refused peer may take to read the refusal before its stream is reset.
LINGER_S: Final = 2.0
# Canonical msgpack puts `code` first in a refusal, so that these bytes begin every one of them.
_REFUSAL_PREFIX: Final = b"\x84\xa4code"


class PeerStream:
    """One stream. Use it as a context manager: leaving it closes it, an error inside resets it."""

    def __init__(self, stream: Any, peer: DeviceId, protocol: str, refusal: Callable[[], RefusalCode | None]) -> None:
        """`refusal()` returns why the peer may not use the stream now, None while it may."""
        self.peer: Final = peer
        self.protocol: Final = protocol
        self._stream = stream
        self._refusal = refusal
        self._unread = bytearray()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with trio.move_on_after(LINGER_S, shield=True):
            if error is None:
                with suppress(StreamClosed):  # everything that was expected has come
                    await self.close()
            else:
                await self.reset()

    async def send(self, payload: bytes) -> None:
        """Send one frame of at most 16 MiB.

        Raises:
            PeerNotLinked: the peer was unlinked meanwhile; nothing more is sent.
            StreamClosed: the stream or its connection ended.
        """
        await self.send_raw(encode_frame(payload, MAX_FRAME_BYTES))

    async def send_raw(self, data: bytes) -> None:
        """Send bytes as they are, for bulk behind a framed header. Raises as `send`."""
        await self._require_permission()
        try:
            await self._stream.write(data)
        except (BaseLibp2pError, OSError) as error:
            raise StreamClosed(self.peer) from error

    async def receive(self, max_bytes: int) -> bytes:
        """Return the next frame, of at most `max_bytes`.

        Raises:
            RemoteRefused: the other side refused instead of answering.
            PeerNotLinked: the peer was unlinked meanwhile; it is told, and the frame is dropped.
            StreamClosed: the stream or its connection ended.
            FrameTooLarge: the frame announces more than `max_bytes`.
        """
        header = await self.receive_exactly(HEADER_BYTES)
        size = frame_size(header, max(max_bytes, MAX_REFUSAL_BYTES))
        payload = await self.receive_exactly(size)
        self._raise_refusal(payload)
        frame_size(header, max_bytes)
        await self._require_permission()
        return payload

    async def receive_exactly(self, count: int) -> bytes:
        """Return the next `count` bytes. Raises as `receive`."""
        while len(self._unread) < count:
            self._unread += await self._read(max(count - len(self._unread), 1))
        taken = bytes(self._unread[:count])
        del self._unread[:count]
        return taken

    async def receive_some(self, max_bytes: int = READ_BYTES) -> bytes:
        """Return what has come, from 1 to `max_bytes` bytes. Raises as `receive`."""
        if not self._unread:
            return await self._read(max_bytes)
        taken = bytes(self._unread[:max_bytes])
        del self._unread[:max_bytes]
        return taken

    def put_back(self, data: bytes) -> None:
        """Have the next receive begin with `data`, which was received too early."""
        self._unread[:0] = data

    async def refuse(self, code: RefusalCode, why: str = "") -> None:
        """Say no, wait shortly until the other side has read it, and end the stream."""
        with trio.move_on_after(LINGER_S, shield=True):
            try:
                await self._stream.write(encode_frame(encode_refusal(code, why), MAX_REFUSAL_BYTES))
                await self._stream.close()
            except (BaseLibp2pError, OSError):
                return
        await self.drain()

    async def drain(self) -> None:
        """After the last word: wait shortly until the other side has ended its half too, then end the stream."""
        with trio.move_on_after(LINGER_S):
            try:
                while await self._stream.read(READ_BYTES):
                    continue  # what the other side still sends is dropped
            except (BaseLibp2pError, OSError):
                return
        await self.reset()

    async def close(self) -> None:
        """End the stream after what was sent; what the other side still sends can be received."""
        try:
            await self._stream.close()
        except (BaseLibp2pError, OSError) as error:
            raise StreamClosed(self.peer) from error

    async def reset(self) -> None:
        """End the stream in both directions at once."""
        try:
            await self._stream.reset()
        except (BaseLibp2pError, OSError):
            return  # the connection is gone, and the stream with it

    async def _read(self, max_bytes: int) -> bytes:
        await self._require_permission()
        try:
            data: bytes = await self._stream.read(min(max_bytes, READ_BYTES))
        except StreamEOF:
            raise StreamClosed(self.peer) from None
        except StreamReset:
            raise StreamClosed(self.peer, "the stream was reset") from None
        except (BaseLibp2pError, OSError) as error:
            raise StreamClosed(self.peer) from error
        if not data:
            raise StreamClosed(self.peer)
        await self._require_permission()
        return data

    async def _require_permission(self) -> None:
        code = self._refusal()
        if code is not None:
            await self.refuse(code)
            raise PeerNotLinked(self.peer)

    def _raise_refusal(self, payload: bytes) -> None:
        if len(payload) > MAX_REFUSAL_BYTES or not payload.startswith(_REFUSAL_PREFIX):
            return
        try:
            kind, fields = decode_message(payload, MAX_REFUSAL_BYTES)
            if kind != REFUSED:
                return
            refusal = parse_refusal(fields)
        except (CodecInvalid, FieldInvalid):
            return  # not a refusal; the caller's own decoder names what is wrong with it
        raise RemoteRefused(self.peer, refusal.code, refusal.why)


class CappedReader(ReadWriteCloser):
    """The first bytes of a stream, read by libp2p's protocol negotiation: more than `max_bytes` ends it."""

    def __init__(self, stream: Any, max_bytes: int) -> None:
        self._stream = stream
        self._left = max_bytes

    async def read(self, n: int | None = None) -> bytes:
        """Return at most `n` bytes. Raises StreamReset beyond the cap, which ends the negotiation."""
        if n is None or n > self._left:
            raise StreamReset("the negotiation is too long")
        data: bytes = await self._stream.read(n)
        self._left -= len(data)
        return data

    async def write(self, data: bytes) -> None:
        """Send bytes of the negotiation."""
        await self._stream.write(data)

    async def close(self) -> None:
        """End the stream."""
        await self._stream.close()

    def get_remote_address(self) -> tuple[str, int] | None:
        """Return where the peer is."""
        remote: tuple[str, int] | None = self._stream.get_remote_address()
        return remote
