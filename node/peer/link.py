"""Linking and unlinking: shows tickets, uses them, asks the person, keeps the link, cuts it.

Rules: protocol/link.py and protocol/ticket.py. Contract: specs/0005-link.md.
"""

import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import trio

from identity.did import DeviceId
from identity.keys import DeviceKey
from node.cli.exit_codes import exit_code_of
from node.errors import LinkRequestUnknown, NodeError
from node.failures import NAMED
from node.net.access import Access
from node.net.streams import PeerStream
from node.net.transport import Transport
from node.peer.contact import Contacts
from node.peer.link_run import Failure, LinkRun
from node.ports import Clock, Entropy
from node.threads import Threads
from protocol.errors import (
    LinkRejected,
    ProofWrong,
    TicketBurned,
    TicketExpired,
    TicketInvalid,
    TicketUnknown,
    TicketUsed,
)
from protocol.link import NONCE_BYTES as LINK_NONCE_BYTES
from protocol.link import PROTOCOL, Agreed, Ask, LinkSession, Party
from protocol.refusal import RefusalCode
from protocol.scope import Scope
from protocol.text import clean_name
from protocol.ticket import MAX_LIFE_S, NONCE_BYTES, SECRET_BYTES, SKEW_S, Ticket, TicketBook, issue_ticket, open_ticket
from store.errors import StoreError
from store.linking import Linking
from store.peers import LinkedPeer, Peers

LinkEvent = dict[str, object]
# A ticket, its few attempts and its end fit; a reader that does not read loses attempts, never the end.
MAX_EVENTS: Final = 64
MAX_SESSIONS_PER_PEER: Final = 2
WITHDRAW_S: Final = 2.0
_REQUEST_ID_BYTES: Final = 4

_log = logging.getLogger("tilenode.link")


class _Told:
    """The events of one `enable` or `join`, for one reader."""

    def __init__(self) -> None:
        self._send, self.events = trio.open_memory_channel[LinkEvent](MAX_EVENTS)

    def tell(self, event: str, **fields: object) -> None:
        """Tell an event; the last place is kept for the end."""
        if self._send.statistics().current_buffer_used < MAX_EVENTS - 1:
            self._put({"event": event, **fields})

    def end(self, event: str, **fields: object) -> None:
        """Tell the last event and close."""
        self._put({"event": event, **fields})
        self._send.close()

    def _put(self, event: LinkEvent) -> None:
        try:
            self._send.send_nowait(event)
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.WouldBlock):
            _log.debug("link_event_unread")


@dataclass
class _Shown:
    """A ticket that is being shown."""

    ticket: Ticket
    scope: Scope
    told: _Told
    asked: bool = False
    run: LinkRun | None = None


@dataclass
class _Request:
    """A question that waits for this device's person."""

    run: LinkRun
    facts: LinkEvent


class LinkService:
    """Links this device with others. Construct it before the transport runs."""

    def __init__(
        self,
        transport: Transport,
        peers: Peers,
        linking: Linking,
        threads: Threads,
        key: DeviceKey,
        nickname: Callable[[], str],
        clock: Clock,
        entropy: Entropy,
        contacts: Contacts,
    ) -> None:
        self._transport = transport
        self._links = transport.peers
        self._peers = peers
        self._linking = linking
        self._threads = threads
        self._key = key
        self._nickname = nickname
        self._clock = clock
        self._entropy = entropy
        self._contacts = contacts
        self._book = TicketBook()
        self._shown: dict[bytes, _Shown] = {}
        self._requests: dict[str, _Request] = {}
        self._serving: Counter[DeviceId] = Counter()
        self._changed: list[Callable[[LinkedPeer, bool], Awaitable[None]]] = []
        transport.handle(PROTOCOL, self._serve, access=Access.ANYONE)

    def on_change(self, callback: Callable[[LinkedPeer, bool], Awaitable[None]]) -> None:
        """Have `callback(peer, linked)` awaited after every link (True) and unlink (False) is in force."""
        self._changed.append(callback)

    @asynccontextmanager
    async def enable(
        self, scope: Scope, ttl_s: int = MAX_LIFE_S
    ) -> AsyncIterator["trio.MemoryReceiveChannel[LinkEvent]"]:
        """Show a ticket inside the block and give its events, the last of which is linked, rejected, expired or failed.

        Leaving the block withdraws the ticket and whatever is under way with it.
        """
        random = self._entropy.random_bytes
        text, ticket = issue_ticket(
            self._key,
            self._transport.addresses,
            self._clock.now_s(),
            ttl_s,
            random(SECRET_BYTES),
            random(NONCE_BYTES),
        )
        shown = _Shown(ticket, scope, _Told())
        self._book.add(ticket, self._clock.now_s())
        self._shown[ticket.digest] = shown
        shown.told.tell("ticket", ticket=text, expires_s=ttl_s)
        try:
            async with _one_error(), trio.open_nursery() as nursery:
                nursery.start_soon(self._expire, shown, ttl_s)
                yield shown.told.events
                nursery.cancel_scope.cancel()
        finally:
            self._book.withdraw(ticket)
            del self._shown[ticket.digest]
            shown.told.events.close()
            if shown.run is not None:
                with trio.move_on_after(WITHDRAW_S, shield=True):
                    await shown.run.withdraw(TicketUnknown())

    @asynccontextmanager
    async def join(
        self, ticket: str, scope: Scope, accept: bool
    ) -> AsyncIterator["trio.MemoryReceiveChannel[LinkEvent]"]:
        """Use a ticket inside the block and give the events; `accept` answers this side's question with yes.

        Raises:
            TicketInvalid: no ticket, changed on the way, or this device's own.
            TicketExpired: its time is over.
        """
        opened = open_ticket(ticket, self._clock.now_s())
        if opened.did == self._key.did:
            raise TicketInvalid("this device has shown it itself")
        told = _Told()
        async with _one_error(), trio.open_nursery() as nursery:
            nursery.start_soon(self._join, opened, scope, accept, told)
            yield told.events
            nursery.cancel_scope.cancel()

    def requests(self) -> list[LinkEvent]:
        """Return the questions that wait for an answer: id, did, nickname, digits, scope."""
        return [dict(request.facts) for request in self._requests.values() if request.run.waits]

    async def approve(self, request_id: str) -> None:
        """Say yes. Raises LinkRequestUnknown when no such request waits."""
        await self._take(request_id).run.decide(yes=True)

    async def reject(self, request_id: str) -> None:
        """Say no. Raises LinkRequestUnknown when no such request waits."""
        await self._take(request_id).run.decide(yes=False)

    async def disable(self, peer: LinkedPeer) -> None:
        """Unlink: from when this returns, nothing of the peer is served and nothing is sent to it."""
        with trio.CancelScope(shield=True):  # a caller that leaves must not leave half of it behind
            await self._threads.database(self._linking.unlink, peer, self._clock.now_s())
            self._links.remove(peer.did)
            self._contacts.forget(peer.did)
            await self._transport.disconnect(peer.did)
            _log.info("unlinked", extra={"peer": peer.did})
            await self._tell_change(peer, False)

    async def _serve(self, stream: PeerStream) -> None:
        """Serve one attempt of a device that holds one of our tickets, or says so."""
        if self._serving[stream.peer] >= MAX_SESSIONS_PER_PEER:
            await stream.refuse(RefusalCode.BUSY, "too many attempts at once")
            return
        self._serving[stream.peer] += 1
        attempt = _Attempt(self, stream.peer)
        nonce = self._entropy.random_bytes(LINK_NONCE_BYTES)
        session = LinkSession.listen(
            self._key, clean_name(self._nickname()), stream.peer, nonce, self._transport.addresses
        )
        try:
            attempt.end(await LinkRun(session, stream, attempt).drive())
        finally:
            self._serving[stream.peer] -= 1
            self._serving += Counter()  # drops what is zero
            attempt.close()

    async def _join(self, ticket: Ticket, scope: Scope, accept: bool, told: "_Told") -> None:
        us = Party(self._key.did, clean_name(self._nickname()), scope)
        attempt = _Attempt(self, ticket.did, told=told, ticket=ticket, answer=accept)
        nonce = self._entropy.random_bytes(LINK_NONCE_BYTES)
        try:
            await self._transport.dial(ticket.did, ticket.addresses)
            async with self._transport.open(ticket.did, PROTOCOL) as stream:
                session, first = LinkSession.join(self._key, us, ticket, nonce, self._transport.addresses)
                outcome = await LinkRun(session, stream, attempt).drive(first)
        except (NodeError, StoreError) as error:
            outcome = None if attempt.linked is not None else error
        finally:
            attempt.close()
        attempt.end(outcome)

    async def _store(self, peer: LinkedPeer) -> None:
        await self._threads.database(self._linking.link, peer)
        self._links.set(peer.did, peer.scope)
        _log.info("linked", extra={"peer": peer.did, "scope": str(peer.scope)})
        await self._tell_change(peer, True)
        self._contacts.attend(peer.did)
        await self._transport.linked(peer.did)

    async def _tell_change(self, peer: LinkedPeer, linked: bool) -> None:
        for callback in self._changed:
            try:
                await callback(peer, linked)
            except NAMED as error:  # the link is in force, or gone, all the same
                _log.warning("link_change_not_noted", extra={"peer": peer.did, "error": type(error).__name__})

    async def _expire(self, shown: "_Shown", ttl_s: int) -> None:
        await trio.sleep(ttl_s)
        if not shown.asked:
            error = TicketExpired()
            shown.told.end("expired", **_failure(error))

    def _take(self, request_id: str) -> "_Request":
        request = self._requests.pop(request_id, None)
        if request is None or not request.run.waits:
            raise LinkRequestUnknown(request_id)
        return request


class _Attempt:
    """One attempt on either side: what its run needs from this node, and what the person is told of it."""

    def __init__(
        self,
        service: LinkService,
        peer: DeviceId,
        *,
        told: _Told | None = None,
        ticket: Ticket | None = None,
        answer: bool = False,
    ) -> None:
        self.linked: LinkedPeer | None = None
        self._service = service
        self._peer = peer
        self._told = told
        self._ticket = ticket
        self._answer = answer
        self._shown: _Shown | None = None
        self._request_id = ""

    async def find_ticket(self, run: LinkRun, digest: bytes) -> tuple[Ticket, Scope]:
        """Return the ticket with this digest and its scope, or raise why it cannot be used."""
        service = self._service
        try:
            ticket = service._book.begin(digest, service._clock.now_s())
        except TicketUnknown:
            if await service._threads.database(service._peers.ticket_was_used, digest):
                raise TicketUsed from None
            raise
        self._ticket, self._shown = ticket, service._shown[digest]
        self._shown.run, self._told = run, self._shown.told
        return ticket, self._shown.scope

    async def use_ticket(self, ticket: Ticket) -> None:
        """Use the ticket up, durably, or raise TicketUsed."""
        service = self._service
        if not service._book.use(ticket):
            raise TicketUsed
        forget_s = ticket.expires_s + SKEW_S
        if not await service._threads.database(
            service._peers.use_ticket, ticket.digest, forget_s, service._clock.now_s()
        ):
            raise TicketUsed

    def ask(self, run: LinkRun, question: Ask) -> bool:
        """Show the question; True when this side's yes was given with the command."""
        self._request_id = self._service._entropy.random_bytes(_REQUEST_ID_BYTES).hex()
        facts: LinkEvent = {
            "id": self._request_id,
            "did": question.peer.did,
            "nickname": question.peer.nickname,
            "digits": question.digits,
            "scope": str(question.scope),
        }
        if self._shown is not None:
            self._shown.asked = True
        if self._told is not None:
            self._told.tell("request", **facts)
        if not self._answer:
            self._service._requests[self._request_id] = _Request(run, facts)
        return self._answer

    async def store(self, agreed: Agreed) -> None:
        """Keep the link."""
        addresses = (
            agreed.addresses if self._ticket is None or self._shown else (*agreed.addresses, *self._ticket.addresses)
        )
        now_s = self._service._clock.now_s()
        peer = agreed.peer
        linked = LinkedPeer(peer.did, peer.nickname, agreed.scope, addresses, now_s, now_s)
        await self._service._store(linked)
        self.linked = linked

    def end(self, outcome: Failure | None) -> None:
        """Tell the person how the attempt ended."""
        if outcome is not None:
            level = logging.INFO if self._told is not None else logging.DEBUG  # strangers must not fill the log
            _log.log(level, "link_failed", extra={"peer": self._peer, "error": type(outcome).__name__})
        if self._told is None:
            return  # the other side knew no ticket of ours: nothing was begun
        if outcome is None and self.linked is not None:
            linked = self.linked
            self._told.end("linked", did=linked.did, nickname=linked.nickname, scope=str(linked.scope))
        elif outcome is not None:
            self._tell_failure(self._told, outcome)

    def _tell_failure(self, told: _Told, outcome: Failure) -> None:
        facts = {"id": self._request_id, "did": self._peer}
        if isinstance(outcome, LinkRejected):
            told.end("rejected", **facts, **_failure(outcome))
        elif self._shown is None or self._shown.asked:
            told.end("expired" if isinstance(outcome, TicketExpired) else "failed", **facts, **_failure(outcome))
        elif isinstance(outcome, ProofWrong) and self._service._book.wrong_proof(self._shown.ticket):
            told.end("failed", **facts, **_failure(TicketBurned()))
        else:
            told.tell("attempt", **facts, **_failure(outcome))

    def close(self) -> None:
        """Let go of the ticket and the question."""
        self._service._requests.pop(self._request_id, None)
        if self._shown is not None:
            self._service._book.end(self._shown.ticket)
            self._shown.run = None


def _failure(error: Failure) -> LinkEvent:
    code = int(exit_code_of(error))
    return {"kind": type(error).__name__, "message": str(error), "hint": error.hint, "exit_code": code}


@asynccontextmanager
async def _one_error() -> AsyncIterator[None]:
    """Let the one error of a nursery's block out as itself, for callers that know it by its class."""
    try:
        yield
    except BaseExceptionGroup as group:
        if len(group.exceptions) == 1:
            raise group.exceptions[0] from None
        raise
