"""Version vectors: what a device holds of every author, and from two of them what one side lacks (specs/0013)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from identity.did import DeviceId, parse_did
from identity.errors import DidInvalid
from protocol.errors import SyncViolation
from protocol.feed import EMPTY_HEAD, MAX_SEQUENCE, EntryId, Head

MAX_AUTHORS: Final = 256


@dataclass(frozen=True, slots=True)
class Held:
    """What is held of one author; `closed` means that nothing more of this author is accepted."""

    head: Head
    closed: bool = False


@dataclass(frozen=True)
class VersionVector:
    """What a device holds of every author that it knows: at most 256 authors."""

    authors: Mapping[DeviceId, Held] = field(default_factory=dict)


def encode_vector(vector: VersionVector) -> list[list[object]]:
    """Return the vector as it goes into a message: `[did, sequence, id, closed]`, ascending by did."""
    return [
        [did, held.head.sequence, bytes.fromhex(held.head.id), held.closed]
        for did, held in sorted(vector.authors.items())
    ]


def decode_vector(rows: list[object]) -> VersionVector:
    """Return the vector of decoded rows.

    Raises:
        SyncViolation: more than 256 rows, not ascending, or a row that is not as `encode_vector` writes it.
    """
    if len(rows) > MAX_AUTHORS:
        raise SyncViolation(f"{len(rows)} authors, at most {MAX_AUTHORS} are allowed")
    authors: dict[DeviceId, Held] = {}
    last = ""
    for index, row in enumerate(rows):
        did, held = _decode_row(index, row)
        if did <= last:
            raise SyncViolation(f"authors[{index}]: not in ascending order")
        last = did
        authors[did] = held
    return VersionVector(authors)


def first_missing(
    mine: VersionVector, theirs: VersionVector, id_at: Callable[[DeviceId, int], EntryId | None]
) -> dict[DeviceId, int]:
    """Return per author the first sequence to send to the device that holds `theirs`; nothing missing, no row.

    `id_at` gives the id of an entry that is held here. Where the other's newest entry is not ours of that sequence,
    ours is sent again: the two together prove to it that the author forked.
    """
    result: dict[DeviceId, int] = {}
    for did, held in mine.authors.items():
        other = theirs.authors.get(did, Held(EMPTY_HEAD))
        if other.closed or other.head.sequence > held.head.sequence:
            continue
        same = other.head.sequence == 0 or id_at(did, other.head.sequence) == other.head.id
        first = other.head.sequence + 1 if same else other.head.sequence
        if first <= held.head.sequence:
            result[did] = first
    return result


def _decode_row(index: int, row: object) -> tuple[DeviceId, Held]:
    match row:
        case [str(text), int(sequence), bytes(raw), bool(closed)] if not isinstance(sequence, bool):
            head = Head(sequence, EntryId(raw.hex()))
        case _:
            raise SyncViolation(f"authors[{index}]: expected a did, a sequence, an id and true or false")
    if len(raw) != 32 or not 0 <= sequence <= MAX_SEQUENCE or (sequence == 0) != (head.id == EMPTY_HEAD.id):
        raise SyncViolation(f"authors[{index}]: the sequence and the id do not fit")
    try:
        return parse_did(text), Held(head, closed)
    except DidInvalid as error:
        raise SyncViolation(f"authors[{index}]: {error}") from error
