"""Links as kept: the peer and the own feed's word change together, whatever stops the process in between."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from identity.testing import key_from_number
from protocol.feed import EMPTY_HEAD, ChatBody, EntryId, Head, chat_id_of, sign_entry
from protocol.redacted import Redacted
from protocol.scope import Scope
from protocol.version_vector import Held, VersionVector
from store.chats import Chats
from store.database import Database
from store.errors import DatabaseFull, FeedBehind, FeedForked
from store.feeds import Feeds
from store.linking import Linking
from store.peers import LinkedPeer, Peers

ME, BOB, EVE = (key_from_number(number) for number in (1, 2, 3))
OWN, MODELS = (LinkedPeer(BOB.did, "bob", scope, (), 1) for scope in (Scope.OWN, Scope.MODELS))


class Device:
    """What linking touches."""

    def __init__(self, path: Path) -> None:
        self.database = Database.open(path, bytes(32), create=True)
        self.peers = Peers(self.database)
        self.chats = Chats(self.database, ME, self.is_own, lambda: 1_700_000_000_000)
        self.linking = Linking(self.peers, self.chats.feeds)

    def is_own(self, did: str) -> bool:
        return any(peer.did == did and peer.scope is Scope.OWN for peer in self.peers.list())

    def state(self) -> tuple[Scope | None, bool | None]:
        """The kept scope of bob's link, and what the own feed says of bob last."""
        peer = self.peers.get(BOB.did)
        with self.database.reading() as connection:
            word = connection.execute("SELECT added FROM feed_devices WHERE did = ?", (BOB.did,)).fetchone()
        return None if peer is None else peer.scope, None if word is None else bool(word[0])


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    made = Device(tmp_path / "node.db")
    yield made
    made.database.close()


def test_the_word_follows_the_scope(device: Device) -> None:
    device.linking.link(MODELS)
    assert device.state() == (Scope.MODELS, None)  # a friend's device is nothing for the feed
    device.linking.unlink(MODELS, 2)
    assert device.state() == (None, None)
    device.linking.link(OWN)
    assert device.state() == (Scope.OWN, True)
    device.linking.link(MODELS)
    assert device.state() == (Scope.MODELS, False)
    device.linking.link(OWN)
    assert device.state() == (Scope.OWN, True)
    assert device.linking.unlink(OWN, 3)
    assert device.state() == (None, False)
    device.linking.link(OWN)
    assert device.state() == (Scope.OWN, True)
    assert device.chats.feeds.verify() == 5


@pytest.mark.parametrize("act", ["link", "narrow", "unlink"])
def test_a_failure_in_between_changes_nothing(device: Device, monkeypatch: pytest.MonkeyPatch, act: str) -> None:
    if act != "link":
        device.linking.link(OWN)
    before = device.state()

    def fail(*_: object) -> None:
        raise DatabaseFull(device.database.path)

    monkeypatch.setattr(Feeds, "append", fail)
    with pytest.raises(DatabaseFull):
        perform(device, act)
    assert device.state() == before
    assert device.peers.removed_s(BOB.did) is None


def perform(device: Device, act: str) -> None:
    match act:
        case "link":
            device.linking.link(OWN)
        case "narrow":
            device.linking.link(MODELS)
        case _:
            device.linking.unlink(OWN, 2)


# Kills itself by SIGKILL when the peer's row is written and the feed's word is not, or is but not committed.
KILLED = """
import os
import signal
import sys
from pathlib import Path
from store.feeds import Feeds
from tests.store.test_linking import Device, perform

whole = Feeds.append

def killed(*args):
    if sys.argv[3] == "after":
        whole(*args)
    os.kill(os.getpid(), signal.SIGKILL)

Feeds.append = killed
perform(Device(Path(sys.argv[1])), sys.argv[2])
"""


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("act", ["link", "narrow", "unlink"])
def test_a_kill_in_between_changes_nothing(tmp_path: Path, act: str, when: str) -> None:
    path = tmp_path / "node.db"
    device = Device(path)
    if act != "link":
        device.linking.link(OWN)
    before = device.state()
    device.database.close()
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", KILLED, str(path), act, when], cwd=root, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    again = Device(path)
    assert again.state() == before
    perform(again, act)
    assert again.state() == {"link": (Scope.OWN, True), "narrow": (Scope.MODELS, False), "unlink": (None, False)}[act]
    again.chats.feeds.verify()
    again.database.close()


def test_a_link_ends_though_the_feed_cannot_say_so_yet(device: Device) -> None:
    device.linking.link(OWN)
    device.peers.add(LinkedPeer(EVE.did, "eve", Scope.OWN, (), 1))
    entry = sign_entry(BOB, EMPTY_HEAD, 1, chat_id_of(BOB.did, 1), ChatBody(Redacted("t"))).encoded
    device.chats.feeds.note_claim(EVE.did, VersionVector({ME.did: Held(Head(9, EntryId("ff" * 32)))}))
    with pytest.raises(FeedBehind):
        device.linking.link(MODELS)
    assert device.state() == (Scope.OWN, True)
    assert not device.linking.unlink(OWN, 2)
    assert device.state() == (None, True)
    assert device.chats.feeds.receive([entry]).refused == 1  # in force here at once
    assert not device.chats.feeds.tell_removals()
    device.chats.feeds.drop_claim(EVE.did)
    assert device.chats.feeds.tell_removals()
    assert device.state() == (None, False)
    assert not device.chats.feeds.tell_removals()


def test_a_link_ends_though_the_own_feed_has_forked(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    device.linking.link(OWN)

    def fail(*_: object) -> None:
        raise FeedForked(ME.did, 1)

    monkeypatch.setattr(Feeds, "append", fail)
    assert not device.linking.unlink(OWN, 2)
    assert device.state() == (None, True)
    assert not device.chats.feeds.tell_removals()
