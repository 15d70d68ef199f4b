"""Whatever a person does on two devices, in whatever order entries travel: one view, and the list agrees with it."""

import random
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from identity.testing import key_from_number
from protocol.chats import ChatView, chat_view
from protocol.feed import ChatId, Entry, Kind, receive_entry
from protocol.sync import MAX_BATCH_BYTES
from protocol.version_vector import VersionVector
from store.chats import Chats
from store.database import Database
from store.errors import ChatUnknown, EntryUnknown

ACTS = ("chat", "message", "message", "edit", "delete", "rename", "delete-chat", "sync")
# Which device acts, what it does, to which of the things it knows, and how far its clock stands from the true time.
STEPS = st.lists(
    st.tuples(st.integers(0, 1), st.sampled_from(ACTS), st.integers(0, 999), st.integers(-3, 3)), max_size=30
)


class Person:
    """Somebody with two devices whose clocks disagree."""

    def __init__(self, home: Path) -> None:
        self.now_ms = 1_000
        self.devices = [self._device(home, number) for number in (1, 2)]

    def _device(self, home: Path, number: int) -> Chats:
        database = Database.open(home / f"{number}.db", bytes(32), create=True)
        return Chats(database, key_from_number(number), lambda _: True, lambda: self.now_ms)

    def do(self, device: int, act: str, pick: int, drift: int) -> None:
        self.now_ms += 1 + drift
        chats = self.devices[device]
        known = [summary.id for summary in chats.list()]
        chat = known[pick % len(known)] if known else None
        if act == "chat" or chat is None:
            chats.new_chat(f"chat {pick}")
            return
        lines = [line.id for line in chats.show(chat).messages]
        line = lines[pick % len(lines)] if lines else None
        match act:
            case "sync":
                self.sync()
            case "rename":
                chats.rename(chat, f"title {pick}")
            case "delete-chat" if pick % 4 == 0:
                chats.delete_chat(chat)
            case "edit" if line is not None:
                chats.edit(line, f"edited {pick}")
            case "delete" if line is not None:
                chats.delete(line)
            case _:
                chats.add_message(chat, "user", f"line {pick}")

    def sync(self) -> None:
        one, two = self.devices
        for source, target in ((one, two), (two, one)):
            rest = source.feeds.outgoing(target.feeds.version_vector())
            while (batch := source.feeds.next_batch(rest, MAX_BATCH_BYTES)).entries:
                assert target.feeds.receive(batch.entries).refused == 0
                rest = batch.rest


def every_entry(chats: Chats) -> list[Entry]:
    batch = chats.feeds.next_batch(chats.feeds.outgoing(VersionVector()), MAX_BATCH_BYTES)
    return [receive_entry(data) for data in batch.entries]


def views(chats: Chats) -> dict[ChatId, ChatView]:
    return {summary.id: chats.show(summary.id) for summary in chats.list()}


@settings(max_examples=40, deadline=None)
@given(STEPS, st.integers(0, 2**32))
def test_two_devices_agree_whatever_was_done(steps: list[tuple[int, str, int, int]], seed: int) -> None:
    with tempfile.TemporaryDirectory() as home:
        person = Person(Path(home))
        for step in steps:
            person.do(*step)
        person.sync()
        one, two = person.devices
        assert views(one) == views(two)
        assert one.list() == two.list()
        check_the_list(one)
        check_any_order(one, seed)
        for chats in person.devices:
            chats.feeds.database.close()


def check_the_list(chats: Chats) -> None:
    """The list in SQL says what the pure function says, of hidden chats too."""
    entries = every_entry(chats)
    by_hand = {chat: chat_view(chat, entries) for chat in {entry.chat for entry in entries if entry.chat}}
    shown = {chat: view for chat, view in by_hand.items() if view is not None}
    for summary in chats.list():
        view = shown.pop(summary.id)
        assert (summary.title, summary.messages) == (view.title, len(view.messages))
        assert (summary.created_ms, summary.updated_ms) == (view.created_ms, view.updated_ms)
    assert shown == {}
    for chat in by_hand:
        if by_hand[chat] is None:
            check_hidden(chats, chat, entries)


def check_hidden(chats: Chats, chat: ChatId, entries: list[Entry]) -> None:
    with pytest.raises(ChatUnknown):
        chats.show(chat)
    with pytest.raises(ChatUnknown):
        chats.add_message(chat, "user", "x")
    for entry in entries:
        if entry.chat == chat and entry.kind is Kind.MESSAGE:
            with pytest.raises((ChatUnknown, EntryUnknown)):
                chats.edit(entry.id, "x")


def check_any_order(chats: Chats, seed: int) -> None:
    entries = every_entry(chats)
    random.Random(seed).shuffle(entries)
    for chat, view in views(chats).items():
        assert chat_view(chat, entries) == view
