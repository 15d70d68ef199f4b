"""Taking in entries of other devices: what follows on what is held is kept, a fork becomes evidence."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from identity.did import DeviceId
from protocol.devices import MAX_DEVICES
from protocol.feed import (
    EMPTY_HEAD,
    ChatId,
    DeviceBody,
    Entry,
    EntryId,
    Head,
    Placement,
    place,
    receive_entry,
)
from protocol.version_vector import MAX_AUTHORS

Limits = Callable[[Any, Collection[DeviceId]], Mapping[DeviceId, int]]


@dataclass(frozen=True, slots=True)
class ReceiveReport:
    """What became of a batch: every entry was accepted, known before, or refused."""

    accepted: int = 0
    known: int = 0
    refused: int = 0
    chats: frozenset[ChatId] = frozenset()
    forked: frozenset[DeviceId] = field(default_factory=frozenset)


def verified(batch: Sequence[bytes]) -> list[Entry]:
    """Return the entries of a batch, each proven to be signed by its author.

    Raises:
        EntryInvalid, EntrySignatureInvalid: one of them is not genuine.
    """
    return [receive_entry(data) for data in batch]


class Intake:
    """One batch on its way into the database, inside the caller's transaction."""

    def __init__(self, connection: Any, me: DeviceId, limits: Limits, now_ms: int) -> None:
        self._connection = connection
        self._me = me
        self._limits_of = limits
        self._now_ms = now_ms
        self._heads: dict[DeviceId, Head] = {}
        self._limits: Mapping[DeviceId, int] = {}
        self._forked = {author for (author,) in connection.execute("SELECT author FROM feed_forks")}
        others = connection.execute("SELECT count(*) FROM feed_heads WHERE author <> ?", (me,))
        self._other_authors = int(others.fetchone()[0])
        self._accepted = self._known = self._refused = 0
        self._chats: set[ChatId] = set()
        self._new_forks: set[DeviceId] = set()
        self.refused_authors: set[DeviceId] = set()

    def take(self, entry: Entry) -> None:
        """Keep, recognise or refuse one verified entry."""
        head = self._head(entry.author)
        match place(entry, head, self._held_id(entry, head)):
            case Placement.HELD:
                self._known += 1
            case Placement.FORK:
                self._keep_evidence(entry, head)
                self._refuse(entry)
            case Placement.NEXT if self._is_acceptable(entry, head):
                self._accept(entry)
            case _:
                self._refuse(entry)

    def report(self) -> ReceiveReport:
        """Return what became of the batch."""
        return ReceiveReport(
            self._accepted, self._known, self._refused, frozenset(self._chats), frozenset(self._new_forks)
        )

    def _accept(self, entry: Entry) -> None:
        insert_entry(self._connection, entry)
        self._heads[entry.author] = Head(entry.sequence, entry.id)
        self._other_authors += entry.sequence == 1 and entry.author != self._me
        self._accepted += 1
        if entry.chat:
            self._chats.add(entry.chat)
        if isinstance(entry.body, DeviceBody):
            self._limits = self._limits_of(self._connection, self._heads)

    def _refuse(self, entry: Entry) -> None:
        self._refused += 1
        self.refused_authors.add(entry.author)

    def _is_acceptable(self, entry: Entry, head: Head) -> bool:
        if entry.author in self._forked:
            return False
        if head == EMPTY_HEAD and entry.author != self._me and self._other_authors >= MAX_AUTHORS - 1:
            return False  # one place is kept for the own feed
        return entry.sequence <= self._limits.get(entry.author, 0)

    def _keep_evidence(self, entry: Entry, head: Head) -> None:
        """Keep both signed entries: the rival and ours of its sequence, or ours that it should have followed on."""
        if entry.author in self._forked:
            return
        ours = self._connection.execute(
            "SELECT encoded FROM feed_entries WHERE author = ? AND sequence = ?",
            (entry.author, min(entry.sequence, head.sequence)),
        ).fetchone()[0]
        self._connection.execute(
            "INSERT INTO feed_forks VALUES (?, ?, ?, ?)", (entry.author, ours, entry.encoded, self._now_ms)
        )
        self._forked.add(entry.author)
        self._new_forks.add(entry.author)

    def _head(self, author: DeviceId) -> Head:
        if author not in self._heads:
            self._heads[author] = head_of(self._connection, author)
            self._limits = self._limits_of(self._connection, self._heads)
        return self._heads[author]

    def _held_id(self, entry: Entry, head: Head) -> EntryId | None:
        if entry.sequence > head.sequence:
            return None
        row = self._connection.execute(
            "SELECT id FROM feed_entries WHERE author = ? AND sequence = ?", (entry.author, entry.sequence)
        ).fetchone()
        return EntryId(row[0].hex())


def head_of(connection: Any, author: DeviceId) -> Head:
    """Return the newest entry held of `author`."""
    row = connection.execute("SELECT sequence, id FROM feed_heads WHERE author = ?", (author,)).fetchone()
    return EMPTY_HEAD if row is None else Head(row[0], EntryId(row[1].hex()))


def insert_entry(connection: Any, entry: Entry) -> None:
    """Keep an entry that follows on the head of its feed, and what it says about devices."""
    entry_id = bytes.fromhex(entry.id)
    target = None if entry.target is None else bytes.fromhex(entry.target)
    connection.execute(
        "INSERT INTO feed_entries (author, sequence, id, chat, kind, time_ms, target, encoded) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            entry.author,
            entry.sequence,
            entry_id,
            bytes.fromhex(entry.chat),
            entry.kind.value,
            entry.time_ms,
            target,
            entry.encoded,
        ),
    )
    connection.execute("INSERT OR REPLACE INTO feed_heads VALUES (?, ?, ?)", (entry.author, entry.sequence, entry_id))
    if isinstance(entry.body, DeviceBody):
        _note_word(connection, entry.author, entry.body)


def _note_word(connection: Any, introducer: DeviceId, said: DeviceBody) -> None:
    """Keep the newest word about a device; of one introducer, about so many devices at most, the first ones."""
    connection.execute(
        "INSERT OR REPLACE INTO feed_devices SELECT ?1, ?2, ?3, ?4, ?5 WHERE "
        "EXISTS (SELECT 1 FROM feed_devices WHERE introducer = ?1 AND did = ?2) "
        "OR (SELECT count(*) FROM feed_devices WHERE introducer = ?1) < ?6",
        (introducer, said.did, said.nickname, said.added, said.last, MAX_DEVICES),
    )
