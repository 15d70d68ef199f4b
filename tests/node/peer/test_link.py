"""Linking over real connections: consent on both sides, every wrong ticket, unlinking."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from identity.did import DeviceId
from identity.testing import key_from_number
from node.errors import LinkRequestUnknown, PeerNotLinked, PeerUnreachable, RemoteRefused, StreamClosed
from node.net.access import Access, LinkedPeers
from node.net.streams import PeerStream
from node.net.transport import Transport
from node.peer.contact import Contacts, Pace
from node.peer.link import LinkEvent, LinkService
from node.ports import SystemClock, SystemEntropy
from node.threads import Threads
from protocol.errors import TicketExpired, TicketInvalid
from protocol.link import PROTOCOL, Event, LinkSession, Party, Send
from protocol.scope import Scope
from protocol.ticket import Ticket, issue_ticket, open_ticket
from store.chats import Chats
from store.database import Database
from store.linking import Linking
from store.peers import Peers

GREET = "/tilenode/greet/1"
PRIVATE = "/tilenode/private/1"
Events = trio.MemoryReceiveChannel[LinkEvent]


class Node:
    """One node with everything that linking needs."""

    def __init__(self, number: int, home: Path, nickname: str) -> None:
        self.database = Database.open(home / f"{number}.db", bytes(32), create=True)
        self.peers, threads = Peers(self.database), Threads()
        self.key = key_from_number(number)
        self.transport = Transport(self.key, ["/ip4/127.0.0.1/tcp/0"], LinkedPeers())
        self.transport.handle(GREET, echo, access=Access.LINKED)
        self.transport.handle(PRIVATE, echo, access=Access.OWN)
        clock, entropy = SystemClock(), SystemEntropy()
        self.contacts = Contacts(
            self.transport, self.peers, threads, clock, entropy, pace=Pace(first_retry_s=0.05, interval_s=30.0)
        )
        links = self.transport.peers
        self.chats = Chats(self.database, self.key, lambda did: links.scope_of(did) is Scope.OWN, clock.now_ms)
        self.linking = Linking(self.peers, self.chats.feeds)
        self.link = LinkService(
            self.transport, self.peers, self.linking, threads, self.key, lambda: nickname, clock, entropy, self.contacts
        )

    @property
    def did(self) -> DeviceId:
        return self.key.did

    async def greet(self, peer: DeviceId, protocol: str = GREET) -> bytes:
        async with self.transport.open(peer, protocol) as stream:
            await stream.send(b"hello")
            return await stream.receive(100)


async def echo(stream: PeerStream) -> None:
    while True:
        await stream.send(await stream.receive(100))


async def talk(stream: PeerStream) -> None:
    while True:
        await stream.send(b"b")
        await stream.receive(10)


@asynccontextmanager
async def nodes(tmp_path: Path, *names: str) -> AsyncIterator[list[Node]]:
    made = [Node(number, tmp_path, name) for number, name in enumerate(names, start=1)]
    async with trio.open_nursery() as nursery:
        for node in made:
            await nursery.start(node.transport.run)
            await nursery.start(node.contacts.run)
        with trio.fail_after(30):
            yield made
        nursery.cancel_scope.cancel()
    for node in made:
        node.database.close()


async def next_event(events: Events, kind: str) -> LinkEvent:
    event = await events.receive()
    assert event["event"] == kind, event
    return event


async def ticket_of(events: Events) -> str:
    return str((await next_event(events, "ticket"))["ticket"])


async def link(one: Node, two: Node, scope: Scope = Scope.OWN) -> None:
    async with one.link.enable(scope) as shown, two.link.join(await ticket_of(shown), scope, True) as joined:
        await one.link.approve(str((await next_event(shown, "request"))["id"]))
        await next_event(joined, "request")
        await next_event(joined, "linked")
        await next_event(shown, "linked")


async def test_two_people_say_yes_and_the_devices_are_linked(tmp_path: Path) -> None:
    async with nodes(tmp_path, "kitchen mac", "laptop") as (one, two):
        async with one.link.enable(Scope.OWN) as shown:
            ticket = await ticket_of(shown)
            async with two.link.join(ticket, Scope.OWN, False) as joined:
                here, there = await next_event(shown, "request"), await next_event(joined, "request")
                assert (here["nickname"], there["nickname"]) == ("laptop", "kitchen mac")
                assert (here["did"], there["did"]) == (two.did, one.did)
                assert here["digits"] == there["digits"]
                assert len(str(here["digits"])) == 6
                assert one.link.requests() == [{key: here[key] for key in here if key != "event"}]
                await two.link.approve(str(there["id"]))
                assert one.peers.list() == two.peers.list() == []
                await one.link.approve(str(here["id"]))
                await next_event(joined, "linked")
                assert (await next_event(shown, "linked"))["nickname"] == "laptop"
        for node, other in ((one, two), (two, one)):
            (peer,) = node.peers.list()
            assert (peer.did, peer.scope) == (other.did, Scope.OWN)
            assert peer.addresses == other.transport.addresses
            assert await node.greet(other.did, PRIVATE) == b"hello"
            assert node.link.requests() == []


@pytest.mark.parametrize("who", ["listener", "joiner"])
async def test_one_no_is_enough_and_nothing_is_kept(tmp_path: Path, who: str) -> None:
    async with nodes(tmp_path, "one", "two") as (one, two):
        async with (
            one.link.enable(Scope.OWN) as shown,
            two.link.join(await ticket_of(shown), Scope.OWN, False) as joined,
        ):
            here, there = await next_event(shown, "request"), await next_event(joined, "request")
            if who == "listener":
                await two.link.approve(str(there["id"]))
                await one.link.reject(str(here["id"]))
            else:
                await one.link.approve(str(here["id"]))
                await two.link.reject(str(there["id"]))
            for events in (shown, joined):
                assert (await next_event(events, "rejected"))["kind"] == "LinkRejected"
        assert one.peers.list() == two.peers.list() == []
        with pytest.raises(PeerNotLinked):
            await two.greet(one.did)


async def test_the_link_is_as_narrow_as_the_narrower_choice(tmp_path: Path) -> None:
    async with nodes(tmp_path, "one", "two") as (one, two):
        async with (
            one.link.enable(Scope.MODELS) as shown,
            two.link.join(await ticket_of(shown), Scope.OWN, True) as joined,
        ):
            request = await next_event(shown, "request")
            assert request["scope"] == "models-only"
            await one.link.approve(str(request["id"]))
            await next_event(joined, "request")
            assert (await next_event(joined, "linked"))["scope"] == "models-only"
        assert one.peers.list()[0].scope is two.peers.list()[0].scope is Scope.MODELS
        assert await two.greet(one.did) == b"hello"
        with pytest.raises(PeerNotLinked):
            await two.greet(one.did, PRIVATE)
        two.transport.peers.set(one.did, Scope.OWN)  # whatever the other side believes, the receiver decides
        with pytest.raises(RemoteRefused) as caught:
            await two.greet(one.did, PRIVATE)
        assert caught.value.code == "not-own-device"


async def test_linking_again_updates_the_link(tmp_path: Path) -> None:
    async with nodes(tmp_path, "one", "two") as (one, two):
        await link(one, two, Scope.MODELS)
        await link(two, one, Scope.OWN)
        assert [peer.scope for peer in one.peers.list()] == [Scope.OWN]
        assert await two.greet(one.did, PRIVATE) == b"hello"


async def test_a_ticket_works_once(tmp_path: Path) -> None:
    async with nodes(tmp_path, "one", "two", "three") as (one, two, three):
        async with one.link.enable(Scope.OWN) as shown:
            ticket = await ticket_of(shown)
            async with two.link.join(ticket, Scope.OWN, True) as joined:
                request = await next_event(shown, "request")
                async with three.link.join(ticket, Scope.OWN, True) as late:
                    assert (await next_event(late, "failed"))["kind"] == "TicketUsed"
                await one.link.approve(str(request["id"]))
                await next_event(joined, "request")
                await next_event(joined, "linked")
        async with three.link.join(ticket, Scope.OWN, True) as late:
            assert (await next_event(late, "failed"))["kind"] == "TicketUsed"
        assert [peer.did for peer in one.peers.list()] == [two.did]


async def test_a_used_ticket_is_known_after_a_restart(tmp_path: Path) -> None:
    async with nodes(tmp_path, "one", "two") as (one, two):
        async with (
            one.link.enable(Scope.OWN) as shown,
            two.link.join(ticket := await ticket_of(shown), Scope.OWN, True),
        ):
            await next_event(shown, "request")
        one.link = LinkService(
            one.transport,
            one.peers,
            one.linking,
            Threads(),
            one.key,
            lambda: "one",
            SystemClock(),
            SystemEntropy(),
            one.contacts,
        )
        async with two.link.join(ticket, Scope.OWN, True) as joined:
            assert (await next_event(joined, "failed"))["kind"] == "TicketUsed"


async def test_a_withdrawn_ticket_is_unknown(tmp_path: Path) -> None:
    async with nodes(tmp_path, "one", "two") as (one, two):
        async with one.link.enable(Scope.OWN) as shown:
            ticket = await ticket_of(shown)
        async with two.link.join(ticket, Scope.OWN, True) as joined:
            assert (await next_event(joined, "failed"))["kind"] == "TicketUnknown"


async def test_leaving_ends_what_is_under_way(tmp_path: Path) -> None:
    async with nodes(tmp_path, "one", "two") as (one, two), trio.open_nursery() as nursery:
        send, tickets = trio.open_memory_channel[str](0)
        asked = trio.Event()

        async def show() -> None:
            async with one.link.enable(Scope.OWN) as shown:
                await send.send(await ticket_of(shown))
                await next_event(shown, "request")
                await asked.wait()

        nursery.start_soon(show)
        async with two.link.join(await tickets.receive(), Scope.OWN, True) as joined:
            await next_event(joined, "request")
            asked.set()
            assert (await next_event(joined, "failed"))["kind"] == "TicketUnknown"
        assert one.link.requests() == []
        assert one.peers.list() == two.peers.list() == []


async def test_a_ticket_expires(tmp_path: Path) -> None:
    async with nodes(tmp_path, "one", "two") as (one, two), one.link.enable(Scope.OWN, ttl_s=1) as shown:
        ticket = await ticket_of(shown)
        assert (await next_event(shown, "expired"))["kind"] == "TicketExpired"
        async with two.link.join(ticket, Scope.OWN, True) as joined:
            assert (await next_event(joined, "expired"))["kind"] == "TicketExpired"


@pytest.mark.parametrize("change", ["a", "!", "truncated", "other"])
async def test_a_tampered_ticket_is_refused_before_anything_is_dialled(tmp_path: Path, change: str) -> None:
    async with nodes(tmp_path, "one", "two") as (one, two), one.link.enable(Scope.OWN) as shown:
        ticket = await ticket_of(shown)
        bad = {
            "a": ticket[:200] + ("B" if ticket[200] == "A" else "A") + ticket[201:],
            "!": ticket + "!",
            "truncated": ticket[:-10],
            "other": "hello",
        }[change]
        with pytest.raises(TicketInvalid):
            async with two.link.join(bad, Scope.OWN, True):
                pass


async def test_wrong_tickets_are_named(tmp_path: Path) -> None:
    async with nodes(tmp_path, "one", "two") as (one, two):
        now_s = SystemClock().now_s()
        old, _ = issue_ticket(one.key, one.transport.addresses, now_s - 5_000, 600, bytes(16), bytes(16))
        with pytest.raises(TicketExpired):
            async with two.link.join(old, Scope.OWN, True):
                pass
        async with one.link.enable(Scope.OWN) as shown:
            ticket = await ticket_of(shown)
            with pytest.raises(TicketInvalid):
                async with one.link.join(ticket, Scope.OWN, True):
                    pass
        foreign, _ = issue_ticket(one.key, one.transport.addresses, now_s, 600, bytes(16), bytes(16))
        async with two.link.join(foreign, Scope.OWN, True) as joined:
            assert (await next_event(joined, "failed"))["kind"] == "TicketUnknown"


async def test_three_wrong_proofs_burn_the_ticket_and_the_person_is_told(tmp_path: Path) -> None:
    async with nodes(tmp_path, "one", "two") as (one, two), one.link.enable(Scope.OWN) as shown:
        text = await ticket_of(shown)
        right = open_ticket(text, SystemClock().now_s())
        for expected in ("attempt", "attempt", "failed"):
            wrong = replace(right, secret=bytes(16))
            assert (await guess(two, wrong)).code == "proof-wrong"
            event = await next_event(shown, expected)
            assert event["kind"] == ("TicketBurned" if expected == "failed" else "ProofWrong")
        async with two.link.join(text, Scope.OWN, True) as joined:
            assert (await next_event(joined, "failed"))["kind"] == "TicketBurned"


async def guess(node: Node, ticket: Ticket) -> RemoteRefused:
    """Run the joiner's part with a ticket whose secret is not known."""
    await node.transport.dial(ticket.did, ticket.addresses)
    us = Party(node.did, "guesser", Scope.OWN)
    session, first = LinkSession.join(node.key, us, ticket, bytes(32), [])
    async with node.transport.open(ticket.did, PROTOCOL) as stream:
        with pytest.raises(RemoteRefused) as caught:
            await play(stream, session, first)
    return caught.value


async def play(stream: PeerStream, session: LinkSession, events: list[Event]) -> None:
    while True:
        for event in events:
            assert isinstance(event, Send)
            await stream.send(event.payload)
        events = session.receive(await stream.receive(8_192))


async def test_a_stranger_that_says_nothing_holds_no_ticket(tmp_path: Path) -> None:
    async with nodes(tmp_path, "one", "two", "three") as (one, two, three), one.link.enable(Scope.OWN) as shown:
        text = await ticket_of(shown)
        await three.transport.dial(one.did, one.transport.addresses)
        async with AsyncExitStack() as stack:
            for _ in range(2):
                await stack.enter_async_context(three.transport.open(one.did, PROTOCOL))
            late = await stack.enter_async_context(three.transport.open(one.did, PROTOCOL))
            with pytest.raises(RemoteRefused) as caught:
                await late.receive(1_000)
            assert caught.value.code == "busy"
            async with two.link.join(text, Scope.OWN, True) as joined:
                await next_event(shown, "request")
                await next_event(joined, "request")


async def test_nobody_there_is_told_as_unreachable(tmp_path: Path) -> None:
    async with nodes(tmp_path, "two") as (two,):
        absent, _ = issue_ticket(
            key_from_number(9), ["/ip4/127.0.0.1/tcp/9"], SystemClock().now_s(), 600, bytes(16), bytes(16)
        )
        async with two.link.join(absent, Scope.OWN, True) as joined:
            assert (await next_event(joined, "failed"))["kind"] == "PeerUnreachable"


async def test_unlinking_cuts_what_is_open_and_is_enforced_by_the_receiver(tmp_path: Path) -> None:
    async with nodes(tmp_path, "one", "two") as (one, two):
        await link(one, two)
        async with two.transport.open(one.did, GREET) as stream:
            await stream.send(b"a")
            assert await stream.receive(10) == b"a"
            (peer,) = one.peers.list()
            await one.link.disable(peer)
            with pytest.raises((StreamClosed, RemoteRefused)):
                await talk(stream)
        assert one.peers.list() == []
        await two.transport.dial(one.did, one.transport.addresses)
        with pytest.raises(RemoteRefused) as caught:
            await two.greet(one.did)
        assert caught.value.code == "not-linked"
        with pytest.raises((PeerNotLinked, PeerUnreachable)):
            await one.greet(two.did)


async def test_an_answer_to_no_request_is_an_error(tmp_path: Path) -> None:
    async with nodes(tmp_path, "one") as (one,):
        for answer in (one.link.approve, one.link.reject):
            with pytest.raises(LinkRequestUnknown):
                await answer("abcd")


async def test_changes_are_told_to_who_asked(tmp_path: Path) -> None:
    async with nodes(tmp_path, "one", "two") as (one, two):
        told: list[tuple[str, bool]] = []

        async def note(peer: object, linked: bool) -> None:
            told.append((type(peer).__name__, linked))

        one.link.on_change(note)
        await link(one, two)
        await one.link.disable(one.peers.list()[0])
        assert told == [("LinkedPeer", True), ("LinkedPeer", False)]
