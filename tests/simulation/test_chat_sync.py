"""A person with many devices that are rarely online together: partitions, relays, cut rounds, restarts, wrong clocks.

Only linked devices talk. A failure names its seed; `run(seed, tmp_path)` plays it again.
"""

import random
from collections import deque
from pathlib import Path

import pytest

from identity.did import DeviceId
from identity.testing import key_from_number
from protocol.chats import ChatView
from protocol.feed import ChatId
from protocol.sync import Batch, End, Have, SyncRound
from store.chats import Chats
from store.database import Database
from store.feeds import Feeds, Outgoing

DEVICES = 9
STEPS = 220
BATCH_BYTES = 2_500  # small, so that rounds have many batches to be cut between
ACTS = ("line", "line", "line", "edit", "delete", "rename", "chat", "restart", "partition", *["sync"] * 9)


class Side:
    """One side of a round: the protocol's machine on a real store."""

    def __init__(self, feeds: Feeds) -> None:
        self._feeds = feeds
        self._round = SyncRound()
        self._rest: Outgoing | None = None
        self._counts = [0, 0, 0]
        self.outbox = deque([self._round.send_have(feeds.version_vector())])

    def receive(self, message: bytes) -> None:
        match self._round.receive(message):
            case Have(vector):
                self._rest = self._feeds.outgoing(vector)
                self.send_next()
            case Batch(entries):
                kept = self._feeds.receive(entries)
                self._counts = [
                    a + b for a, b in zip(self._counts, (kept.accepted, kept.known, kept.refused), strict=True)
                ]
            case End():
                self.outbox.append(self._round.send_stored(*self._counts))

    def send_next(self) -> None:
        if self._rest is None:
            return
        batch = self._feeds.next_batch(self._rest, BATCH_BYTES)
        self._rest = batch.rest if batch.entries else None
        self.outbox.append(self._round.send_entries(batch.entries) if batch.entries else self._round.send_end())

    @property
    def finished(self) -> bool:
        return self._round.finished


def play_round(one: Feeds, two: Feeds, chance: random.Random, cut_after: int | None) -> None:
    """One round with messages delivered in any interleaving; lost in the middle after `cut_after` of them."""
    sides = Side(one), Side(two)
    delivered = 0
    while any(side.outbox for side in sides):
        if delivered == cut_after:
            return
        sender, receiver = sides if chance.random() < 0.5 else sides[::-1]
        if sender.outbox:
            receiver.receive(sender.outbox.popleft())
            sender.send_next()
            delivered += 1
    assert sides[0].finished
    assert sides[1].finished


class World:
    """All devices, who is linked with whom, and who reaches whom now."""

    def __init__(self, seed: int, home: Path) -> None:
        self.chance = random.Random(seed)
        self.home = home
        self.now_ms = 1_700_000_000_000
        self.drift_ms = [self.chance.choice((0, 0, -3_600_000, 86_400_000)) for _ in range(DEVICES)]
        self.links = {(self.chance.randrange(number), number) for number in range(1, DEVICES)}  # a tree
        extra = self.chance.sample(range(DEVICES), 4)
        self.links |= {(min(extra[:2]), max(extra[:2])), (min(extra[2:]), max(extra[2:]))}
        self.dids = [key_from_number(number).did for number in range(DEVICES)]
        self.devices = [self.start(number) for number in range(DEVICES)]
        self.group = [0] * DEVICES
        for one, two in sorted(self.links):
            self.devices[one].note_device(self.dids[two], f"device {two}", added=True)
            self.devices[two].note_device(self.dids[one], f"device {one}", added=True)

    def start(self, number: int) -> Chats:
        def is_linked(did: DeviceId) -> bool:
            return any(
                did == self.dids[two] if one == number else did == self.dids[one]
                for one, two in self.links
                if number in (one, two)
            )

        database = Database.open(self.home / f"{number}.db", bytes(32), create=True)
        clock = lambda: self.now_ms + self.drift_ms[number]  # noqa: E731 - a clock of this device alone
        return Chats(database, key_from_number(number), is_linked, clock)

    def step(self) -> None:
        self.now_ms += self.chance.randrange(5_000)
        number = self.chance.randrange(DEVICES)
        match self.chance.choice(ACTS):
            case "sync":
                self.sync(cut_after=self.chance.choice((None, self.chance.randrange(12))))
            case "partition":
                self.group = [self.chance.randrange(3) for _ in range(DEVICES)]
            case "restart":
                self.devices[number].feeds.database.close()
                self.devices[number] = self.start(number)
            case act:
                self.write(self.devices[number], act)

    def write(self, chats: Chats, act: str) -> None:
        known = chats.list()
        if act == "chat" or not known:
            chats.new_chat(f"chat at {self.now_ms}")
            return
        chat = self.chance.choice(known).id
        lines = chats.show(chat).messages
        line = self.chance.choice(lines).id if lines else None
        match act:
            case "edit" if line is not None:
                chats.edit(line, f"edited at {self.now_ms}")
            case "delete" if line is not None:
                chats.delete(line)
            case "rename":
                chats.rename(chat, f"renamed at {self.now_ms}")
            case _:
                chats.add_message(chat, "user", f"line at {self.now_ms} " + "x" * self.chance.randrange(800))

    def sync(self, cut_after: int | None) -> None:
        reachable = [(one, two) for one, two in sorted(self.links) if self.group[one] == self.group[two]]
        if reachable:
            one, two = self.chance.choice(reachable)
            play_round(self.devices[one].feeds, self.devices[two].feeds, self.chance, cut_after)

    def heal(self) -> None:
        """Let every pair of linked devices meet as often as the longest chain of relays needs."""
        for _ in range(DEVICES):
            for one, two in sorted(self.links):
                play_round(self.devices[one].feeds, self.devices[two].feeds, self.chance, None)
                self.devices[one].feeds.reconsider()
                self.devices[two].feeds.reconsider()


def views(chats: Chats) -> dict[ChatId, ChatView]:
    return {summary.id: chats.show(summary.id) for summary in chats.list()}


def run(seed: int, home: Path) -> None:
    world = World(seed, home)
    for _ in range(STEPS):
        world.step()
    world.heal()
    first = world.devices[0]
    entries = first.feeds.verify()
    assert entries > 2 * len(world.links)
    for chats in world.devices:
        assert chats.feeds.verify() == entries, f"seed {seed}: entries are missing"
        assert chats.feeds.version_vector() == first.feeds.version_vector(), f"seed {seed}: vectors differ"
        assert views(chats) == views(first), f"seed {seed}: views differ"
        assert chats.list() == first.list(), f"seed {seed}: lists differ"
        assert chats.feeds.forks() == [], f"seed {seed}: a fork was seen where there is none"


@pytest.mark.parametrize("seed", range(8))
def test_every_device_ends_with_the_same_view(seed: int, tmp_path: Path) -> None:
    run(seed, tmp_path)
