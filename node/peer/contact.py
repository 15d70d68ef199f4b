"""Contact with every linked peer: dial, dial again with back-off, and call what a contact is for.

One task per linked peer: whatever goes wrong with one peer stays in its task.
"""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, NoReturn

import trio

from identity.did import DeviceId
from node.errors import PeerUnreachable, RemoteRefused
from node.failures import NAMED, leaves, names_of
from node.net.transport import ConnectionEvent, Transport
from node.ports import Clock, Entropy
from node.threads import Threads
from protocol.refusal import RefusalCode
from store.peers import LinkedPeer, Peers

Callback = Callable[[DeviceId], Awaitable[None]]

# A contact is written down at its begin and its end, and this often while it lasts: the disk may sleep meanwhile.
NOTE_CONTACT_S: Final = 900
_log = logging.getLogger("tilenode.contact")


@dataclass(frozen=True)
class Pace:
    """How often and how patiently peers are contacted; seconds. Every wait is shortened by up to half, at random."""

    interval_s: float = 60.0  # between two contacts over one connection
    first_retry_s: float = 1.0
    longest_retry_s: float = 120.0
    refused_retry_s: float = 3_600.0  # after the peer said that it does not link us
    exchange_s: float = 600.0  # for everything that one contact is for


@dataclass
class _Attendance:
    """One linked peer's task."""

    scope: trio.CancelScope
    woken: trio.Event
    connection: int = 0  # the number of the connection over which the last contact was
    noted_s: int = 0
    failures: int = 0
    refused: bool = False


class Contacts:
    """Keeps contact with the linked peers. Register the callbacks, then start `run`."""

    def __init__(
        self,
        transport: Transport,
        peers: Peers,
        threads: Threads,
        clock: Clock,
        entropy: Entropy,
        *,
        pace: Pace | None = None,
    ) -> None:
        self._transport = transport
        self._peers = peers
        self._threads = threads
        self._clock = clock
        self._entropy = entropy
        self._pace = pace or Pace()
        self._callbacks: list[Callback] = []
        self._attending: dict[DeviceId, _Attendance] = {}
        self._nursery: trio.Nursery | None = None

    def on_contact(self, callback: Callback) -> None:
        """Have `callback(peer)` called in that peer's task for every new connection and every interval over it.

        The callbacks run one after the other; an error of one is logged, ends this contact for it alone, and the next
        contact tries again.
        """
        self._callbacks.append(callback)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> NoReturn:
        """Attend to every linked peer until cancelled."""
        with self._transport.subscribe() as events:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                for peer in await self._threads.database(self._peers.list):
                    self.attend(peer.did)
                task_status.started()
                async for event in events:
                    self._note_event(event)
        raise AssertionError("unreachable: events end only with the transport")

    def wake(self, peer: DeviceId) -> None:
        """Contact `peer` at once instead of after the present wait; nothing happens when it is not attended to."""
        attendance = self._attending.get(peer)
        if attendance is not None:
            attendance.failures = 0
            attendance.woken.set()

    def attend(self, peer: DeviceId) -> None:
        """Begin to keep contact with a peer that was linked, or wake the task that does."""
        if self._nursery is None or peer in self._attending:
            self.wake(peer)
            return
        attendance = _Attendance(trio.CancelScope(), trio.Event())
        self._attending[peer] = attendance
        self._nursery.start_soon(self._attend, peer, attendance)

    def forget(self, peer: DeviceId) -> None:
        """Stop contacting a peer that was unlinked."""
        attendance = self._attending.pop(peer, None)
        if attendance is not None:
            attendance.scope.cancel()

    async def _attend(self, peer: DeviceId, attendance: _Attendance) -> None:
        with attendance.scope:
            while True:
                try:
                    wait_s = await self._contact(peer, attendance)
                except NAMED as error:
                    _log.warning("contact_failed", extra={"peer": peer, "error": type(error).__name__})
                    wait_s = self._retry_s(attendance)
                with trio.move_on_after(self._jittered(wait_s)):
                    await attendance.woken.wait()
                attendance.woken = trio.Event()

    async def _contact(self, peer: DeviceId, attendance: _Attendance) -> float:
        """Connect, do what a contact is for, and return how long to wait until the next one."""
        if peer not in self._transport.connected():
            await self._note_end(peer, attendance)
            linked = await self._threads.database(self._peers.get, peer)
            if linked is None or not await self._connect(linked):
                return self._retry_s(attendance)
        attendance.refused = False
        attendance.connection = self._transport.connection_number(peer)
        await self._call_back(peer, attendance)
        if attendance.refused:
            _log.info("peer_does_not_link_us", extra={"peer": peer})
            await self._threads.database(self._peers.note_refused, peer, self._clock.now_s())
            return self._pace.refused_retry_s
        attendance.failures = 0
        await self._note_contact(peer, attendance)
        return self._pace.interval_s

    async def _connect(self, linked: LinkedPeer) -> bool:
        try:
            used = await self._transport.dial(linked.did, linked.addresses)
        except PeerUnreachable as error:
            _log.debug("dial_failed", extra={"peer": linked.did, "reason": error.reason})
            return False
        if used is not None and used not in linked.addresses[:1]:
            await self._threads.database(self._peers.prefer_address, linked.did, used)
        return True

    async def _call_back(self, peer: DeviceId, attendance: _Attendance) -> None:
        for callback in self._callbacks:
            try:
                with trio.fail_after(self._pace.exchange_s):
                    await callback(peer)
            except Exception as error:  # noqa: BLE001 - a defect met with one peer must not stop the contact with all
                self._note_failure(peer, attendance, leaves(error))

    def _note_failure(self, peer: DeviceId, attendance: _Attendance, errors: list[BaseException]) -> None:
        refusals = [error for error in errors if isinstance(error, RemoteRefused)]
        attendance.refused |= any(error.code == RefusalCode.NOT_LINKED for error in refusals)
        level = logging.WARNING if all(isinstance(error, NAMED) for error in errors) else logging.ERROR
        _log.log(level, "exchange_failed", extra={"peer": peer, "error": names_of(errors)})

    def _note_event(self, event: ConnectionEvent) -> None:
        attendance = self._attending.get(event.peer)
        if attendance is None:
            if event.up:
                self.attend(event.peer)
        elif event.up:
            if self._transport.connection_number(event.peer) != attendance.connection:
                attendance.woken.set()
        elif not attendance.refused:  # one that does not link us is left alone until it calls
            attendance.woken.set()

    async def _note_contact(self, peer: DeviceId, attendance: _Attendance) -> None:
        now_s = self._clock.now_s()
        if now_s - attendance.noted_s >= NOTE_CONTACT_S:
            attendance.noted_s = now_s
            await self._threads.database(self._peers.touch, peer, now_s)

    async def _note_end(self, peer: DeviceId, attendance: _Attendance) -> None:
        if attendance.noted_s:
            attendance.noted_s = 0
            await self._threads.database(self._peers.touch, peer, self._clock.now_s())

    def _retry_s(self, attendance: _Attendance) -> float:
        if attendance.refused:
            return self._pace.refused_retry_s
        attendance.failures += 1
        doubled: float = self._pace.first_retry_s * 2.0 ** min(attendance.failures - 1, 30)
        return min(doubled, self._pace.longest_retry_s)

    def _jittered(self, wait_s: float) -> float:
        chance = int.from_bytes(self._entropy.random_bytes(4), "big") / 2**32
        return wait_s * (1.0 - chance / 2)
