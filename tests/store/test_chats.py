"""Chats on one device: what is written is what is shown, after reopening too."""

from pathlib import Path

import pytest

from identity.keys import DeviceKey
from protocol.errors import ContentTooLarge, EntryInvalid
from protocol.feed import MAX_CONTENT_BYTES, ChatId, EntryId
from store.chats import Chats
from store.database import Database
from store.errors import ChatAmbiguous, ChatUnknown, EntryUnknown

KEY = DeviceKey(bytes(31) + b"\x01")
NO_ENTRY = EntryId("ab" * 32)


class Ticking:
    """A clock that moves one second at every look."""

    def __init__(self, now_ms: int = 1_700_000_000_000) -> None:
        self.now_ms = now_ms

    def __call__(self) -> int:
        self.now_ms += 1_000
        return self.now_ms


def open_chats(path: Path, clock: Ticking | None = None) -> Chats:
    return Chats(Database.open(path, bytes(32), create=True), KEY, lambda _: False, clock or Ticking())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "node.db"


@pytest.fixture
def chats(path: Path) -> Chats:
    return open_chats(path)


def lines(chats: Chats, chat: ChatId) -> list[tuple[str, str]]:
    return [(line.role, line.content.reveal()) for line in chats.show(chat).messages]


def test_a_chat_reads_as_it_was_written(chats: Chats) -> None:
    chat = chats.new_chat("weather")
    chats.add_message(chat, "user", "will it rain?")
    answer = chats.add_message(chat, "assistant", "yes", "demo:latest")
    view = chats.show(chat)
    assert view.title.reveal() == "weather"
    assert lines(chats, chat) == [("user", "will it rain?"), ("assistant", "yes")]
    assert (view.messages[1].id, view.messages[1].model, view.messages[1].edited) == (answer.id, "demo:latest", False)
    assert view.created_ms < view.messages[0].time_ms < view.updated_ms == view.messages[1].time_ms


def test_everything_is_there_after_reopening(chats: Chats, path: Path) -> None:
    chat = chats.new_chat("weather")
    chats.add_message(chat, "user", "will it rain?")
    again = open_chats(path)
    assert lines(again, chat) == [("user", "will it rain?")]
    assert again.feeds.verify() == 2


def test_an_edit_replaces_the_text_and_keeps_the_place(chats: Chats) -> None:
    chat = chats.new_chat("t")
    first = chats.add_message(chat, "user", "frist")
    chats.add_message(chat, "user", "second")
    chats.edit(first.id, "first")
    chats.edit(first.id, "First")
    assert lines(chats, chat) == [("user", "First"), ("user", "second")]
    assert [line.edited for line in chats.show(chat).messages] == [True, False]


def test_a_deleted_line_is_hidden_for_good(chats: Chats) -> None:
    chat = chats.new_chat("t")
    line = chats.add_message(chat, "user", "secret")
    chats.delete(line.id)
    assert lines(chats, chat) == []
    with pytest.raises(EntryUnknown):
        chats.edit(line.id, "again")
    with pytest.raises(EntryUnknown):
        chats.delete(line.id)


def test_a_rename_shows_in_the_list(chats: Chats) -> None:
    chat = chats.new_chat("old")
    chats.rename(chat, "new")
    (summary,) = chats.list()
    assert (summary.title.reveal(), summary.messages) == ("new", 0)


def test_the_list_has_the_chat_written_to_last_first(chats: Chats) -> None:
    first, second = chats.new_chat("first"), chats.new_chat("second")
    chats.add_message(first, "user", "hello")
    assert [summary.id for summary in chats.list()] == [first, second]
    assert [summary.messages for summary in chats.list()] == [1, 0]


def test_a_deleted_chat_is_gone(chats: Chats) -> None:
    chat = chats.new_chat("t")
    chats.delete_chat(chat)
    assert chats.list() == ()
    for change in (
        lambda: chats.show(chat),
        lambda: chats.add_message(chat, "user", "hello"),
        lambda: chats.rename(chat, "again"),
    ):
        with pytest.raises(ChatUnknown):
            change()


@pytest.mark.parametrize("name", ["", "00", "nothing", "0" * 32, "0" * 31 + "G"])
def test_an_unknown_chat_is_named(chats: Chats, name: str) -> None:
    chats.feeds.note_device(DeviceKey(bytes(32)).did, "other", added=True)  # an entry that belongs to no chat
    for change in (
        lambda: chats.show(ChatId(name)),
        lambda: chats.add_message(ChatId(name), "user", "hello"),
        lambda: chats.find(name),
        lambda: chats.delete_chat(ChatId(name)),
    ):
        with pytest.raises(ChatUnknown):
            change()


def test_a_chat_is_found_by_the_beginning_of_its_id(chats: Chats) -> None:
    ids = [chats.new_chat(str(number)) for number in range(40)]
    assert chats.find(ids[0]) == ids[0]
    assert chats.find(ids[0][:12]) == ids[0]
    crowded = next(chat[0] for chat in ids if sum(other[0] == chat[0] for other in ids) > 1)
    with pytest.raises(ChatAmbiguous):
        chats.find(crowded)


def test_a_line_is_found_by_the_beginning_of_its_id(chats: Chats) -> None:
    chat = chats.new_chat("t")
    line = chats.add_message(chat, "user", "hello")
    assert chats.find_line(line.id[:12]) == line.id
    chats.delete(line.id)
    for text in (line.id[:12], "", "*", "abcd*", "zzzz"):
        with pytest.raises(EntryUnknown):
            chats.find_line(text)


def test_caps_are_checked_before_anything_is_written(chats: Chats) -> None:
    chat = chats.new_chat("t" * 256)
    largest = chats.add_message(chat, "user", "x" * MAX_CONTENT_BYTES)
    for change in (
        lambda: chats.new_chat("t" * 257),
        lambda: chats.rename(chat, "é" * 129),
        lambda: chats.add_message(chat, "user", "x" * (MAX_CONTENT_BYTES + 1)),
        lambda: chats.edit(largest.id, "x" * (MAX_CONTENT_BYTES + 1)),
    ):
        with pytest.raises(ContentTooLarge) as caught:
            change()
        assert caught.value.hint
    assert chats.feeds.verify() == 2


@pytest.mark.parametrize(
    ("role", "content", "model"), [("root", "x", ""), ("user", "\ud800", ""), ("user", "x", "m" * 257)]
)
def test_a_line_that_cannot_be_encoded_is_refused(chats: Chats, role: str, content: str, model: str) -> None:
    chat = chats.new_chat("t")
    with pytest.raises(EntryInvalid):
        chats.add_message(chat, role, content, model)
    assert chats.feeds.verify() == 1


def test_an_unknown_line_can_be_neither_edited_nor_deleted(chats: Chats) -> None:
    chat = chats.new_chat("t")
    begin = chats.feeds.version_vector().authors[KEY.did].head.id
    chats.add_message(chat, "user", "x")
    for target in (NO_ENTRY, begin, EntryId("not hex")):
        with pytest.raises(EntryUnknown):
            chats.edit(target, "y")
        with pytest.raises(EntryUnknown):
            chats.delete(target)


def test_time_in_a_chat_only_grows_though_the_clock_goes_back(path: Path) -> None:
    clock = Ticking()
    chats = open_chats(path, clock)
    chat = chats.new_chat("t")
    times = []
    for jump in (0, -10_000_000, 5, -1_700_000_000_000, 0):
        clock.now_ms += jump
        times.append(chats.add_message(chat, "user", str(jump)).time_ms)
    assert times == sorted(set(times))
    assert [content for _, content in lines(chats, chat)] == ["0", "-10000000", "5", "-1700000000000", "0"]


def test_no_text_shows_in_a_repr(chats: Chats) -> None:
    chat = chats.new_chat("canary-title")
    line = chats.add_message(chat, "user", "canary-content")
    shown = [repr(line), repr(chats.show(chat)), repr(chats.list()), repr(chats.edit(line.id, "canary-edit"))]
    shown.append(repr(chats.rename(chat, "canary-title")))
    assert not any("canary" in text for text in shown)
    assert "<redacted 14 bytes>" in shown[0]
