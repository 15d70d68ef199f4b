"""Entries of a feed: the vectors, the caps, the chain."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from identity.testing import key_from_number
from protocol import errors
from protocol.feed import (
    EMPTY_HEAD,
    MAX_CONTENT_BYTES,
    MAX_ENTRY_BYTES,
    MAX_MODEL_BYTES,
    MAX_SEQUENCE,
    MAX_TIME_MS,
    NO_CHAT,
    ROLES,
    Body,
    ChatBody,
    ChatId,
    DeviceBody,
    EditBody,
    Entry,
    EntryId,
    Head,
    MessageBody,
    RenameBody,
    chat_id_of,
    hybrid_time_ms,
    parse_entry,
    place,
    receive_entry,
    sign_entry,
)
from protocol.redacted import Redacted

VECTORS = Path(__file__).parents[2] / "specs" / "vectors" / "0013-chats-and-sync"
KEY = key_from_number(1)
CHAT = chat_id_of(KEY.did, 1)
ID = EntryId("ab" * 32)


def cases(name: str) -> list[Any]:
    loaded: list[Any] = json.loads((VECTORS / f"{name}.json").read_text())
    return [pytest.param(case, id=case["comment"]) for case in loaded]


def facts(entry: Entry) -> dict[str, object]:
    body = {field.name: getattr(entry.body, field.name) for field in fields(entry.body)}
    return {
        "author": entry.author,
        "seq": entry.sequence,
        "prev": entry.previous,
        "time_ms": entry.time_ms,
        "chat": entry.chat,
        "kind": entry.kind.value,
        "body": {name: value.reveal() if isinstance(value, Redacted) else value for name, value in body.items()},
        "id": entry.id,
    }


@pytest.mark.parametrize("case", cases("entries"))
def test_vectors_of_entries(case: dict[str, Any]) -> None:
    data = bytes.fromhex(case["input"]["entry"])
    if case["expect"] == "ok":
        entry = receive_entry(data)
        assert facts(entry) == case["output"]
        assert entry.encoded == data
        return
    with pytest.raises(getattr(errors, case["expect"])) as caught:
        receive_entry(data)
    assert type(caught.value).__name__ == case["expect"]


@pytest.mark.parametrize("case", cases("placements"))
def test_vectors_of_placements(case: dict[str, Any]) -> None:
    held = {entry.sequence: entry for entry in map(receive_entry, map(bytes.fromhex, case["input"]["held"]))}
    newest = held[max(held)]
    entry = receive_entry(bytes.fromhex(case["input"]["received"]))
    there = held.get(entry.sequence)
    placement = place(entry, Head(newest.sequence, newest.id), None if there is None else there.id)
    assert placement.value == case["output"]


def test_the_largest_entry_of_every_kind_fits_the_cap() -> None:
    head = Head(MAX_SEQUENCE - 1, ID)
    largest: list[Body] = [
        MessageBody("assistant", Redacted("x" * MAX_CONTENT_BYTES), "m" * MAX_MODEL_BYTES),
        EditBody(ID, Redacted("x" * MAX_CONTENT_BYTES)),
        RenameBody(Redacted("t" * 256)),
    ]
    for body in largest:
        entry = sign_entry(KEY, head, MAX_TIME_MS, CHAT, body)
        assert len(entry.encoded) <= MAX_ENTRY_BYTES
        assert receive_entry(entry.encoded) == entry


def test_an_entry_over_the_cap_is_refused_before_it_is_decoded() -> None:
    with pytest.raises(errors.EntryInvalid, match="at most"):
        parse_entry(bytes(MAX_ENTRY_BYTES + 1))


@pytest.mark.parametrize("role", sorted(ROLES))
def test_every_role_can_be_written(role: str) -> None:
    entry = sign_entry(KEY, EMPTY_HEAD, 0, CHAT, MessageBody(role, Redacted("x")))
    assert receive_entry(entry.encoded).body == MessageBody(role, Redacted("x"))


def test_a_body_is_checked_before_it_is_signed() -> None:
    with pytest.raises(errors.ContentTooLarge) as caught:
        sign_entry(KEY, EMPTY_HEAD, 0, CHAT, MessageBody("user", Redacted("x" * (MAX_CONTENT_BYTES + 1))))
    assert (caught.value.size_bytes, caught.value.max_bytes) == (MAX_CONTENT_BYTES + 1, MAX_CONTENT_BYTES)
    assert caught.value.hint
    wrong: list[tuple[ChatId, Any]] = [
        (CHAT, MessageBody("root", Redacted("x"))),
        (CHAT, MessageBody("user", Redacted("\ud800"))),
        (CHAT, DeviceBody(KEY.did, "n", True)),
        (NO_CHAT, MessageBody("user", Redacted("x"))),
        (NO_CHAT, DeviceBody(KEY.did, "n", True, 7)),
        (ChatId("00" * 16), ChatBody(Redacted("t"))),
    ]
    for chat, body in wrong:
        with pytest.raises(errors.EntryInvalid):
            sign_entry(KEY, EMPTY_HEAD, 0, chat, body)


def test_an_entry_shows_no_text() -> None:
    entry = sign_entry(KEY, EMPTY_HEAD, 0, CHAT, MessageBody("user", Redacted("canary"), "demo"))
    assert "canary" not in repr(entry)
    assert "<redacted 6 bytes>" in repr(entry)
    assert b"canary" in entry.encoded


def test_hybrid_time_follows_the_clock_and_never_falls_behind_what_is_known() -> None:
    assert hybrid_time_ms(1_000, 0) == 1_000
    assert hybrid_time_ms(1_000, 5_000) == 5_001
    assert hybrid_time_ms(-5, 0) == 1
    assert hybrid_time_ms(1_000, MAX_TIME_MS) == MAX_TIME_MS  # a broken clock somewhere blocks nobody


def test_a_chat_id_belongs_to_one_author_and_one_sequence() -> None:
    other = key_from_number(2).did
    ids = {chat_id_of(author, sequence) for author in (KEY.did, other) for sequence in (1, 2, 11, 12)}
    assert len(ids) == 8
    assert all(len(chat) == 32 for chat in ids)
