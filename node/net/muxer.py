"""Yamux with the limits that the stock one lacks: one writer, a liveness deadline, caps on buffers and streams.

libp2p's Yamux takes any amount of data beyond its window, never notices a frozen peer, and leaves half a frame behind
when a writer is cancelled. The wire is unchanged; these are the limits around it.
"""

import logging
import struct
from collections.abc import Callable
from typing import Any, Final, cast

import trio
from libp2p.abc import ISecureConn
from libp2p.custom_types import TProtocol
from libp2p.exceptions import BaseLibp2pError
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.stream_muxer.exceptions import MuxedConnUnavailable
from libp2p.stream_muxer.yamux.yamux import FLAG_SYN, PROTOCOL_ID, TYPE_PING, YAMUX_HEADER_FORMAT, Yamux

YAMUX_PROTOCOL: Final = TProtocol(PROTOCOL_ID)
LINKED_BUFFER_BYTES: Final = 128 * 1024 * 1024
LINKED_STREAMS: Final = 256
STRANGER_BUFFER_BYTES: Final = 2 * 1024 * 1024
STRANGER_STREAMS: Final = 8
MAX_EXCESS_STREAMS: Final = 64
WINDOW_GROWTH_RTT_S: Final = 0.1
_FIRST_PING_S: Final = 0.5  # early, because the window grows by the measured round trip

_log = logging.getLogger("tilenode.net")


class LimitedYamux(Yamux):
    """One connection's streams. `is_linked` is asked again whenever a limit is applied."""

    secured_conn: Any  # the connection below, remembering when it was last heard

    def __init__(
        self,
        secured: Any,
        peer_id: Any,
        *,
        is_linked: Callable[[], bool],
        ping_interval_s: float,
        ping_deadline_s: float,
    ) -> None:
        super().__init__(cast(ISecureConn, _Heard(secured)), peer_id, is_initiator=secured.is_initiator)
        self._is_linked = is_linked
        self._ping_interval_s = ping_interval_s
        self._ping_deadline_s = ping_deadline_s
        self._excess_streams = 0
        self._aborted = False
        # Buffer 0: a sender goes on when the writer has taken its frame, so memory stays bounded by the senders.
        self._frames_in, self._frames_out = trio.open_memory_channel[_Frame](0)

    @property
    def has_ended(self) -> bool:
        """Whether the connection is closed or closing."""
        return self._aborted or self.event_shutting_down.is_set()

    def rtt(self) -> float:
        """Return the round trip by which the window grows; at least 0.1 s for a linked peer.

        The stock writer polls a full window every 10 ms, so over a quick link windows would stay small and transfers
        at 25 MB/s. The window is at most 16 MiB, and the caps on buffers hold besides.
        """
        measured: float = super().rtt()
        return max(measured, WINDOW_GROWTH_RTT_S) if self._is_linked() else measured

    async def start(self) -> None:
        """Run the connection until it ends."""
        try:
            await super().start()
        except Exception as error:  # noqa: BLE001 - whatever libp2p lets escape ends this connection, not the swarm
            _log.warning("connection_failed", extra={"error": type(error).__name__})
            await self.abort()
            await self._cleanup_on_error()

    async def abort(self) -> None:
        """Close the socket at once; every stream then ends, and whoever is blocked in a read or write wakes up."""
        self._aborted = True
        with trio.CancelScope(shield=True):
            await self.secured_conn.close()

    async def close(self, error_code: int = 0) -> None:
        """Close the connection. The socket goes first: a frozen peer must not keep us waiting for its window."""
        await self.abort()
        await super().close(error_code)

    async def accept_stream(self) -> Any:
        """Return the next inbound stream within the cap; those beyond it are reset, and who insists is cut off."""
        while True:
            stream = await super().accept_stream()
            if self._inbound_streams() <= (LINKED_STREAMS if self._is_linked() else STRANGER_STREAMS):
                return stream
            self._excess_streams += 1
            if self._excess_streams > MAX_EXCESS_STREAMS:
                await self.abort()
                raise MuxedConnUnavailable("too many streams")
            await stream.reset()

    def _inbound_streams(self) -> int:
        ours = 1 if self.is_initiator_value else 0
        return sum(1 for stream_id in self.streams if stream_id % 2 != ours)

    async def _read_data_body(self, length: int) -> bytes:
        buffered = sum(len(buffer) for buffer in self.stream_buffers.values())
        allowed = LINKED_BUFFER_BYTES if self._is_linked() else STRANGER_BUFFER_BYTES
        if buffered + length > allowed:
            await self.abort()
            raise ConnectionClosedError(f"{buffered + length} bytes unread, at most {allowed} are buffered")
        body: bytes = await super()._read_data_body(length)
        return body

    async def _write_frame(self, data: bytes) -> None:
        """Hand a whole frame to the writer; a cancelled caller never leaves half a frame on the wire."""
        if self._aborted:
            raise ConnectionClosedError("the connection is closed")
        frame = _Frame(data)
        try:
            await self._frames_in.send(frame)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise ConnectionClosedError("the connection is closed") from None
        await frame.written.wait()
        if frame.failed:
            raise ConnectionClosedError("the connection broke")

    async def _measure_rtt_loop(self) -> None:
        # The stock hook for a background task of the connection.
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._write_loop)
            nursery.start_soon(self._watch_liveness)

    async def _write_loop(self) -> None:
        with self._frames_out:
            async for frame in self._frames_out:
                try:
                    await self.secured_conn.write(frame.data)
                    frame.failed = False
                except (BaseLibp2pError, OSError):
                    await self.abort()
                    return
                finally:
                    frame.written.set()

    async def _watch_liveness(self) -> None:
        await trio.sleep(min(_FIRST_PING_S, self._ping_interval_s))
        while await self._answers():
            await self._silence()
        await self.abort()

    async def _silence(self) -> None:
        """Return when nothing was heard for an interval."""
        quiet_s = 0.0
        while quiet_s < self._ping_interval_s:
            await trio.sleep(self._ping_interval_s - quiet_s)
            quiet_s = trio.current_time() - self.secured_conn.heard_at

    async def _answers(self) -> bool:
        asked_at = trio.current_time()
        with trio.move_on_after(self._ping_deadline_s):
            await self._ping()
            while self.secured_conn.heard_at <= asked_at:
                await self.secured_conn.heard.wait()
            return True
        return False

    async def _ping(self) -> None:
        self._ping_id += 1
        self._ping_sent_time = trio.current_time()
        try:
            await self._write_frame(struct.pack(YAMUX_HEADER_FORMAT, 0, TYPE_PING, FLAG_SYN, 0, self._ping_id))
        except ConnectionClosedError:
            await trio.sleep_forever()  # the reader sees the end too, and ends this task with the connection


class _Frame:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.failed = True
        self.written = trio.Event()


class _Heard:
    """The secured connection, remembering when the peer was last heard."""

    def __init__(self, secured: Any) -> None:
        self._secured = secured
        self.heard_at = trio.current_time()
        self.heard = trio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._secured, name)

    async def read(self, n: int | None = None) -> bytes:
        data: bytes = await self._secured.read(n)
        self.heard_at = trio.current_time()
        self.heard.set()
        self.heard = trio.Event()
        return data
