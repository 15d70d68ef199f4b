"""Chat sync between real transports on loopback: rounds, pushes, relays, refusals, interruptions."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

from identity.did import DeviceId
from identity.keys import DeviceKey
from identity.testing import key_from_number
from node.errors import NodeError, PeerUnreachable, RemoteRefused, StreamClosed
from node.net.access import LinkedPeers
from node.net.transport import Transport
from node.peer.sync import Sync
from node.peer.sync_round import SyncReport
from node.threads import Threads
from protocol.codec import encode_message
from protocol.errors import SyncViolation
from protocol.feed import EntryId, Head
from protocol.scope import Scope
from protocol.sync import MAX_BATCH_BYTES, PROTOCOL
from protocol.version_vector import Held, VersionVector
from store.chats import Chats
from store.database import Database
from store.errors import DeviceRemoved, FeedForked
from store.feeds import Feeds
from store.linking import Linking
from store.peers import LinkedPeer, Peers

LOOPBACK = ("/ip4/127.0.0.1/tcp/0",)
NOW_MS = 1_700_000_000_000


@dataclass
class Device:
    """A whole device as far as chats go: identity, database, network."""

    key: DeviceKey
    database: Database
    directory: LinkedPeers
    transport: Transport
    peers: Peers
    chats: Chats
    linking: Linking
    sync: Sync
    moved: trio.MemoryReceiveChannel[SyncReport]

    @property
    def did(self) -> DeviceId:
        return self.key.did

    def texts(self) -> list[str]:
        """Every visible line of every chat."""
        views = [self.chats.show(summary.id) for summary in self.chats.list()]
        return sorted(line.content.reveal() for view in views for line in view.messages)

    def say(self, text: str) -> None:
        """Write a line into the first chat, which is begun when there is none."""
        chat = self.chats.list()[0].id if self.chats.list() else self.chats.new_chat("chat")
        self.chats.add_message(chat, "user", text)


def device(tmp_path: Path, number: int, stall_s: float = 10) -> Device:
    key = key_from_number(number)
    database = Database.open(tmp_path / f"{number}.db", bytes(32), create=True)
    directory = LinkedPeers()
    transport = Transport(key, LOOPBACK, directory)
    peers = Peers(database)
    chats = Chats(database, key, lambda did: directory.scope_of(did) is Scope.OWN, lambda: NOW_MS)
    tell, moved = trio.open_memory_channel[SyncReport](1_000)
    sync = Sync(transport, chats, peers, Threads(), moved=tell.send_nowait, stall_s=stall_s)
    return Device(key, database, directory, transport, peers, chats, Linking(peers, chats.feeds), sync, moved)


@asynccontextmanager
async def running(*devices: Device) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        for each in devices:
            await nursery.start(each.transport.run)
            await nursery.start(each.sync.run)
        with trio.fail_after(60):
            yield
        nursery.cancel_scope.cancel()


def link_one_way(here: Device, there: Device, scope: Scope = Scope.OWN) -> LinkedPeer:
    linked = LinkedPeer(there.did, f"device {there.did[-4:]}", scope, there.transport.addresses, 1_700_000_000)
    here.linking.link(linked)
    here.directory.set(there.did, scope)
    return linked


def link(one: Device, other: Device, scope: Scope = Scope.OWN) -> None:
    link_one_way(one, other, scope)
    link_one_way(other, one, scope)


async def unlink(here: Device, there: Device) -> None:
    linked = here.peers.get(there.did)
    assert linked is not None
    here.linking.unlink(linked, 1_700_000_001)
    here.directory.remove(there.did)
    await here.transport.disconnect(there.did)


async def connect(one: Device, other: Device) -> None:
    await one.transport.dial(other.did, other.transport.addresses)


async def until(shown_by: Device, expected: list[str]) -> None:
    """Wait round after round until the device shows the expected lines; the test's deadline ends a wait in vain."""
    while shown_by.texts() != expected:
        await shown_by.moved.receive()


async def test_one_round_moves_entries_both_ways_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    a, b = device(tmp_path, 1), device(tmp_path, 2)
    async with running(a, b):
        link(a, b)
        a.say("from a")
        b.say("from b")
        (report,) = await a.sync.sync()
        assert report.error is None
        assert (report.peer, report.sent, report.received, report.refused) == (b.did, 3, 3, 0)
        assert report.sent_bytes > 0
        assert report.received_bytes > 0
        assert report.bytes == report.sent_bytes + report.received_bytes
        assert report.chats == {summary.id for summary in a.chats.list()}
        assert a.texts() == b.texts() == ["from a", "from b"]
        assert [s.id for s in a.chats.list()] == [s.id for s in b.chats.list()]
        (again,) = await a.sync.sync(a.peers.list()[0])
        assert (again.sent, again.received, again.bytes) == (0, 0, 0)
        assert a.moved.receive_nowait() == report
        with pytest.raises(trio.WouldBlock):
            a.moved.receive_nowait()
    assert a.chats.feeds.version_vector() == b.chats.feeds.version_vector()
    moved = next(record for record in caplog.records if record.message == "sync_moved")
    assert moved.name == "tilenode.sync"
    assert not any("from a" in str(vars(record)) or "from b" in str(vars(record)) for record in caplog.records)


async def test_a_new_line_is_pushed_at_once_and_relayed(tmp_path: Path) -> None:
    a, b, c = (device(tmp_path, number) for number in (1, 2, 3))
    async with running(a, b, c):
        link(a, b)
        link(b, c)
        await connect(a, b)
        await connect(c, b)
        for each in (a, b, c):
            await each.sync.sync()
        a.say("one")
        a.sync.changed()
        await until(c, ["one"])  # a and c are not linked: b passed it on
        c.say("two")
        c.sync.changed()
        await until(a, ["one", "two"])


async def test_a_third_device_relays_when_the_first_has_gone(tmp_path: Path) -> None:
    a, b, c = (device(tmp_path, number) for number in (1, 2, 3))
    async with running(a, b):
        link(a, b)
        a.say("from a")
        await a.sync.sync()
    b2, c2 = reopened(tmp_path, b), c
    async with running(b2, c2):  # a is gone before c ever comes
        link(b2, c2)
        c2.say("from c")
        (report,) = await c2.sync.sync()
        assert report.error is None
        assert c2.texts() == b2.texts() == ["from a", "from c"]
    assert c2.chats.feeds.verify() == b2.chats.feeds.verify()
    a3, b3 = reopened(tmp_path, a), reopened(tmp_path, b2)
    async with running(a3, b3):
        link(a3, b3)
        await a3.sync.sync()
        assert a3.texts() == ["from a", "from c"]


def reopened(tmp_path: Path, gone: Device) -> Device:
    """The device after a restart, linked as before."""
    gone.database.close()
    number = gone.key.seed[-1]
    again = device(tmp_path, number)
    for peer in again.peers.list():
        again.directory.set(peer.did, peer.scope)
    return again


async def test_a_contact_syncs_whichever_side_it_comes_up_on(tmp_path: Path) -> None:
    a, b = device(tmp_path, 1), device(tmp_path, 2)
    async with running(a, b):
        link(a, b)
        a.say("from a")
        b.say("from b")
        await connect(b, a)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(a.sync.contact, b.did)
            nursery.start_soon(b.sync.contact, a.did)
        await until(a, ["from a", "from b"])
        await until(b, ["from a", "from b"])


async def test_chats_never_flow_to_somebody_elses_device(tmp_path: Path) -> None:
    a, b = device(tmp_path, 1), device(tmp_path, 2)
    async with running(a, b):
        link_one_way(a, b, Scope.MODELS)
        link_one_way(b, a, Scope.OWN)  # b believes to be an own device of a
        a.say("private")
        b.say("mine")
        await connect(b, a)
        with pytest.raises(RemoteRefused) as caught:
            await b.sync.exchange(a.did)
        assert caught.value.code == "not-own-device"
        assert await a.sync.sync() == []
        await a.sync.contact(b.did)
        a.sync.changed()
        with pytest.raises(NodeError):
            await a.sync.sync(a.peers.list()[0])
        (report,) = await b.sync.sync()
        assert isinstance(report.error, RemoteRefused)
    assert a.texts() == ["private"]
    assert b.texts() == ["mine"]


async def test_a_device_that_cannot_be_reached_is_one_line_of_the_report(tmp_path: Path) -> None:
    a, b, c = (device(tmp_path, number) for number in (1, 2, 3))
    async with running(a, b):
        link(a, b)
        link_one_way(a, c)  # c has no address
        a.say("hello")
        reports = {report.peer: report for report in await a.sync.sync()}
        assert reports[b.did].error is None
        assert reports[b.did].sent == 4
        assert isinstance(reports[c.did].error, PeerUnreachable)


async def test_a_removed_device_is_refused_whoever_passes_its_lines_on(tmp_path: Path) -> None:
    a, b, c = (device(tmp_path, number) for number in (1, 2, 3))
    async with running(a, b, c):
        link(a, b)
        link(b, c)
        link(a, c)
        c.say("before")
        await c.sync.sync()
        await a.sync.sync()
        await unlink(a, c)
        c.say("after")
        (report,) = [each for each in await c.sync.sync() if each.peer == a.did]
        assert isinstance(report.error, RemoteRefused | PeerUnreachable)  # over a new connection, or the one just cut
        assert b.texts() == ["after", "before"]
        await a.sync.sync()
        assert a.texts() == ["before"]  # b's word for c does not undo what was removed here
        a.say("goes on")
        await a.sync.sync(a.peers.get(b.did))
        assert b.texts() == ["after", "before", "goes on"]


async def test_a_device_that_is_linked_again_has_everything_again(tmp_path: Path) -> None:
    a, c, d = (device(tmp_path, number) for number in (1, 3, 4))
    async with running(a, c, d):
        link(a, c)
        link(a, d)  # d knows c by a's word alone
        c.say("before")
        await c.sync.sync()
        await a.sync.sync()
        await unlink(a, c)
        c.say("c meanwhile")
        a.say("a meanwhile")
        await a.sync.sync()
        assert d.texts() == ["a meanwhile", "before"]
        link(a, c)
        await c.sync.sync()
        (to_d,) = [report for report in await a.sync.sync() if report.peer == d.did]
        assert to_d.error is None
        for each in (a, c, d):
            assert each.texts() == ["a meanwhile", "before", "c meanwhile"]
            assert each.chats.list() == a.chats.list()
            assert each.chats.feeds.version_vector() == a.chats.feeds.version_vector()
            assert each.chats.feeds.verify() == a.chats.feeds.verify()
        c.say("later")
        await c.sync.sync()
        await a.sync.sync()
        assert a.texts() == d.texts() == c.texts()


async def test_a_link_that_the_own_feed_has_taken_back_carries_no_chats(tmp_path: Path) -> None:
    a, b = device(tmp_path, 1), device(tmp_path, 2)
    async with running(a, b):
        link(a, b)
        a.chats.note_device(b.did, "b", added=False)  # as after a restored backup, when the later word has come by sync
        a.say("private")
        await connect(a, b)
        with pytest.raises(DeviceRemoved):
            await a.sync.exchange(b.did)
        (report,) = await b.sync.sync()
        assert isinstance(report.error, RemoteRefused)
        assert b.texts() == []


async def test_a_removal_that_could_not_be_written_is_told_after_the_next_round(tmp_path: Path) -> None:
    a, b, c = (device(tmp_path, number) for number in (1, 2, 3))
    async with running(a, b, c):
        link(a, b)
        link(a, c)
        c.say("before")
        await c.sync.sync()
        await a.sync.sync()
        a.chats.feeds.note_claim(b.did, VersionVector({a.did: Held(Head(99, EntryId("ff" * 32)))}))
        await unlink(a, c)
        for each in (a, b):  # it is in force here at once, and there once it is told
            await a.sync.sync()
            while not each.chats.feeds.version_vector().authors[c.did].closed:
                await each.moved.receive()
        assert a.texts() == b.texts() == ["before"]


async def send_raw(one: Device, other: Device, *payloads: bytes) -> None:
    """Open a sync stream as `one` and send what no honest device sends; read until the other side ends it."""
    async with one.transport.open(other.did, PROTOCOL) as stream:
        for payload in payloads:
            await stream.send(payload)
        while True:
            await stream.receive(MAX_BATCH_BYTES)


HAVE = encode_message("have", authors=[])


@pytest.mark.parametrize(
    "payloads",
    [
        [b""],
        [b"\xc1"],
        [encode_message("have", authors=[], surplus=1)],
        [encode_message("have", authors=[[1]])],
        [HAVE, HAVE],
        [encode_message("entries", entries=[b"x"])],
        [HAVE, encode_message("entries", entries=[])],
        [HAVE, encode_message("entries", entries=[b"not an entry"])],
        [HAVE, encode_message("end", entries=7)],
        [HAVE, encode_message("stored", accepted=0, known=0, refused=9)],
        [bytes(MAX_BATCH_BYTES + 1)],
    ],
    ids=[
        "empty",
        "not-msgpack",
        "unknown-field",
        "bad-row",
        "have-twice",
        "no-have",
        "empty-batch",
        "no-entry",
        "wrong-count",
        "stored-before-end",
        "too-large",
    ],
)
async def test_hostile_bytes_end_their_own_stream_only(tmp_path: Path, payloads: list[bytes]) -> None:
    a, b = device(tmp_path, 1), device(tmp_path, 2)
    async with running(a, b):
        link(a, b)
        a.say("hello")
        await connect(b, a)
        with pytest.raises((RemoteRefused, StreamClosed)):
            await send_raw(b, a, *payloads)
        (report,) = await b.sync.sync()
        assert report.error is None
        assert b.texts() == ["hello"]


async def test_an_interrupted_round_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = device(tmp_path, 1), device(tmp_path, 2)
    for number in range(12):
        a.say("x" * 200_000 + f"{number:02}")
    async with running(a, b):
        link(a, b)
        await connect(b, a)
        taken: list[int] = []
        whole = Feeds.receive

        def cut_at_the_second_batch(feeds: Feeds, batch: list[bytes]) -> object:
            if feeds is b.chats.feeds:
                taken.append(len(batch))
                if len(taken) == 2:
                    raise SyncViolation("the test cuts the stream here")
            return whole(feeds, batch)

        with monkeypatch.context() as patch:
            patch.setattr(Feeds, "receive", cut_at_the_second_batch)
            with pytest.raises(SyncViolation):
                await b.sync.exchange(a.did)
        kept = b.chats.feeds.verify()
        assert 1 < kept < 14  # one of them is b's own
        report = await b.sync.exchange(a.did)
        assert report.received == 13 + 1 - (kept - 1)  # what was stored is not sent again; a vouched for b too
        assert len(b.texts()) == 12


async def test_a_silent_device_does_not_hold_a_round_for_ever(tmp_path: Path) -> None:
    a, b = device(tmp_path, 1, stall_s=0.2), device(tmp_path, 2)
    async with running(a, b):
        link(a, b)
        await connect(b, a)
        with pytest.raises((StreamClosed, RemoteRefused)):
            await send_raw(b, a, HAVE)  # and then nothing: a gives up by itself
        (report,) = await b.sync.sync()
        assert report.error is None


async def test_a_forked_author_is_kept_as_evidence(tmp_path: Path) -> None:
    a, b = device(tmp_path, 1), device(tmp_path, 2)
    (tmp_path / "clone").mkdir()
    clone = device(tmp_path / "clone", 1)
    async with running(a, b):
        link(a, b)
        a.say("one history")
        clone.say("another history")
        await a.sync.sync()
        feeds = clone.chats.feeds
        rival = feeds.next_batch(feeds.outgoing(VersionVector()), MAX_BATCH_BYTES).entries
        assert b.chats.feeds.receive(rival).forked == {a.did}
        (fork,) = b.chats.feeds.forks()
        assert (fork.author, fork.held.sequence) == (a.did, fork.other.sequence)
        assert fork.held.id != fork.other.id
        a.say("later")
        await a.sync.sync()
        assert b.texts() == ["one history"]


async def test_a_cloned_device_is_found_out_by_sync_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    a, b = device(tmp_path, 1), device(tmp_path, 2)
    (tmp_path / "clone").mkdir()
    clone = device(tmp_path / "clone", 1)
    a.say("one history")
    clone.say("another history")
    async with running(a, b):
        link(a, b)
        await a.sync.sync()
    async with running(clone, b := reopened(tmp_path, b)):
        link(clone, b)
        (report,) = await b.sync.sync()
        assert report.forked == {a.did}
        assert b.texts() == ["one history"]
        assert any(record.message == "feed_forked" for record in caplog.records)
        with pytest.raises(FeedForked):
            clone.say("the clone learns that it is one")
        b.say("still heard")
        await b.sync.sync()
        assert clone.texts() == ["another history", "still heard"]
