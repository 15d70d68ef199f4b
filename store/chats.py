"""This person's chats, as this device holds them: write lines, and see the view that all their devices agree on."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from identity.did import DeviceId
from identity.keys import DeviceKey
from protocol.chats import ChatView, chat_view
from protocol.feed import (
    Body,
    ChatBody,
    ChatId,
    DeleteBody,
    EditBody,
    Entry,
    EntryId,
    MessageBody,
    RenameBody,
    parse_entry,
)
from protocol.redacted import Redacted
from store.database import Database
from store.errors import ChatAmbiguous, ChatUnknown, EntryUnknown
from store.feeds import Feeds

_PREFIX: Final = re.compile(r"[0-9a-f]{4,64}", re.ASCII)
_HEX: Final = re.compile(r"([0-9a-f]{32}){1,2}", re.ASCII)

# The same rules as protocol.chats.chat_view, for all chats at once and without decoding their lines; a property test
# holds the two together.
_SUMMARIES: Final = """
    SELECT chat,
           coalesce(min(time_ms) FILTER (WHERE kind = 'chat'), min(time_ms)),
           max(time_ms),
           count(*) FILTER (WHERE kind = 'message' AND NOT EXISTS (
               SELECT 1 FROM feed_entries d WHERE d.target = e.id AND d.kind = 'delete' AND d.chat = e.chat)),
           (SELECT encoded FROM feed_entries t WHERE t.chat = e.chat AND t.kind IN ('chat', 'rename')
            ORDER BY t.time_ms DESC, t.author DESC, t.sequence DESC LIMIT 1)
    FROM feed_entries e WHERE chat <> x'' AND chat NOT IN (
        SELECT c.chat FROM feed_entries c JOIN feed_entries d ON d.target = c.id AND d.kind = 'delete'
        AND d.chat = c.chat WHERE c.kind = 'chat')
    GROUP BY chat ORDER BY max(time_ms) DESC, chat
"""

_EXISTS: Final = """
    SELECT 1 FROM feed_entries e WHERE chat = :chat AND chat <> x'' AND NOT EXISTS (
        SELECT 1 FROM feed_entries c JOIN feed_entries d ON d.target = c.id AND d.kind = 'delete' AND d.chat = c.chat
        WHERE c.chat = :chat AND c.kind = 'chat') LIMIT 1
"""
_LINES_LIKE: Final = """
    SELECT id FROM feed_entries e WHERE hex(id) GLOB ? AND kind = 'message' AND NOT EXISTS (
        SELECT 1 FROM feed_entries d WHERE d.target = e.id AND d.kind = 'delete' AND d.chat = e.chat) LIMIT 2
"""
_CHAT_OF_LINE: Final = """
    SELECT chat FROM feed_entries e WHERE id = ? AND kind = 'message' AND NOT EXISTS (
        SELECT 1 FROM feed_entries d WHERE d.target = e.id AND d.kind = 'delete' AND d.chat = e.chat)
"""


@dataclass(frozen=True, slots=True)
class ChatSummary:
    """One row of the list of chats; `messages` counts the visible lines."""

    id: ChatId
    title: Redacted
    messages: int
    created_ms: int
    updated_ms: int


class Chats:
    """Reads and writes chats; `feeds` is what sync exchanges. Every method returns after its entry is on the disk."""

    def __init__(
        self, database: Database, key: DeviceKey, trusted: Callable[[DeviceId], bool], now_ms: Callable[[], int]
    ) -> None:
        self.feeds: Final = Feeds(database, key, trusted, now_ms)
        self._database = database

    def new_chat(self, title: str) -> ChatId:
        """Begin a chat and return its id.

        Raises:
            ContentTooLarge: a title has at most 256 bytes.
        """
        return self.feeds.append(ChatBody(Redacted(title))).chat

    def add_message(self, chat: ChatId, role: str, content: str, model: str = "") -> Entry:
        """Add a line of `role` (system, user, assistant or tool); `model` names the model that wrote it.

        Raises:
            ChatUnknown: no such chat, or it was deleted.
            ContentTooLarge: a line has at most 256 KiB.
        """
        return self._write(chat, MessageBody(role, Redacted(content), model))

    def edit(self, message: EntryId, content: str) -> Entry:
        """Replace the content of a line, whichever device wrote it.

        Raises:
            EntryUnknown: no such visible line.
            ContentTooLarge: a line has at most 256 KiB.
        """
        return self._write(self._chat_of(message), EditBody(message, Redacted(content)))

    def delete(self, message: EntryId) -> Entry:
        """Hide a line on every device, for good.

        Raises:
            EntryUnknown: no such visible line.
        """
        return self._write(self._chat_of(message), DeleteBody(message))

    def delete_chat(self, chat: ChatId) -> Entry:
        """Hide a whole chat on every device, for good.

        Raises:
            ChatUnknown: no such chat, or its beginning has not arrived here yet.
        """
        with self._database.reading() as connection:
            row = connection.execute(
                "SELECT id FROM feed_entries WHERE chat = ? AND kind = 'chat'", (_id_bytes(chat),)
            ).fetchone()
        if row is None:
            raise ChatUnknown(chat)
        return self._write(chat, DeleteBody(EntryId(row[0].hex())))

    def rename(self, chat: ChatId, title: str) -> Entry:
        """Give a chat another title.

        Raises:
            ChatUnknown: no such chat, or it was deleted.
            ContentTooLarge: a title has at most 256 bytes.
        """
        return self._write(chat, RenameBody(Redacted(title)))

    def list(self) -> tuple[ChatSummary, ...]:
        """Return every chat that was not deleted, the one written to last first."""
        with self._database.reading() as connection:
            rows = connection.execute(_SUMMARIES).fetchall()
        return tuple(_summary(*row) for row in rows)

    def show(self, chat: ChatId) -> ChatView:
        """Return a chat with its visible lines, oldest first.

        Raises:
            ChatUnknown: no such chat, or it was deleted.
        """
        with self._database.reading() as connection:
            return _view(connection, chat)

    def find(self, text: str) -> ChatId:
        """Return the chat whose id begins with `text`.

        Raises:
            ChatUnknown: there is none.
            ChatAmbiguous: there are several.
        """
        matches = [chat.id for chat in self.list() if text and chat.id.startswith(text)]
        if not matches:
            raise ChatUnknown(text)
        if len(matches) > 1:
            raise ChatAmbiguous(text, len(matches))
        return matches[0]

    def find_line(self, text: str) -> EntryId:
        """Return the visible line whose id begins with `text`.

        Raises:
            EntryUnknown: there is none, or there are several.
        """
        pattern = text.upper() + "*"
        with self._database.reading() as connection:
            rows = connection.execute(_LINES_LIKE, (pattern,)).fetchall() if _PREFIX.fullmatch(text) else []
        if len(rows) != 1:
            raise EntryUnknown(text)
        return EntryId(rows[0][0].hex())

    def note_device(self, did: DeviceId, nickname: str, added: bool) -> Entry | None:
        """Vouch for an own device, or take that back; as `Feeds.note_device`."""
        return self.feeds.note_device(did, nickname, added)

    def _write(self, chat: ChatId, body: Body) -> Entry:
        with self._database.transaction() as connection:
            if connection.execute(_EXISTS, {"chat": _id_bytes(chat)}).fetchone() is None:
                raise ChatUnknown(chat)
            return self.feeds.append(body, chat)

    def _chat_of(self, message: EntryId) -> ChatId:
        with self._database.reading() as connection:
            row = connection.execute(_CHAT_OF_LINE, (_id_bytes(message),)).fetchone()
        if row is None:
            raise EntryUnknown(message)
        return ChatId(row[0].hex())


def _view(connection: Any, chat: ChatId) -> ChatView:
    raw = _id_bytes(chat)
    rows = connection.execute("SELECT encoded FROM feed_entries WHERE chat = ? AND chat <> x''", (raw,)).fetchall()
    view = chat_view(chat, (parse_entry(encoded) for (encoded,) in rows))
    if view is None:
        raise ChatUnknown(chat)
    return view


def _summary(chat: bytes, created_ms: int, updated_ms: int, messages: int, titled: bytes | None) -> ChatSummary:
    title = Redacted("")
    if titled is not None and isinstance(body := parse_entry(titled).body, ChatBody | RenameBody):
        title = body.title
    return ChatSummary(ChatId(chat.hex()), title, messages, created_ms, updated_ms)


def _id_bytes(text: str) -> bytes:
    """Return the bytes that an id spells; what is no hex spells an id that nothing has."""
    return bytes.fromhex(text) if _HEX.fullmatch(text) else b""
