"""Drives one sync round over one stream: both directions at once, each batch stored before the next is read."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

import trio

from identity.did import DeviceId
from node.errors import NodeError
from node.net.streams import PeerStream
from node.threads import Threads
from protocol.errors import ProtocolError
from protocol.feed import ChatId
from protocol.sync import MAX_BATCH_BYTES, Batch, End, Have, SyncRound
from protocol.version_vector import VersionVector
from store.errors import StoreError
from store.feeds import Feeds


@dataclass(frozen=True, slots=True)
class SyncReport:
    """What moved between this device and `peer`: entries, their bytes, and the chats they belong to.

    `received` counts what was kept, `refused` what was not acceptable; `error` is why the exchange ended early.
    """

    peer: DeviceId
    sent: int = 0
    received: int = 0
    refused: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0
    chats: frozenset[ChatId] = frozenset()
    forked: frozenset[DeviceId] = frozenset()
    error: Exception | None = None

    @property
    def bytes(self) -> int:
        """The bytes of all entries that moved, both ways."""
        return self.sent_bytes + self.received_bytes

    def plus(self, other: "SyncReport") -> "SyncReport":
        """Return this report and a later one of the same peer as one."""
        return SyncReport(
            self.peer,
            self.sent + other.sent,
            self.received + other.received,
            self.refused + other.refused,
            self.sent_bytes + other.sent_bytes,
            self.received_bytes + other.received_bytes,
            self.chats | other.chats,
            self.forked | other.forked,
            other.error,
        )


class RoundDriver:
    """One round on this side. `report` is true at any moment, so that an interrupted round tells what it moved."""

    def __init__(
        self, stream: PeerStream, feeds: Feeds, threads: Threads, stall: trio.CancelScope, stall_s: float
    ) -> None:
        """`stall` is cancelled when neither direction moves for `stall_s` seconds."""
        self.report = SyncReport(stream.peer)
        self._stream = stream
        self._feeds = feeds
        self._threads = threads
        self._stall = stall
        self._stall_s = stall_s
        self._round = SyncRound()
        self._writing = trio.Lock()  # both tasks send, a frame at a time
        self._theirs = VersionVector()
        self._have_come = trio.Event()
        self._known = 0
        self._failure: NodeError | ProtocolError | StoreError | None = None

    async def run(self) -> None:
        """Run the round to its confirmed end.

        Raises:
            NodeError, ProtocolError, StoreError: the first failure of either direction.
        """
        self._progress()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._part, self._send_all, nursery.cancel_scope)
            nursery.start_soon(self._part, self._receive_all, nursery.cancel_scope)
        if self._failure is not None:
            raise self._failure
        self._feeds.drop_claim(self.report.peer)

    async def _part(self, part: Callable[[], Awaitable[None]], scope: trio.CancelScope) -> None:
        try:
            await part()
        except (NodeError, ProtocolError, StoreError) as error:
            self._failure = self._failure or error
            scope.cancel()

    async def _send_all(self) -> None:
        await self._send(self._round.send_have(await self._threads.database(self._feeds.version_vector)))
        await self._have_come.wait()
        rest = await self._threads.database(self._feeds.outgoing, self._theirs)
        while (batch := await self._threads.database(self._feeds.next_batch, rest, MAX_BATCH_BYTES)).entries:
            await self._send(self._round.send_entries(batch.entries))
            self.report = replace(
                self.report,
                sent=self.report.sent + len(batch.entries),
                sent_bytes=self.report.sent_bytes + sum(map(len, batch.entries)),
                chats=self.report.chats | batch.chats,
            )
            rest = batch.rest
        await self._send(self._round.send_end())

    async def _receive_all(self) -> None:
        while not self._round.finished:
            event = self._round.receive(await self._stream.receive(MAX_BATCH_BYTES))
            self._progress()
            match event:
                case Have(vector):
                    self._theirs = vector
                    self._feeds.note_claim(self.report.peer, vector)
                    self._have_come.set()
                case Batch():
                    await self._store(event)
                case End():
                    await self._send(self._round.send_stored(self.report.received, self._known, self.report.refused))

    async def _store(self, batch: Batch) -> None:
        kept = await self._threads.database(self._feeds.receive, batch.entries)
        self._progress()
        self._known += kept.known
        self.report = replace(
            self.report,
            received=self.report.received + kept.accepted,
            refused=self.report.refused + kept.refused,
            received_bytes=self.report.received_bytes + sum(map(len, batch.entries)),
            chats=self.report.chats | kept.chats,
            forked=self.report.forked | kept.forked,
        )

    async def _send(self, payload: bytes) -> None:
        async with self._writing:
            await self._stream.send(payload)
        self._progress()

    def _progress(self) -> None:
        self._stall.deadline = trio.current_time() + self._stall_s
