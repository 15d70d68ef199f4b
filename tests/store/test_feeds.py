"""Feeds of several devices: who is accepted, gaps, forks, batches, what survives a kill."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

import pytest

from identity.did import DeviceId
from identity.testing import key_from_number
from protocol.devices import MAX_DEVICES
from protocol.errors import EntryInvalid, EntrySignatureInvalid
from protocol.feed import (
    EMPTY_HEAD,
    NO_CHAT,
    DeviceBody,
    Entry,
    Head,
    MessageBody,
    chat_id_of,
    receive_entry,
    sign_entry,
)
from protocol.redacted import Redacted
from protocol.sync import MAX_BATCH_BYTES, MAX_BATCH_ENTRIES
from protocol.version_vector import MAX_AUTHORS, Held, VersionVector
from store.chats import Chats
from store.database import Database
from store.errors import DeviceRemoved, FeedBehind, FeedBroken, FeedForked
from store.feeds import Feeds

NOW_MS = 1_700_000_000_000
EVERYTHING = VersionVector()
DIDS = {number: key_from_number(number).did for number in range(1, 6)}


class Linked(set[int]):
    """The numbers of the devices that are directly linked now."""

    def __call__(self, did: DeviceId) -> bool:
        return any(DIDS[number] == did for number in self)


def make(path: Path, number: int, linked: Iterable[int] = ()) -> tuple[Chats, Linked]:
    links = Linked(linked)
    database = Database.open(path / f"{number}.db", bytes(32), create=True)
    return Chats(database, key_from_number(number), links, lambda: NOW_MS), links


def device(path: Path, number: int, linked: Iterable[int] = ()) -> Chats:
    return make(path, number, linked)[0]


def batches(feeds: Feeds, theirs: VersionVector = EVERYTHING, max_bytes: int = MAX_BATCH_BYTES) -> list[list[bytes]]:
    """All batches that a device with `theirs` would be sent."""
    rest, found = feeds.outgoing(theirs), []
    while (batch := feeds.next_batch(rest, max_bytes)).entries:
        found.append(batch.entries)
        rest = batch.rest
    return found


def send(source: Chats, target: Chats) -> int:
    """Move what `target` lacks and return how many entries it accepted."""
    found = batches(source.feeds, target.feeds.version_vector())
    return sum(target.feeds.receive(batch).accepted for batch in found)


def titles(chats: Chats) -> set[str]:
    return {summary.title.reveal() for summary in chats.list()}


def lines(chats: Chats) -> list[str]:
    views = [chats.show(summary.id) for summary in chats.list()]
    return [line.content.reveal() for view in views for line in view.messages]


def test_a_linked_device_is_accepted_and_a_stranger_is_not(tmp_path: Path) -> None:
    a, b, c = device(tmp_path, 1), device(tmp_path, 2, [1]), device(tmp_path, 3)
    a.new_chat("from a")
    assert send(a, b) == 1
    (batch,) = batches(a.feeds)
    report = c.feeds.receive(batch)
    assert (report.accepted, report.refused) == (0, 1)
    assert titles(b) == {"from a"}
    assert titles(c) == set()


def test_who_is_vouched_for_is_accepted_through_a_relay(tmp_path: Path) -> None:
    a, b, c = device(tmp_path, 1, [2]), device(tmp_path, 2, [1, 3]), device(tmp_path, 3, [2])
    b.note_device(DIDS[1], "a", added=True)
    a.new_chat("from a")
    send(a, b)
    assert send(b, c) == 2
    assert titles(c) == {"from a"}


def test_a_word_that_comes_after_the_entries_makes_another_round_worth_it(tmp_path: Path) -> None:
    a, b, c = device(tmp_path, 1, [2]), device(tmp_path, 2, [1, 3]), device(tmp_path, 3, [2])
    a.new_chat("from a")
    send(a, b)
    b.note_device(DIDS[1], "a", added=True)  # later than a's entries, so that it is sent after them
    assert send(b, c) == 1
    assert c.feeds.reconsider()
    assert not c.feeds.reconsider()
    assert send(b, c) == 1
    assert titles(c) == {"from a"}


def test_a_refused_author_is_not_sent_again_and_again(tmp_path: Path) -> None:
    a, b, c = device(tmp_path, 1, [2]), device(tmp_path, 2, [1, 3]), device(tmp_path, 3, [2])
    a.new_chat("from a")
    send(a, b)
    b.new_chat("from b")
    assert send(b, c) == 1
    assert batches(b.feeds, c.feeds.version_vector()) == []
    assert not c.feeds.reconsider()


def test_removal_here_holds_whoever_vouches_or_links(tmp_path: Path) -> None:
    a, b, c = device(tmp_path, 1, [2, 3]), device(tmp_path, 2, [1]), device(tmp_path, 3, [1, 2])
    a.note_device(DIDS[2], "b", added=True)
    b.new_chat("before")
    send(b, a)
    removal = a.note_device(DIDS[2], "b", added=False)
    assert removal is not None
    assert removal.body == DeviceBody(DIDS[2], "b", False, 1)
    b.new_chat("after")
    assert send(b, a) == 0
    assert batches(b.feeds, a.feeds.version_vector()) == []
    c.note_device(DIDS[2], "b", added=True)
    send(b, c)
    assert send(c, a) == 1  # c's word, and nothing of b
    assert titles(a) == {"before"}
    with pytest.raises(DeviceRemoved) as caught:
        a.feeds.require_not_removed(DIDS[2])
    assert "link it again" in caught.value.hint
    b.feeds.require_not_removed(DIDS[1])


def test_a_newer_own_word_outranks_the_removal(tmp_path: Path) -> None:
    a, b, c = device(tmp_path, 1, [2]), device(tmp_path, 2, [1]), device(tmp_path, 3, [1])
    a.note_device(DIDS[2], "b", added=True)
    chat = b.new_chat("before")
    send(b, a)
    send(a, c)
    a.note_device(DIDS[2], "b", added=False)
    b.add_message(chat, "user", "b meanwhile")
    a.add_message(chat, "user", "a meanwhile")
    send(b, a)
    send(a, c)
    assert lines(a) == lines(c) == ["a meanwhile"]
    a.note_device(DIDS[2], "b", added=True)
    a.feeds.require_not_removed(DIDS[2])
    assert a.feeds.reconsider()  # b's newer line was refused, and is welcome now
    b.add_message(chat, "user", "b later")
    send(b, a)
    send(a, b)
    send(a, c)
    assert c.feeds.reconsider()  # c has told b as closed before it heard a's new word
    send(a, c)
    assert len(lines(a)) == 3
    assert a.show(chat) == b.show(chat) == c.show(chat)
    assert a.feeds.version_vector() == b.feeds.version_vector() == c.feeds.version_vector()
    assert a.feeds.verify() == b.feeds.verify() == c.feeds.verify() == 7


def test_what_an_introducer_takes_back_stays_up_to_what_it_held(tmp_path: Path) -> None:
    a, b, c = device(tmp_path, 1, [2]), device(tmp_path, 2, [1, 3]), device(tmp_path, 3, [2])
    b.note_device(DIDS[1], "a", added=True)
    send(b, c)
    a.new_chat("held by b")
    send(a, b)
    b.note_device(DIDS[1], "a", added=False)
    a.new_chat("not held by b")
    (direct,) = batches(a.feeds)
    send(b, c)
    report = c.feeds.receive(direct)
    assert (report.known, report.refused) == (1, 1)
    assert titles(c) == {"held by b"}


def test_a_device_is_noted_once(tmp_path: Path) -> None:
    a = device(tmp_path, 1)
    assert a.note_device(DIDS[2], "b", added=True) is not None
    assert a.note_device(DIDS[2], "b", added=True) is None
    assert a.note_device(DIDS[2], "b", added=False) is not None
    assert a.note_device(DIDS[2], "b", added=False) is None
    assert a.note_device(DIDS[3], "c", added=False) is None  # never vouched for
    assert a.feeds.verify() == 2


def test_a_nickname_is_made_safe_and_short(tmp_path: Path) -> None:
    entry = device(tmp_path, 1).note_device(DIDS[2], "\u202eevil\n" + "𝒩" * 500, added=True)
    assert entry is not None
    assert isinstance(entry.body, DeviceBody)
    assert entry.body.nickname.startswith("evil 𝒩")
    assert len(entry.body.nickname) == 64


def test_known_entries_are_recognised(tmp_path: Path) -> None:
    a, b = device(tmp_path, 1), device(tmp_path, 2, [1])
    a.new_chat("t")
    (batch,) = batches(a.feeds)
    b.feeds.receive(batch)
    report = b.feeds.receive(batch)
    assert (report.accepted, report.known, report.refused, report.chats) == (0, 1, 0, frozenset())


def test_entries_after_a_gap_are_refused(tmp_path: Path) -> None:
    a, b = device(tmp_path, 1), device(tmp_path, 2, [1])
    for number in range(4):
        a.new_chat(str(number))
    (whole,) = batches(a.feeds)
    report = b.feeds.receive([whole[0], whole[2], whole[3]])
    assert (report.accepted, report.refused) == (1, 2)
    assert send(a, b) == 3
    assert b.feeds.verify() == 4


def test_one_entry_that_is_not_genuine_spoils_its_batch_and_nothing_else(tmp_path: Path) -> None:
    a, b = device(tmp_path, 1), device(tmp_path, 2, [1])
    a.new_chat("one")
    a.new_chat("two")
    (whole,) = batches(a.feeds)
    flipped = whole[1][:-1] + bytes([whole[1][-1] ^ 1])
    with pytest.raises(EntrySignatureInvalid):
        b.feeds.receive([whole[0], flipped])
    with pytest.raises(EntryInvalid):
        b.feeds.receive([whole[0], b"junk"])
    assert b.feeds.verify() == 0
    assert send(a, b) == 2


def forked(tmp_path: Path) -> tuple[Chats, Chats, Chats]:
    """Two disks with one device key that wrote different lines after a common beginning, and a device that has one."""
    (tmp_path / "clone").mkdir()
    a, clone, b = device(tmp_path, 1), device(tmp_path / "clone", 1), device(tmp_path, 2, [1])
    a.new_chat("common")
    clone.feeds.receive(batches(a.feeds)[0])
    a.new_chat("one history")
    clone.new_chat("another history")
    send(a, b)
    return a, clone, b


def test_two_entries_of_one_sequence_are_a_fork(tmp_path: Path) -> None:
    a, clone, b = forked(tmp_path)
    report = b.feeds.receive(batches(clone.feeds)[0])
    assert (report.known, report.refused, report.forked) == (1, 1, frozenset({DIDS[1]}))
    (fork,) = b.feeds.forks()
    assert (fork.author, fork.held.sequence, fork.other.sequence) == (DIDS[1], 2, 2)
    assert receive_entry(fork.held.encoded) == fork.held
    assert receive_entry(fork.other.encoded) == fork.other
    assert fork.held.id != fork.other.id
    a.new_chat("later")
    assert batches(a.feeds, b.feeds.version_vector()) == []
    assert b.feeds.receive(batches(a.feeds)[0]).accepted == 0
    assert titles(b) == {"common", "one history"}
    assert b.feeds.receive(batches(clone.feeds)[0]).forked == frozenset()  # told once
    assert len(b.feeds.forks()) == 1


def test_an_entry_that_follows_on_another_history_is_a_fork(tmp_path: Path) -> None:
    _, clone, b = forked(tmp_path)
    clone.new_chat("after it")
    report = b.feeds.receive(batches(clone.feeds)[0][2:])  # the rival itself is held back
    assert report.forked == {DIDS[1]}
    (fork,) = b.feeds.forks()
    assert (fork.held.sequence, fork.other.sequence) == (2, 3)
    assert fork.other.previous != fork.held.id


def test_a_fork_is_found_though_both_histories_are_equally_long(tmp_path: Path) -> None:
    _, clone, b = forked(tmp_path)
    (evidence,) = batches(b.feeds, clone.feeds.version_vector())
    assert clone.feeds.receive(evidence).forked == {DIDS[1]}
    with pytest.raises(FeedForked) as caught:
        clone.new_chat("t")
    assert "TILENODE_HOME" in caught.value.hint


def test_the_own_feed_comes_back_from_another_device(tmp_path: Path) -> None:
    a, b = device(tmp_path, 1), device(tmp_path, 2, [1])
    a.new_chat("t")
    send(a, b)
    (tmp_path / "restored").mkdir()
    again = device(tmp_path / "restored", 1, [2])
    assert send(b, again) == 1
    again.new_chat("goes on")
    assert send(again, b) == 1
    assert again.feeds.verify() == b.feeds.verify() == 2


def put_back(tmp_path: Path) -> tuple[Chats, Chats]:
    """A device whose database is a copy of an earlier day, and another own device that holds what came after."""
    a, b = device(tmp_path, 1, [2]), device(tmp_path, 2, [1])
    chat = a.new_chat("t")
    send(a, b)
    a.feeds.database.close()
    backup = (tmp_path / "1.db").read_bytes()
    a = device(tmp_path, 1, [2])
    for number in range(3):
        a.add_message(chat, "user", f"after the backup {number}")
    send(a, b)
    a.feeds.database.close()
    (tmp_path / "1.db").write_bytes(backup)
    return device(tmp_path, 1, [2]), b


def test_a_restored_feed_is_not_written_over_once_another_device_is_known_to_hold_more(tmp_path: Path) -> None:
    a, b = put_back(tmp_path)
    theirs = b.feeds.version_vector()
    a.feeds.note_claim(DIDS[2], theirs)
    with pytest.raises(FeedBehind) as caught:
        a.new_chat("too early")
    assert (caught.value.held, caught.value.claimed, caught.value.peer) == (1, 4, DIDS[2])
    assert "tilenode sync" in caught.value.hint
    assert send(b, a) == 3
    a.new_chat("goes on")
    assert send(a, b) == 1
    assert a.feeds.verify() == b.feeds.verify() == 5
    assert a.feeds.forks() == b.feeds.forks() == []
    assert lines(a) == lines(b)


def test_a_claim_without_anything_behind_it_holds_nothing_up_for_long(tmp_path: Path) -> None:
    a, links = make(tmp_path, 1, [2])
    lie = VersionVector({DIDS[1]: Held(Head(9, first_entry(1).id))})
    a.feeds.note_claim(DIDS[2], lie)
    with pytest.raises(FeedBehind):
        a.new_chat("t")
    a.feeds.drop_claim(DIDS[2])  # its round is over
    a.new_chat("one")
    a.feeds.note_claim(DIDS[2], lie)
    links.discard(2)  # it is unlinked
    a.new_chat("two")
    assert titles(a) == {"one", "two"}


def test_batches_keep_their_size_and_the_order_of_arrival(tmp_path: Path) -> None:
    a, b = device(tmp_path, 1), device(tmp_path, 2, [1])
    chat = a.new_chat("t")
    for number in range(60):
        a.add_message(chat, "user", f"{number:03}" + "x" * 1_000)
    found = batches(a.feeds, max_bytes=10_000)
    assert len(found) > 5
    assert all(sum(map(len, batch)) <= 10_000 for batch in found)
    entries = [receive_entry(data) for batch in found for data in batch]
    assert [entry.sequence for entry in entries] == list(range(1, 62))
    for batch in found:
        b.feeds.receive(batch)
    assert lines(b) == lines(a)


def test_a_batch_has_a_bounded_number_of_entries(tmp_path: Path) -> None:
    a = device(tmp_path, 1)
    with a.feeds.database.transaction():
        for _ in range(MAX_BATCH_ENTRIES + 10):
            a.new_chat("")
    sizes = [len(batch) for batch in batches(a.feeds, max_bytes=2 * MAX_BATCH_BYTES)]
    assert sizes == [MAX_BATCH_ENTRIES, 10]


def test_what_arrives_during_a_round_is_for_the_next_one(tmp_path: Path) -> None:
    a = device(tmp_path, 1)
    a.new_chat("before")
    rest = a.feeds.outgoing(EVERYTHING)
    a.new_chat("meanwhile")
    batch = a.feeds.next_batch(rest, MAX_BATCH_BYTES)
    assert len(batch.entries) == 1
    assert a.feeds.next_batch(batch.rest, MAX_BATCH_BYTES).entries == []


def test_the_number_of_authors_is_bounded(tmp_path: Path) -> None:
    a = Chats(Database.open(tmp_path / "a.db", bytes(32), create=True), key_from_number(1), lambda _: True, lambda: 1)
    firsts = [first_entry(number) for number in range(2, MAX_AUTHORS + 4)]
    report = a.feeds.receive([entry.encoded for entry in firsts])
    assert (report.accepted, report.refused) == (MAX_AUTHORS - 1, 3)  # the own feed always has its place
    a.new_chat("t")
    assert len(a.feeds.version_vector().authors) == MAX_AUTHORS


def first_entry(number: int) -> Entry:
    key = key_from_number(number)
    return sign_entry(key, EMPTY_HEAD, NOW_MS, NO_CHAT, DeviceBody(key.did, "self", True))


def test_a_chain_that_was_changed_on_disk_is_found(tmp_path: Path) -> None:
    a = device(tmp_path, 1)
    a.new_chat("one")
    stray = sign_entry(
        key_from_number(1), Head(1, first_entry(1).id), 1, chat_id_of(DIDS[1], 1), MessageBody("user", Redacted("x"))
    )
    with a.feeds.database.transaction() as connection:
        connection.execute(
            "INSERT INTO feed_entries (author, sequence, id, chat, kind, time_ms, encoded) "
            "VALUES (?, 2, ?, ?, ?, 1, ?)",
            (DIDS[1], bytes.fromhex(stray.id), bytes.fromhex(stray.chat), "message", stray.encoded),
        )
    with pytest.raises(FeedBroken):
        a.feeds.verify()


def test_a_newest_entry_that_is_gone_is_found(tmp_path: Path) -> None:
    a = device(tmp_path, 1)
    a.new_chat("one")
    a.new_chat("two")
    with a.feeds.database.transaction() as connection:
        connection.execute("DELETE FROM feed_entries WHERE sequence = 2")
    with pytest.raises(FeedBroken):
        a.feeds.verify()


def test_one_authors_word_counts_for_a_bounded_number_of_devices(tmp_path: Path) -> None:
    a, b = device(tmp_path, 1), device(tmp_path, 2, [1])
    for number in range(100, 100 + MAX_DEVICES + 1):
        a.note_device(key_from_number(number).did, "n", added=True)
    assert send(a, b) == MAX_DEVICES + 1
    last, beyond = (first_entry(number) for number in (99 + MAX_DEVICES, 100 + MAX_DEVICES))
    assert b.feeds.receive([last.encoded]).accepted == 1
    assert b.feeds.receive([beyond.encoded]).refused == 1
    a.note_device(key_from_number(100).did, "n", added=False)
    send(a, b)
    assert b.feeds.receive([first_entry(100).encoded]).refused == 1


APPENDING = """
import sys
from pathlib import Path
from identity.testing import key_from_number
from store.chats import Chats
from store.database import Database

database = Database.open(Path(sys.argv[1]), bytes(32), create=True)
chats = Chats(database, key_from_number(1), lambda _: False, lambda: 1_700_000_000_000)
chat = chats.list()[0].id if chats.list() else chats.new_chat("t")
while True:
    entry = chats.add_message(chat, "user", "x" * 500)
    sys.stdout.write(f"{entry.sequence} {entry.id}\\n")
    sys.stdout.flush()
"""


@pytest.mark.processes
def test_every_acknowledged_entry_survives_sigkill(tmp_path: Path) -> None:
    path = tmp_path / "1.db"
    acknowledged: dict[int, str] = {}
    root = str(Path(__file__).parents[2])
    for kill_after in (1, 2, 40, 3, 150, 1, 77):
        writer = subprocess.Popen(
            [sys.executable, "-c", APPENDING, str(path)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": root},
        )
        assert writer.stdout is not None
        with writer, writer.stdout as output:
            for _ in range(kill_after):
                record(acknowledged, output.readline())
            writer.send_signal(signal.SIGKILL)
            for line in output:  # acknowledged before the kill, read after it
                if line.endswith("\n"):
                    record(acknowledged, line)
        again = Database.open(path, bytes(32))
        chats = Chats(again, key_from_number(1), lambda _: False, lambda: NOW_MS)
        held = chats.feeds.verify()
        assert held >= max(acknowledged)
        ids = {entry.sequence: entry.id for entry in map(receive_entry, chain.from_iterable(batches(chats.feeds)))}
        assert acknowledged.items() <= ids.items()
        again.close()


def record(acknowledged: dict[int, str], line: str) -> None:
    sequence, entry_id = line.split()
    acknowledged[int(sequence)] = entry_id
