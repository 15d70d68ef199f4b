"""One round of sync between two devices, without any I/O (specs/0013).

Each side sends `have`, then what the other lacks in `entries` batches, then `end`; it answers the other's `end` with
`stored` once everything is kept. The two directions do not wait for each other.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Final

from protocol.codec import Fields, decode_message, encode_message
from protocol.errors import CodecInvalid, FieldInvalid, SyncMisused, SyncViolation
from protocol.feed import MAX_ENTRY_BYTES, MAX_SEQUENCE
from protocol.version_vector import MAX_AUTHORS, VersionVector, decode_vector, encode_vector

PROTOCOL: Final = "/tilenode/sync/1"
MAX_BATCH_BYTES: Final = 1_048_576
MAX_BATCH_ENTRIES: Final = 4_096
# What a batch spends besides its entries: the map with its keys, and five bytes before each entry.
BATCH_OVERHEAD_BYTES: Final = 64
ENTRY_OVERHEAD_BYTES: Final = 5


@dataclass(frozen=True, slots=True)
class Have:
    """The other side holds this."""

    vector: VersionVector


@dataclass(frozen=True, slots=True)
class Batch:
    """Entries to keep in one transaction, in this order, not verified yet."""

    entries: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class End:
    """The other side has sent everything; answer with `stored`."""

    entries: int


@dataclass(frozen=True, slots=True)
class Stored:
    """The other side has kept `accepted` of what it was sent, knew `known` already and refused `refused`."""

    accepted: int
    known: int
    refused: int


Event = Have | Batch | End | Stored


class Direction(Enum):
    """How far one direction of a round has come."""

    NOTHING = "nothing"
    ENTRIES = "entries"
    END = "end"
    CONFIRMED = "confirmed"


# One table for both directions. `stored` runs against its direction: the side that received sends it.
NEXT: Final = {
    (Direction.NOTHING, "have"): Direction.ENTRIES,
    (Direction.ENTRIES, "entries"): Direction.ENTRIES,
    (Direction.ENTRIES, "end"): Direction.END,
    (Direction.END, "stored"): Direction.CONFIRMED,
}


class SyncRound:
    """The state of one round on one side; the same machine on both."""

    def __init__(self) -> None:
        self.sending = Direction.NOTHING
        self.receiving = Direction.NOTHING
        self.sent_entries = 0
        self.received_entries = 0

    @property
    def finished(self) -> bool:
        """Whether both directions were confirmed, so that the stream may be closed."""
        return self.sending is self.receiving is Direction.CONFIRMED

    def send_have(self, vector: VersionVector) -> bytes:
        """Return the message that says what this side holds."""
        self._send("have")
        return encode_message("have", authors=encode_vector(vector))

    def send_entries(self, entries: list[bytes]) -> bytes:
        """Return a batch of at least one entry, at most 1 MiB in all.

        Raises:
            SyncMisused: out of order, empty, or over a cap.
        """
        self._send("entries")
        if not 0 < len(entries) <= MAX_BATCH_ENTRIES:
            raise SyncMisused(f"a batch of {len(entries)} entries")
        message = encode_message("entries", entries=entries)
        if len(message) > MAX_BATCH_BYTES:
            raise SyncMisused(f"a batch of {len(message)} bytes")
        self.sent_entries += len(entries)
        return message

    def send_end(self) -> bytes:
        """Return the message that says that nothing more follows."""
        self._send("end")
        return encode_message("end", entries=self.sent_entries)

    def send_stored(self, accepted: int, known: int, refused: int) -> bytes:
        """Return the confirmation that everything received is kept, or was refused for good."""
        if (self.receiving, "stored") not in NEXT:
            raise SyncMisused(f"'stored' is not sent after {self.receiving.value} was received")
        self.receiving = NEXT[self.receiving, "stored"]
        return encode_message("stored", accepted=accepted, known=known, refused=refused)

    def receive(self, payload: bytes) -> Event:
        """Return what the other side's message says.

        Raises:
            SyncViolation: not a message of this protocol, out of order, or over a cap.
        """
        try:
            kind, fields = decode_message(payload, MAX_BATCH_BYTES)
            event = self._event(kind, fields)
            fields.done()
        except (CodecInvalid, FieldInvalid) as error:
            raise SyncViolation(str(error)) from error
        return event

    def _event(self, kind: str, fields: Fields) -> Event:
        if kind == "stored":
            return self._confirmed(fields)
        if (self.receiving, kind) not in NEXT:
            raise SyncViolation(f"{kind[:16]!r} does not come after {self.receiving.value}")
        self.receiving = NEXT[self.receiving, kind]
        match kind:
            case "have":
                return Have(decode_vector(fields.list("authors", max=MAX_AUTHORS)))
            case "entries":
                return self._batch(fields)
            case _:
                return self._end(fields)

    def _batch(self, fields: Fields) -> Batch:
        entries = [item for item in fields.list("entries", max=MAX_BATCH_ENTRIES) if isinstance(item, bytes)]
        if not entries or len(entries) != len(fields.list("entries", max=MAX_BATCH_ENTRIES)):
            raise fields.invalid("entries", "expected one byte string or more")
        if max(map(len, entries)) > MAX_ENTRY_BYTES:
            raise fields.invalid("entries", f"an entry of more than {MAX_ENTRY_BYTES} bytes")
        self.received_entries += len(entries)
        return Batch(tuple(entries))

    def _end(self, fields: Fields) -> End:
        announced = fields.int("entries", 0, MAX_SEQUENCE)
        if announced != self.received_entries:
            raise SyncViolation(f"{announced} entries announced, {self.received_entries} received")
        return End(announced)

    def _confirmed(self, fields: Fields) -> Stored:
        if (self.sending, "stored") not in NEXT:
            raise SyncViolation(f"'stored' does not come after {self.sending.value} was sent")
        counts = [fields.int(name, 0, MAX_SEQUENCE) for name in ("accepted", "known", "refused")]
        if sum(counts) != self.sent_entries:
            raise SyncViolation(f"{sum(counts)} entries stored or refused, {self.sent_entries} were sent")
        self.sending = NEXT[self.sending, "stored"]
        return Stored(*counts)

    def _send(self, kind: str) -> None:
        if (self.sending, kind) not in NEXT:
            raise SyncMisused(f"{kind!r} is not sent after {self.sending.value}")
        self.sending = NEXT[self.sending, kind]
