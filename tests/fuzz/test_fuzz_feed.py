"""Hostile bytes in place of feed entries and sync messages: only named errors come out."""

import json
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from identity.testing import key_from_number
from protocol.codec import encode
from protocol.errors import FeedError, SyncViolation
from protocol.feed import parse_entry, receive_entry
from protocol.sync import SyncRound
from protocol.version_vector import VersionVector

VECTORS = Path(__file__).parents[2] / "specs" / "vectors" / "0013-chats-and-sync"
ENTRIES = [
    bytes.fromhex(case["input"]["entry"])
    for case in json.loads((VECTORS / "entries.json").read_text())
    if case["expect"] == "ok"
]
MESSAGES = [
    bytes.fromhex(message)
    for case in json.loads((VECTORS / "rounds.json").read_text())
    for message in case["input"]["received"]
]

SCALARS = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.binary(max_size=40) | st.text(max_size=20)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner))
DIDS = st.sampled_from([key_from_number(1).did, "did:key:z6Mk", "did:web:x"])


@st.composite
def mutated(draw: st.DrawFn, samples: list[bytes]) -> bytes:
    """A genuine message with bytes changed, cut out or put in."""
    data = bytearray(draw(st.sampled_from(samples)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        cut = draw(st.integers(0, 4))
        data[at : at + cut] = draw(st.binary(max_size=6))
    return bytes(data)


@st.composite
def shaped(draw: st.DrawFn, names: dict[str, st.SearchStrategy[Any]]) -> bytes:
    """A canonical map with the right keys and any values, now and then one key fewer."""
    drawn = {name: draw(VALUES if draw(st.integers(0, 4)) == 0 else values) for name, values in names.items()}
    if draw(st.booleans()):
        drawn.pop(draw(st.sampled_from(sorted(drawn))))
    return encode(drawn)


ENTRY_FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "v": st.just(1),
    "author": DIDS,
    "seq": st.integers(0, 2**49),
    "prev": st.binary(min_size=32, max_size=32),
    "time_ms": st.integers(0, 2**49),
    "chat": st.binary(max_size=17),
    "kind": st.sampled_from(["chat", "message", "edit", "delete", "rename", "device"]),
    "body": st.fixed_dictionaries(
        {},
        optional={
            "title": st.text(max_size=300),
            "role": st.sampled_from(["user", "root"]),
            "content": st.text(),
            "model": st.text(max_size=300),
            "target": st.binary(max_size=33),
            "did": DIDS,
            "nickname": st.text(),
            "added": st.booleans(),
            "last": st.integers(0, 2**49),
        },
    ),
}
ROW = st.tuples(DIDS, st.integers(-1, 2**49), st.binary(max_size=33), st.booleans()).map(list)
MESSAGE_FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "v": st.just(1),
    "t": st.sampled_from(["have", "entries", "end", "stored", "refused"]),
    "authors": st.lists(ROW | VALUES, max_size=4),
    "entries": st.lists(st.binary(max_size=20), max_size=4) | st.integers(0, 9),
}


@given(st.binary(max_size=400) | mutated(ENTRIES) | shaped(ENTRY_FIELDS).map(lambda content: content + bytes(64)))
def test_bytes_are_an_entry_or_a_named_error(data: bytes) -> None:
    for decode in (parse_entry, receive_entry):
        try:
            entry = decode(data)
        except FeedError:
            continue
        assert entry.encoded == data


@given(st.lists(st.binary(max_size=100) | mutated(MESSAGES) | st.sampled_from(MESSAGES) | shaped(MESSAGE_FIELDS)))
def test_messages_are_events_or_a_violation(messages: list[bytes]) -> None:
    round_ = SyncRound()
    round_.send_have(VersionVector())
    round_.send_end()
    try:
        for message in messages:
            round_.receive(message)
    except SyncViolation:
        return
