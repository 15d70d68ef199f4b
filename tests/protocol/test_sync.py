"""The sync machine: vectors of rounds, the table, the caps."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from identity.testing import key_from_number
from protocol.codec import encode_message
from protocol.errors import SyncMisused, SyncViolation
from protocol.feed import EMPTY_HEAD, MAX_ENTRY_BYTES
from protocol.sync import (
    BATCH_OVERHEAD_BYTES,
    ENTRY_OVERHEAD_BYTES,
    MAX_BATCH_BYTES,
    MAX_BATCH_ENTRIES,
    NEXT,
    Batch,
    Direction,
    End,
    Have,
    Stored,
    SyncRound,
)
from protocol.version_vector import MAX_AUTHORS, Held, VersionVector, encode_vector

VECTORS = Path(__file__).parents[2] / "specs" / "vectors" / "0013-chats-and-sync" / "rounds.json"
CASES = [pytest.param(case, id=case["comment"]) for case in json.loads(VECTORS.read_text())]
HAVE = encode_message("have", authors=[])
SENDS: dict[str, Callable[[SyncRound], bytes]] = {
    "have": lambda round_: round_.send_have(VersionVector()),
    "entries": lambda round_: round_.send_entries([b"x"]),
    "end": lambda round_: round_.send_end(),
}


@pytest.mark.parametrize("case", CASES)
def test_vectors_of_rounds(case: dict[str, Any]) -> None:
    """The side under test has sent have, one batch of one entry, and end."""
    round_ = SyncRound()
    round_.send_have(VersionVector())
    round_.send_entries([b"x"])
    round_.send_end()
    if case["expect"] == "ok":
        play(round_, case["input"]["received"])
        assert round_.finished
        return
    assert case["expect"] == "SyncViolation"
    with pytest.raises(SyncViolation):
        play(round_, case["input"]["received"])


def play(round_: SyncRound, received: list[str]) -> None:
    for message in received:
        if isinstance(event := round_.receive(bytes.fromhex(message)), End):
            round_.send_stored(event.entries, 0, 0)


def test_two_machines_talk_to_the_end() -> None:
    one, two = SyncRound(), SyncRound()
    mine = VersionVector({key_from_number(1).did: Held(EMPTY_HEAD, closed=True)})
    assert two.receive(one.send_have(mine)) == Have(mine)
    assert one.receive(two.send_have(VersionVector())) == Have(VersionVector())
    assert two.receive(one.send_entries([b"a", b"b"])) == Batch((b"a", b"b"))
    assert two.receive(one.send_end()) == End(2)
    assert one.receive(two.send_stored(1, 0, 1)) == Stored(1, 0, 1)
    assert not one.finished
    assert one.receive(two.send_end()) == End(0)
    assert two.receive(one.send_stored(0, 0, 0)) == Stored(0, 0, 0)
    assert one.finished
    assert two.finished


def test_the_table_is_all_there_is() -> None:
    kinds = ("have", "entries", "end", "stored")
    allowed = {(state, kind) for state in Direction for kind in kinds if (state, kind) in NEXT}
    assert allowed == set(NEXT)
    for state in Direction:
        for kind, send in SENDS.items():
            round_ = SyncRound()
            round_.sending = state
            if (state, kind) in NEXT:
                send(round_)
                assert round_.sending is NEXT[state, kind]
            else:
                with pytest.raises(SyncMisused):
                    send(round_)
                assert round_.sending is state


def test_stored_is_sent_only_after_the_others_end() -> None:
    with pytest.raises(SyncMisused):
        SyncRound().send_stored(0, 0, 0)


def test_the_overheads_hold_for_the_fullest_batches() -> None:
    for count, size in ((MAX_BATCH_ENTRIES, 200), (4, 200_000), (1, MAX_ENTRY_BYTES)):
        round_ = SyncRound()
        round_.send_have(VersionVector())
        message = round_.send_entries([bytes(size)] * count)
        assert len(message) <= BATCH_OVERHEAD_BYTES + count * (size + ENTRY_OVERHEAD_BYTES)


@pytest.mark.parametrize("entries", [[], [b"x"] * (MAX_BATCH_ENTRIES + 1), [bytes(MAX_BATCH_BYTES)]])
def test_a_batch_over_a_cap_is_never_sent(entries: list[bytes]) -> None:
    round_ = SyncRound()
    round_.send_have(VersionVector())
    with pytest.raises(SyncMisused):
        round_.send_entries(entries)


@pytest.mark.parametrize(
    "message",
    [
        encode_message("entries", entries=[b"x"] * (MAX_BATCH_ENTRIES + 1)),
        encode_message("entries", entries=[bytes(MAX_ENTRY_BYTES + 1)]),
        encode_message("entries", entries=[bytes(250_000)] * 4 + [bytes(100_000)]),
        encode_message("end", entries=2**48),
    ],
    ids=["entries", "entry-bytes", "batch-bytes", "count"],
)
def test_what_is_over_a_cap_is_refused(message: bytes) -> None:
    round_ = SyncRound()
    round_.receive(HAVE)
    with pytest.raises(SyncViolation):
        round_.receive(message)


def test_the_number_of_authors_is_bounded() -> None:
    authors = {key_from_number(number).did: Held(EMPTY_HEAD) for number in range(MAX_AUTHORS + 1)}
    rows = encode_vector(VersionVector(authors))
    round_ = SyncRound()
    message = encode_message("have", authors=rows[:MAX_AUTHORS])
    assert len(message) < 64 * 1024
    assert isinstance(round_.receive(message), Have)
    with pytest.raises(SyncViolation):
        SyncRound().receive(encode_message("have", authors=rows))
