"""Fetching one chunk-mapped layer from every linked peer that has some of it (specs/0012).

One task per source asks and receives; every chunk is verified before it is written; a ticker makes what arrived
durable, gives up silent sources and watches the patience. A source that comes back is taken up again.
"""

import logging
from collections import deque
from collections.abc import Callable, Collection
from typing import Final

import trio

from identity.did import DeviceId
from identity.errors import IdentityError
from node.errors import ChunksCorrupt, FetchStalled, NodeError, PeerNotLinked, RemoteRefused
from node.net.streams import PeerStream
from node.net.transport import ConnectionEvent, Transport
from node.peer.sources import ask_have, receive_run
from node.ports import Clock
from node.threads import Threads
from protocol.blob import BLOB_PROTOCOL, ReadRequest, encode_read
from protocol.digest import Digest
from protocol.errors import ProtocolError
from protocol.fetch import FetchPlan, Run
from protocol.have import Have, HaveComplete, HaveNone, HaveSome, decode_bitmap
from protocol.refusal import RefusalCode
from store.errors import ChunkCorrupt, StoreError
from store.partial import PartialLayer

SYNC_BYTES: Final = 64 * 1024 * 1024
TICK_S: Final = 1.0
RETRY_S: Final = 1.0
PATIENCE_S: Final = 60.0
# How long peers that are not known to offer the model may still turn out to have what the lost ones had.
HOPELESS_S: Final = 5.0

_log = logging.getLogger("tilenode.fetch")
_SOURCE_ERRORS: Final = (NodeError, ProtocolError, IdentityError, trio.TooSlowError)


class LayerFetch:
    """One layer on its way. `run` returns when all its chunks are in the partial layer, durably."""

    def __init__(
        self,
        transport: Transport,
        threads: Threads,
        clock: Clock,
        partial: PartialLayer,
        chunk_map: Digest,
        *,
        holders: Collection[DeviceId],
        report: Callable[["LayerFetch"], None],
        wake: Callable[[DeviceId], None],
        patience_s: float = PATIENCE_S,
    ) -> None:
        """`holders` are the peers known to offer the model; `report` is called about once a second; `wake` redials."""
        self._transport = transport
        self._threads = threads
        self._clock = clock
        self._partial = partial
        self._chunk_map = chunk_map
        self._holders = frozenset(holders)
        self._report = report
        self._wake = wake
        self._patience_s = patience_s
        self._plan = FetchPlan([chunk.length for chunk in partial.chunk_map], partial.missing())
        self.digest: Final = partial.digest
        self.total_bytes: Final = partial.size
        self.missing_bytes = partial.missing_bytes()
        self.received_bytes = 0
        self.waiting_since_s: float | None = None
        self._unsynced_bytes = 0
        self._delivered: dict[DeviceId, int] = {}
        self._out: dict[DeviceId, NodeError] = {}
        self._attempts: dict[DeviceId, trio.CancelScope] = {}
        self._failure: NodeError | StoreError | None = None
        self._changed = trio.Event()
        self._over = trio.Event()

    @property
    def sources(self) -> tuple[DeviceId, ...]:
        """The peers that have sent verified chunks, most bytes first."""
        return tuple(sorted(self._delivered, key=lambda peer: self._delivered[peer], reverse=True))

    @property
    def lost_holders(self) -> tuple[DeviceId, ...]:
        """The peers that offer the model and are not connected now."""
        return tuple(sorted(self._holders - self._transport.connected() - self._out.keys()))

    async def run(self) -> None:
        """Fetch every missing chunk.

        Raises:
            FetchStalled: no source for as long as the patience lasts; what arrived is kept.
            PeerNotLinked: the only source was unlinked meanwhile, here or over there.
            ChunksCorrupt: every source that could be asked sent corrupt chunks.
            DiskFull, DiskFailed: they could not be written; what arrived is kept.
        """
        if not self._plan.done:
            with self._transport.subscribe() as events:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._take_up_new, nursery, events)
                    nursery.start_soon(self._tick)
                    for peer in self._transport.connected():
                        self._take_up(nursery, peer)
                    await self._over.wait()
                    nursery.cancel_scope.cancel()
        await self._threads.store(self._partial.sync)
        if self._failure is not None:
            raise self._failure

    async def _take_up_new(self, nursery: trio.Nursery, events: trio.MemoryReceiveChannel[ConnectionEvent]) -> None:
        async for event in events:
            if event.up:
                self._take_up(nursery, event.peer)

    def _take_up(self, nursery: trio.Nursery, peer: DeviceId) -> None:
        if peer not in self._attempts and peer not in self._out:
            self._attempts[peer] = trio.CancelScope()
            nursery.start_soon(self._attend, peer)

    async def _attend(self, peer: DeviceId) -> None:
        """Use one peer as a source for as long as it is connected and behaves."""
        try:
            while not self._over.is_set():
                with self._attempts[peer]:
                    await self._attempt(peer)
                self._attempts[peer] = trio.CancelScope()
                self._drop(peer)
                if not self._may_retry(peer):
                    return
                await trio.sleep(RETRY_S)
        finally:
            del self._attempts[peer]
            self._drop(peer)

    async def _attempt(self, peer: DeviceId) -> None:
        try:
            await self._use(peer)
        except RemoteRefused as error:
            if error.code in (RefusalCode.NOT_LINKED, RefusalCode.STOPPED):
                self._out[peer] = error
            _log.info("source_refused", extra={"peer": peer, "layer": self.digest, "code": error.code})
        except StoreError as error:
            self._end(error)
        except _SOURCE_ERRORS as error:
            _log.info("source_lost", extra={"peer": peer, "layer": self.digest, "error": type(error).__name__})

    def _may_retry(self, peer: DeviceId) -> bool:
        if self._transport.peers.scope_of(peer) is None:
            self._out[peer] = PeerNotLinked(peer)
        elif self._plan.is_struck_out(peer):
            self._out[peer] = ChunksCorrupt(self.digest, f"{peer} sent corrupt chunks")
        elif peer not in self._transport.connected():
            self._wake(peer)
            return False  # it is taken up again when it has come back
        return peer not in self._out

    async def _use(self, peer: DeviceId) -> None:
        """Ask what the peer has, and fetch from it until it has nothing more that is needed."""
        chunks = self._usable(await ask_have(self._transport, peer, self.digest))
        if chunks is not None and not chunks & self._plan.missing:
            return
        self._plan.set_source(peer, chunks, self._clock.monotonic_s())
        async with self._transport.open(peer, BLOB_PROTOCOL) as stream:
            owed: deque[Run] = deque()
            while self._plan.has_chunk_for(peer) or owed:
                await self._ask_ahead(peer, stream, owed)
                if owed:
                    await self._settle(peer, stream, owed.popleft())
                else:
                    with trio.move_on_after(TICK_S):
                        await self._changed.wait()

    def _usable(self, have: Have) -> frozenset[int] | None:
        """Return the chunks that a peer has, None for all of them."""
        match have:
            case HaveComplete(size_bytes):
                return None if size_bytes == self.total_bytes else frozenset()
            case HaveSome(chunk_map, bitmap):
                count = len(self._partial.chunk_map)
                return decode_bitmap(bitmap, count) if chunk_map == self._chunk_map else frozenset()
            case HaveNone():
                return frozenset()

    async def _ask_ahead(self, peer: DeviceId, stream: PeerStream, owed: deque[Run]) -> None:
        while (run := self._plan.next_run(peer, self._clock.monotonic_s())) is not None:
            await stream.send(encode_read(ReadRequest(self.digest, run.offset, run.length)))
            owed.append(run)

    async def _settle(self, peer: DeviceId, stream: PeerStream, run: Run) -> None:
        try:
            data = await receive_run(stream, run.length, lambda count: self._arrived(peer, count))
        except RemoteRefused as error:
            if error.code != RefusalCode.NOT_FOUND:
                raise
            self._plan.refuse_run(peer, run, self._clock.monotonic_s())
            self._note_change()
            return
        verified, corrupt = await self._threads.store(self._write, run, data, self._plan.needed(run))
        self._plan.receive_run(peer, run, verified, corrupt, self._clock.monotonic_s())
        self._note_written(peer, verified)
        if corrupt:
            _log.warning("corrupt_chunks", extra={"peer": peer, "layer": self.digest, "count": len(corrupt)})
        if self._plan.is_struck_out(peer):
            raise ChunksCorrupt(self.digest, f"{peer} sent corrupt chunks")

    def _write(self, run: Run, data: bytearray, needed: list[int]) -> tuple[list[int], list[int]]:
        """Write the needed chunks that are what they should be; return their numbers and those of the others."""
        verified: list[int] = []
        corrupt: list[int] = []
        view = memoryview(data)
        for index in needed:
            chunk = self._partial.chunk_map.chunk(index)
            start = chunk.offset - run.offset
            try:
                self._partial.write_chunk(index, bytes(view[start : start + chunk.length]))
            except ChunkCorrupt:
                corrupt.append(index)
            else:
                verified.append(index)
        return verified, corrupt

    def _arrived(self, peer: DeviceId, count: int) -> None:
        self.received_bytes += count
        self._plan.receive_bytes(peer, count, self._clock.monotonic_s())

    def _note_written(self, peer: DeviceId, verified: list[int]) -> None:
        count = sum(self._partial.chunk_map.chunk(index).length for index in verified)
        self.missing_bytes -= count
        self._unsynced_bytes += count
        if count:
            self._delivered[peer] = self._delivered.get(peer, 0) + count
            self.waiting_since_s = None
        self._note_change()
        if self._plan.done:
            self._over.set()

    def _note_change(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    def _drop(self, peer: DeviceId) -> None:
        self._plan.drop_source(peer)
        self._note_change()

    def _end(self, failure: NodeError | StoreError) -> None:
        if self._failure is None:
            self._failure = failure
        self._over.set()

    async def _tick(self) -> None:
        """Report, make durable what arrived, give up silent sources, and watch the patience."""
        while True:
            self._report(self)
            with trio.move_on_after(TICK_S):
                while self._unsynced_bytes < SYNC_BYTES:
                    await self._changed.wait()
            try:
                await self._sync()
            except StoreError as error:
                self._end(error)
            now_s = self._clock.monotonic_s()
            for peer in self._plan.stalled(now_s):
                _log.info("source_stalled", extra={"peer": peer, "layer": self.digest})
                self._attempts[DeviceId(peer)].cancel()
            self._watch_patience(now_s)

    async def _sync(self) -> None:
        if self._unsynced_bytes:
            self._unsynced_bytes = 0
            await self._threads.store(self._partial.sync)

    def _watch_patience(self, now_s: float) -> None:
        if self._plan.sources and self._plan.orphans() != self._plan.missing:
            self.waiting_since_s = None
            return
        if self.waiting_since_s is None:
            self.waiting_since_s = now_s
        for peer in self._holders:
            if self._transport.peers.scope_of(peer) is None:
                self._out.setdefault(peer, PeerNotLinked(peer))
        for peer in self.lost_holders:
            self._wake(peer)
        hopeless = bool(self._out) and not self._holders - self._out.keys()
        if hopeless and (not self._attempts or now_s - self.waiting_since_s >= HOPELESS_S):
            self._end(next(iter(self._out.values())))
        elif now_s - self.waiting_since_s >= self._patience_s:
            self._end(FetchStalled(self.digest, self.missing_bytes, self._patience_s))
