"""The feeds of all devices of this person, as kept: append to the own one, take in others, hand out what lacks.

Everything that is acknowledged was committed with a flush to the disk. Source: specs/0013.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from identity.did import DeviceId
from identity.keys import DeviceKey
from protocol.devices import Statement, author_limits
from protocol.feed import (
    EMPTY_HEAD,
    NO_CHAT,
    Body,
    ChatBody,
    ChatId,
    DeviceBody,
    Entry,
    EntryId,
    Head,
    chat_id_of,
    hybrid_time_ms,
    parse_entry,
    sign_entry,
)
from protocol.sync import BATCH_OVERHEAD_BYTES, ENTRY_OVERHEAD_BYTES, MAX_BATCH_ENTRIES
from protocol.text import clean_name
from protocol.version_vector import MAX_AUTHORS, Held, VersionVector, first_missing
from store.database import Database
from store.errors import DeviceRemoved, FeedBehind, FeedBroken, FeedForked
from store.intake import Intake, ReceiveReport, head_of, insert_entry, verified

_NEXT_ENTRIES: Final = """
    SELECT arrival, author, sequence, chat, encoded FROM feed_entries
    WHERE arrival > ? AND arrival <= ? ORDER BY arrival
"""
# What everybody says about devices. The end of a link counts at once, also where the own feed does not tell it yet.
_STATEMENTS: Final = """
    SELECT introducer, did, added AND NOT (introducer = ? AND did IN (SELECT did FROM peer_tombstones)), last
    FROM feed_devices
"""
_UNTOLD: Final = """
    SELECT did, nickname FROM feed_devices JOIN peer_tombstones USING (did) WHERE introducer = ? AND added
"""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """What the other device lacks: per author the first sequence, and the span of arrivals still to look through."""

    first: Mapping[DeviceId, int]
    after: int
    until: int


@dataclass(frozen=True, slots=True)
class OutgoingBatch:
    """Entries for one batch, the chats they belong to, and where the next batch begins. Empty when nothing is left."""

    entries: list[bytes]
    chats: frozenset[ChatId]
    rest: Outgoing


@dataclass(frozen=True, slots=True)
class Fork:
    """The evidence that an author signed two histories: both entries as they were signed."""

    author: DeviceId
    held: Entry
    other: Entry
    found_ms: int


class Feeds:
    """Every feed that this device holds; the own one is written by `key`.

    `linked` says whether a device is a directly linked own device right now; `now_ms` is the wall clock.
    """

    def __init__(
        self, database: Database, key: DeviceKey, linked: Callable[[DeviceId], bool], now_ms: Callable[[], int]
    ) -> None:
        self.me: Final = key.did
        self.database: Final = database
        self._key = key
        self._linked = linked
        self._now_ms = now_ms
        self._refused: set[DeviceId] = set()
        self._closed: set[DeviceId] = set()
        self._claims: dict[DeviceId, int] = {}

    def append(self, body: Body, chat: ChatId = NO_CHAT) -> Entry:
        """Sign and keep the next entry of the own feed; a `ChatBody` begins the chat that its sequence derives.

        Raises:
            FeedForked: the own feed was continued somewhere else.
            FeedBehind: another device holds more of the own feed, which is on its way here.
            ContentTooLarge, EntryInvalid: the body is over a cap; nothing was written.
        """
        with self.database.transaction() as connection:
            head = head_of(connection, self.me)
            if _forked(connection, self.me):
                raise FeedForked(self.me, head.sequence)
            self._require_newest(head)
            if isinstance(body, ChatBody):
                chat = chat_id_of(self.me, head.sequence + 1)
            newest_ms = connection.execute(
                "SELECT coalesce(max(time_ms), 0) FROM feed_entries WHERE chat = ?", (bytes.fromhex(chat),)
            ).fetchone()[0]
            entry = sign_entry(self._key, head, hybrid_time_ms(self._now_ms(), newest_ms), chat, body)
            insert_entry(connection, entry)
        return entry

    def note_device(self, did: DeviceId, nickname: str, added: bool) -> Entry | None:
        """Vouch for a device of the same person, or take that back; None where the feed says so already.

        To vouch undoes an earlier removal, so that it is for links alone which the person at this device has just
        accepted. What was never vouched for is not taken back. Raises as `append`.
        """
        with self.database.transaction() as connection:
            said = _own_word(connection, self.me, did)
            if added == (said is not None and said.added):
                return None
            last = 0 if added else head_of(connection, did).sequence
            return self.append(DeviceBody(did, clean_name(nickname), added, last))

    def tell_removals(self) -> bool:
        """Take back in the feed what could not be written when its link ended; return whether something was."""
        with self.database.reading() as connection:
            untold = connection.execute(_UNTOLD, (self.me,)).fetchall()
        try:
            for did, nickname in untold:
                self.note_device(DeviceId(did), nickname, added=False)
        except (FeedForked, FeedBehind):
            return False  # not yet, or never: the device stays refused here either way
        return bool(untold)

    def require_not_removed(self, did: DeviceId) -> None:
        """Return only if the own feed's newest word about `did` is not that it was removed.

        Raises:
            DeviceRemoved: it is.
        """
        with self.database.reading() as connection:
            said = _own_word(connection, self.me, did)
        if said is not None and not said.added:
            raise DeviceRemoved(did, said.nickname)

    def note_claim(self, peer: DeviceId, theirs: VersionVector) -> None:
        """Note how much of the own feed `peer` says it holds: more than is here means that this database is an old one.

        Until the rest has come nothing is appended: it would be a second history, and the end of this feed.
        """
        self._claims[peer] = theirs.authors.get(self.me, Held(EMPTY_HEAD)).head.sequence

    def drop_claim(self, peer: DeviceId) -> None:
        """Forget what `peer` said: a whole round is over, so that it has sent all that it really had."""
        self._claims.pop(peer, None)

    def receive(self, batch: Sequence[bytes]) -> ReceiveReport:
        """Verify a batch and keep of it what follows on what is held, in one transaction.

        Entries of authors that are not trusted, and those after a gap or a fork, are refused and counted.

        Raises:
            EntryInvalid, EntrySignatureInvalid: one of the entries is not genuine; nothing of the batch is kept.
        """
        entries = verified(batch)
        with self.database.transaction() as connection:
            intake = Intake(connection, self.me, self._limits, self._now_ms())
            for entry in entries:
                intake.take(entry)
            room = MAX_AUTHORS - len(self._refused)
            self._refused.update(sorted(intake.refused_authors)[:room])
        return intake.report()

    def reconsider(self) -> bool:
        """Return whether an author that was refused or closed earlier is acceptable now: another round is worth it."""
        with self.database.reading() as connection:
            waiting = self._refused | self._closed
            limits = self._limits(connection, waiting)
            welcome = {did for did in waiting if limits.get(did, 0) > head_of(connection, did).sequence}
            welcome -= _forked_authors(connection)
            self._refused -= welcome
            self._closed -= welcome
        return bool(welcome)

    def version_vector(self) -> VersionVector:
        """Return what this device holds of every author, and of whom it takes nothing more."""
        with self.database.reading() as connection:
            vector = self._vector(connection)
        self._closed |= {did for did, held in vector.authors.items() if held.closed}
        return vector

    def outgoing(self, theirs: VersionVector) -> Outgoing:
        """Return what the device that holds `theirs` lacks, as of now: what arrives later is for a later round."""
        with self.database.reading() as connection:
            first = first_missing(self._vector(connection), theirs, lambda did, at: _id_at(connection, did, at))
            until = connection.execute("SELECT coalesce(max(arrival), 0) FROM feed_entries").fetchone()[0]
            starts = [_arrival_of(connection, did, sequence) for did, sequence in first.items()]
        return Outgoing(first, min(starts, default=until + 1) - 1, until)

    def next_batch(self, outgoing: Outgoing, max_bytes: int) -> OutgoingBatch:
        """Return the next entries in order of arrival, as many as fit a message of `max_bytes`, at least one."""
        room = max_bytes - BATCH_OVERHEAD_BYTES
        entries: list[bytes] = []
        chats: set[bytes] = set()
        after = outgoing.until
        with self.database.reading() as connection:
            rows = connection.execute(_NEXT_ENTRIES, (outgoing.after, outgoing.until))
            for arrival, author, sequence, chat, encoded in rows:
                if sequence < outgoing.first.get(author, sequence + 1):
                    continue
                room -= len(encoded) + ENTRY_OVERHEAD_BYTES
                if (room < 0 and entries) or len(entries) == MAX_BATCH_ENTRIES:
                    after = arrival - 1
                    break
                entries.append(encoded)
                chats.add(chat)
        rest = Outgoing(outgoing.first, after, outgoing.until)
        return OutgoingBatch(entries, frozenset(ChatId(chat.hex()) for chat in chats if chat), rest)

    def forks(self) -> list[Fork]:
        """Return the evidence of every forked feed."""
        with self.database.reading() as connection:
            rows = connection.execute("SELECT author, held, other, found_ms FROM feed_forks ORDER BY author").fetchall()
        return [Fork(DeviceId(did), parse_entry(held), parse_entry(other), at) for did, held, other, at in rows]

    def verify(self) -> int:
        """Check every signature, chain and head again and return how many entries are held.

        Raises:
            EntryInvalid, EntrySignatureInvalid: an entry is not what its author signed.
            FeedBroken: an entry does not follow on the one before it, or a newest entry is not there.
        """
        count = 0
        heads: dict[DeviceId, Head] = {}
        with self.database.reading() as connection:
            for (encoded,) in connection.execute("SELECT encoded FROM feed_entries ORDER BY author, sequence"):
                (entry,) = verified([encoded])
                head = heads.get(entry.author, EMPTY_HEAD)
                if (entry.sequence, entry.previous) != (head.sequence + 1, head.id):
                    raise FeedBroken(entry.author, head.sequence)
                heads[entry.author] = Head(entry.sequence, entry.id)
                count += 1
            for author, head in _heads(connection).items():
                if heads.get(author) != head:
                    raise FeedBroken(author, head.sequence)
        return count

    def _require_newest(self, head: Head) -> None:
        for peer, claimed in tuple(self._claims.items()):
            if claimed > head.sequence and self._linked(peer):
                raise FeedBehind(self.me, head.sequence, peer, claimed)

    def _vector(self, connection: Any) -> VersionVector:
        heads = _heads(connection)
        for did in sorted(self._refused - heads.keys())[: MAX_AUTHORS - len(heads)]:
            heads[did] = EMPTY_HEAD
        limits = self._limits(connection, heads)
        forked = _forked_authors(connection)
        return VersionVector(
            {did: Held(head, did in forked or limits.get(did, 0) <= head.sequence) for did, head in heads.items()}
        )

    def _limits(self, connection: Any, authors: Any) -> Mapping[DeviceId, int]:
        rows = connection.execute(_STATEMENTS, (self.me,))
        statements = [Statement(DeviceId(who), DeviceId(did), bool(added), last) for who, did, added, last in rows]
        return author_limits(self.me, self._linked, statements, authors)


def _heads(connection: Any) -> dict[DeviceId, Head]:
    rows = connection.execute("SELECT author, sequence, id FROM feed_heads")
    return {DeviceId(author): Head(sequence, EntryId(raw.hex())) for author, sequence, raw in rows}


def _own_word(connection: Any, me: DeviceId, did: DeviceId) -> DeviceBody | None:
    """Return what the own feed says about a device last."""
    row = connection.execute(
        "SELECT nickname, added, last FROM feed_devices WHERE introducer = ? AND did = ?", (me, did)
    ).fetchone()
    return None if row is None else DeviceBody(did, row[0], bool(row[1]), row[2])


def _forked(connection: Any, author: DeviceId) -> bool:
    return connection.execute("SELECT 1 FROM feed_forks WHERE author = ?", (author,)).fetchone() is not None


def _forked_authors(connection: Any) -> set[DeviceId]:
    return {DeviceId(author) for (author,) in connection.execute("SELECT author FROM feed_forks")}


def _id_at(connection: Any, author: DeviceId, sequence: int) -> EntryId | None:
    row = connection.execute(
        "SELECT id FROM feed_entries WHERE author = ? AND sequence = ?", (author, sequence)
    ).fetchone()
    return None if row is None else EntryId(row[0].hex())


def _arrival_of(connection: Any, author: DeviceId, sequence: int) -> int:
    row = connection.execute(
        "SELECT arrival FROM feed_entries WHERE author = ? AND sequence = ?", (author, sequence)
    ).fetchone()
    return int(row[0])
