"""What becomes of the chats when a link ends, is made again or changes its scope, over real connections."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from identity.did import DeviceId
from identity.testing import key_from_number
from node.errors import PeerNotLinked, RemoteRefused, StreamClosed
from node.net.access import LinkedPeers
from node.net.transport import Transport
from node.peer.contact import Contacts, Pace
from node.peer.link import LinkEvent, LinkService
from node.peer.sync import Sync
from node.peer.sync_round import SyncReport
from node.ports import SystemClock, SystemEntropy
from node.threads import Threads
from protocol.codec import encode_message
from protocol.scope import Scope
from protocol.sync import MAX_BATCH_BYTES, PROTOCOL
from protocol.version_vector import VersionVector
from store.chats import Chats
from store.database import Database
from store.errors import DeviceRemoved, FeedBehind
from store.linking import Linking
from store.peers import LinkedPeer, Peers

Events = trio.MemoryReceiveChannel[LinkEvent]
PACE = Pace(interval_s=30.0, first_retry_s=0.05, longest_retry_s=0.2, refused_retry_s=0.2)


class Device:
    """A device that links and syncs."""

    def __init__(self, number: int, home: Path) -> None:
        self.key = key_from_number(number)
        self.database = Database.open(home / f"{number}.db", bytes(32), create=True)
        self.peers, threads = Peers(self.database), Threads()
        self.links = LinkedPeers((peer.did, peer.scope) for peer in self.peers.list())
        clock, entropy = SystemClock(), SystemEntropy()
        self.chats = Chats(self.database, self.key, self.is_own, clock.now_ms)
        self.transport = Transport(self.key, ["/ip4/127.0.0.1/tcp/0"], self.links)
        self.contacts = Contacts(self.transport, self.peers, threads, clock, entropy, pace=PACE)
        self.link = LinkService(
            self.transport,
            self.peers,
            Linking(self.peers, self.chats.feeds),
            threads,
            self.key,
            lambda: f"device {number}",
            clock,
            entropy,
            self.contacts,
        )
        self.news = trio.Event()
        self.sync = Sync(self.transport, self.chats, self.peers, threads, moved=self.note)
        self.contacts.on_contact(self.sync.contact)
        self.link.on_change(self.changed)

    @property
    def did(self) -> DeviceId:
        return self.key.did

    def is_own(self, did: DeviceId) -> bool:
        return self.links.scope_of(did) is Scope.OWN

    def note(self, _: SyncReport) -> None:
        self.news.set()
        self.news = trio.Event()

    async def changed(self, _: LinkedPeer, __: bool) -> None:
        self.sync.changed()

    def say(self, text: str) -> None:
        chat = self.chats.list()[0].id if self.chats.list() else self.chats.new_chat("chat")
        self.chats.add_message(chat, "user", text)
        self.sync.changed()

    def texts(self) -> list[str]:
        views = [self.chats.show(summary.id) for summary in self.chats.list()]
        return sorted(line.content.reveal() for view in views for line in view.messages)

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await self.news.wait()

    async def shows(self, *texts: str) -> None:
        await self.until(lambda: self.texts() == sorted(texts))


@asynccontextmanager
async def running(*devices: Device) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        for each in devices:
            await nursery.start(each.transport.run)
            await nursery.start(each.sync.run)
            await nursery.start(each.contacts.run)
        with trio.fail_after(60):
            yield
        nursery.cancel_scope.cancel()


async def link(one: Device, two: Device, scope: Scope = Scope.OWN) -> None:
    """A new ticket, and a yes on both sides."""
    async with one.link.enable(scope) as shown:
        ticket = str((await shown.receive())["ticket"])
        async with two.link.join(ticket, scope, accept=True) as joined:
            await one.link.approve(str((await shown.receive())["id"]))
            for events in (shown, joined):
                assert "linked" in [event["event"] async for event in events]


async def test_a_new_link_brings_an_unlinked_device_back(tmp_path: Path) -> None:
    a, b, c = (Device(number, tmp_path) for number in (1, 2, 3))
    async with running(a, b, c):
        await link(a, b)
        await link(a, c)
        b.say("before")
        await a.shows("before")
        await c.shows("before")  # c knows b by a's word alone
        (peer,) = [peer for peer in a.peers.list() if peer.did == b.did]
        await a.link.disable(peer)
        await c.until(lambda: c.chats.feeds.version_vector().authors[b.did].closed)
        b.say("b meanwhile")
        a.say("a meanwhile")
        await c.shows("a meanwhile", "before")
        assert a.texts() == ["a meanwhile", "before"]
        assert b.texts() == ["b meanwhile", "before"]
        await link(a, b)
        everything = ("a meanwhile", "b meanwhile", "before")
        for each in (a, b, c):
            await each.shows(*everything)
        b.say("later")
        for each in (a, b, c):
            await each.shows(*everything, "later")
            assert [each.chats.show(chat.id) for chat in each.chats.list()] == [
                a.chats.show(chat.id) for chat in a.chats.list()
            ]
            assert each.chats.feeds.forks() == []
        assert a.chats.feeds.verify() == b.chats.feeds.verify() == c.chats.feeds.verify()


async def test_a_narrower_scope_ends_chats_at_once_and_a_wider_one_begins_them(tmp_path: Path) -> None:
    a, b = Device(1, tmp_path), Device(2, tmp_path)
    async with running(a, b):
        await link(a, b)
        a.say("shared")
        await b.shows("shared")
        connection = a.transport.path_of(b.did), b.transport.path_of(a.did)
        async with b.transport.open(a.did, PROTOCOL) as stream:
            await stream.receive(MAX_BATCH_BYTES)  # a round that is under way when the scope changes
            await link(a, b, Scope.MODELS)
            with pytest.raises((RemoteRefused, PeerNotLinked, StreamClosed)):
                await stream.send(encode_message("have", authors=[]))
        a.say("private a")
        b.say("private b")
        for here, there in ((a, b), (b, a)):
            assert not here.is_own(there.did)
            with pytest.raises((DeviceRemoved, PeerNotLinked)):
                await here.sync.exchange(there.did)
            assert here.chats.feeds.version_vector().authors[there.did].closed
            here.links.set(there.did, Scope.OWN)  # one side believes otherwise: the receiver decides
            with pytest.raises((RemoteRefused, PeerNotLinked)):
                async with here.transport.open(there.did, PROTOCOL) as stream:
                    await stream.receive(MAX_BATCH_BYTES)
            here.links.set(there.did, Scope.MODELS)
        assert a.texts() == ["private a", "shared"]
        assert b.texts() == ["private b", "shared"]
        await link(b, a, Scope.OWN)
        for each in (a, b):
            await each.shows("private a", "private b", "shared")
        assert (a.transport.path_of(b.did), b.transport.path_of(a.did)) == connection  # the same one all the time


async def test_a_restored_database_is_filled_up_by_contact_and_not_written_over(tmp_path: Path) -> None:
    a, b = Device(1, tmp_path), Device(2, tmp_path)
    async with running(a, b):
        await link(a, b)
        a.say("before")
        await b.shows("before")
    a.database.close()
    backup = (tmp_path / "1.db").read_bytes()
    b.database.close()
    a, b = Device(1, tmp_path), Device(2, tmp_path)
    async with running(a, b):
        a.say("after the backup")
        await a.transport.dial(b.did, b.transport.addresses)
        await b.shows("before", "after the backup")
    a.database.close()
    b.database.close()
    (tmp_path / "1.db").write_bytes(backup)
    a, b = Device(1, tmp_path), Device(2, tmp_path)
    assert a.texts() == ["before"]
    refused: list[int] = []
    whole = a.chats.feeds.note_claim

    def write_too_early(peer: DeviceId, theirs: VersionVector) -> None:
        whole(peer, theirs)
        if not refused:
            with pytest.raises(FeedBehind) as caught:
                a.say("too early")
            refused.append(caught.value.claimed - caught.value.held)

    a.chats.feeds.note_claim = write_too_early  # type: ignore[method-assign]  # the moment between two messages
    async with running(a, b):
        await a.transport.dial(b.did, b.transport.addresses)
        await a.shows("after the backup", "before")
        assert refused == [1]
        a.say("goes on")
        await b.shows("after the backup", "before", "goes on")
    assert a.chats.feeds.forks() == b.chats.feeds.forks() == []
    assert a.chats.feeds.verify() == b.chats.feeds.verify()
