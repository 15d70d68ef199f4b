"""Chat sync with the person's own devices: a round at every contact, a push at every new line, a report of what moved.

Rules: protocol/sync.py. Contract: specs/0013.
"""

import logging
from collections.abc import Callable
from typing import Final, NoReturn

import trio

from identity.did import DeviceId
from identity.errors import IdentityError
from node.errors import NodeError, PeerNotLinked, SyncStalled
from node.net.access import Access
from node.net.streams import PeerStream
from node.net.transport import Transport
from node.peer.sync_round import RoundDriver, SyncReport
from node.threads import Threads
from protocol.errors import ProtocolError
from protocol.refusal import RefusalCode
from protocol.scope import Scope
from protocol.sync import PROTOCOL
from store.chats import Chats
from store.errors import DeviceRemoved, StoreError
from store.peers import LinkedPeer, Peers

# How long neither side may make any progress before a round is given up.
STALL_S: Final = 60.0
# A round may bring the word that makes refused authors acceptable; so many rounds follow one another at most.
MAX_ROUNDS: Final = 4
EXPECTED: Final = (NodeError, StoreError, ProtocolError, IdentityError)

_log = logging.getLogger("tilenode.sync")


class Sync:
    """Keeps the chats of this device and the person's other devices the same. Construct it, then start `run`."""

    def __init__(
        self,
        transport: Transport,
        chats: Chats,
        peers: Peers,
        threads: Threads,
        *,
        moved: Callable[[SyncReport], None] = lambda _: None,
        stall_s: float = STALL_S,
    ) -> None:
        """`moved` is told of every round that moved an entry, whichever side began it; it must not block."""
        self._transport = transport
        self._feeds = chats.feeds
        self._peers = peers
        self._threads = threads
        self._moved = moved
        self._stall_s = stall_s
        self._locks: dict[DeviceId, trio.Lock] = {}
        self._pushes: set[DeviceId] = set()
        self._served: dict[DeviceId, trio.CancelScope] = {}
        self._nursery: trio.Nursery | None = None
        transport.handle(PROTOCOL, self._serve, access=Access.OWN)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> NoReturn:
        """Push what changes until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                task_status.started()
                await trio.sleep_forever()
            finally:
                self._nursery = None
        raise AssertionError("unreachable: only cancellation ends the service")

    def changed(self) -> None:
        """Push the newest entries to every connected own device, soon; returns at once."""
        self._push_to_all()

    async def contact(self, peer: DeviceId) -> None:
        """Do what a contact with `peer` is for; the callback for every connection and every interval.

        One round moves entries both ways, so that only the device with the lower DID begins it.
        """
        if self._is_own(peer) and self._feeds.me < peer:
            await self.exchange(peer)

    async def exchange(self, peer: DeviceId) -> SyncReport:
        """Exchange with a connected own device until nothing is left to move, and return what moved.

        Raises:
            PeerNotLinked, PeerUnreachable, RemoteRefused, StreamClosed: as the transport says.
            SyncStalled: no progress for a minute.
            SyncViolation, EntryInvalid, EntrySignatureInvalid: the other device broke the rules.
            DeviceRemoved: the device was removed here.
        """
        async with self._locks.setdefault(peer, trio.Lock()):
            return await self._exchange(peer)

    async def sync(self, peer: LinkedPeer | None = None) -> list[SyncReport]:
        """Connect to one or to all own devices, exchange, and return one report for each, failed ones included."""
        linked = [peer] if peer is not None else await self._threads.database(self._peers.list)
        own = [each for each in linked if each.scope is Scope.OWN]
        if peer is not None and not own:
            raise PeerNotLinked(peer.did)
        reports: dict[DeviceId, SyncReport] = {}
        async with trio.open_nursery() as nursery:
            for each in own:
                nursery.start_soon(self._sync_with, each, reports)
        return [reports[each.did] for each in own]

    async def _sync_with(self, peer: LinkedPeer, reports: dict[DeviceId, SyncReport]) -> None:
        try:
            await self._transport.dial(peer.did, peer.addresses)
            reports[peer.did] = await self.exchange(peer.did)
        except EXPECTED as error:
            reports[peer.did] = SyncReport(peer.did, error=error)

    async def _exchange(self, peer: DeviceId) -> SyncReport:
        await self._threads.database(self._feeds.require_not_removed, peer)
        report = SyncReport(peer)
        for _ in range(MAX_ROUNDS):
            async with self._transport.open(peer, PROTOCOL) as stream:
                report = report.plus(await self._round(stream))
            if not await self._threads.database(self._feeds.reconsider):
                break
        return report

    async def _serve(self, stream: PeerStream) -> None:
        """Answer a round that the other device began; a newer one of the same device replaces an older one."""
        peer = stream.peer
        try:
            await self._threads.database(self._feeds.require_not_removed, peer)
        except DeviceRemoved:
            await stream.refuse(RefusalCode.NOT_OWN_DEVICE, "removed here")
            return
        older = self._served.get(peer)
        if older is not None:
            older.cancel()
        with trio.CancelScope() as scope:
            self._served[peer] = scope
            try:
                await self._round(stream)
            finally:
                if self._served.get(peer) is scope:
                    del self._served[peer]
        if scope.cancelled_caught:
            await stream.reset()
        elif await self._threads.database(self._feeds.reconsider):
            self._push(peer)

    async def _round(self, stream: PeerStream) -> SyncReport:
        with trio.CancelScope() as stall:
            driver = RoundDriver(stream, self._feeds, self._threads, stall, self._stall_s)
            try:
                await driver.run()
            finally:
                self._tell(driver.report)
        if stall.cancelled_caught:
            raise SyncStalled(stream.peer, self._stall_s)
        if await self._threads.database(self._feeds.tell_removals):
            self._push_to_all()
        return driver.report

    def _tell(self, report: SyncReport) -> None:
        """Log what moved, failed rounds included, and pass what is new on to the other devices."""
        if report.received or report.sent or report.refused:
            _log.info(
                "sync_moved",
                extra={
                    "peer": report.peer,
                    "received": report.received,
                    "sent": report.sent,
                    "refused": report.refused,
                    "bytes": report.bytes,
                },
            )
        for author in report.forked:
            _log.error("feed_forked", extra={"peer": report.peer, "author": author})
        if report.received or report.sent:
            self._moved(report)
        if report.received:
            self._push_to_all(but=report.peer)

    def _push_to_all(self, but: DeviceId | None = None) -> None:
        for peer in self._transport.connected():
            if peer != but and self._is_own(peer):
                self._push(peer)

    def _push(self, peer: DeviceId) -> None:
        if self._nursery is None or peer in self._pushes:
            return  # a push that has not begun yet takes this along
        self._pushes.add(peer)
        self._nursery.start_soon(self._pushed, peer)

    async def _pushed(self, peer: DeviceId) -> None:
        async with self._locks.setdefault(peer, trio.Lock()):
            self._pushes.discard(peer)
            try:
                await self._exchange(peer)
            except EXPECTED as error:  # the next contact does what this push did not
                _log.info("push_failed", extra={"peer": peer, "error": type(error).__name__})

    def _is_own(self, peer: DeviceId) -> bool:
        return self._transport.peers.scope_of(peer) is Scope.OWN
