"""Chats as people see them: a pure function of the set of entries, in whatever order they arrived (specs/0013)."""

from collections.abc import Iterable
from dataclasses import dataclass

from identity.did import DeviceId
from protocol.feed import (
    ChatBody,
    ChatId,
    DeleteBody,
    EditBody,
    Entry,
    EntryId,
    MessageBody,
    RenameBody,
)
from protocol.redacted import Redacted


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One visible line; `id` is the entry that wrote it, `edited` whether another entry changed it since."""

    id: EntryId
    author: DeviceId
    role: str
    content: Redacted
    model: str
    time_ms: int
    edited: bool


@dataclass(frozen=True, slots=True)
class ChatView:
    """A chat with its visible lines, oldest first. The title is empty while no entry with one has arrived."""

    id: ChatId
    title: Redacted
    created_ms: int
    updated_ms: int
    messages: tuple[ChatMessage, ...]


def chat_view(chat: ChatId, entries: Iterable[Entry]) -> ChatView | None:
    """Return the view of `chat`, given all its entries in any order; None where it was deleted or nothing is there.

    Rivals are settled by rank (hybrid time, author, sequence): the highest edit and the highest title win. A delete
    wins over every edit. Any device of the person may edit and delete any line.
    """
    ordered = sorted((entry for entry in entries if entry.chat == chat), key=lambda entry: entry.rank)
    deleted = {entry.target for entry in ordered if isinstance(entry.body, DeleteBody)}
    if not ordered or any(isinstance(entry.body, ChatBody) and entry.id in deleted for entry in ordered):
        return None
    return ChatView(
        id=chat,
        title=_title(ordered),
        created_ms=min((e.time_ms for e in ordered if isinstance(e.body, ChatBody)), default=ordered[0].time_ms),
        updated_ms=ordered[-1].time_ms,
        messages=_messages(ordered, deleted),
    )


def _title(ordered: list[Entry]) -> Redacted:
    titles = [entry.body.title for entry in ordered if isinstance(entry.body, ChatBody | RenameBody)]
    return titles[-1] if titles else Redacted("")


def _messages(ordered: list[Entry], deleted: set[EntryId | None]) -> tuple[ChatMessage, ...]:
    edits = {entry.body.target: entry.body.content for entry in ordered if isinstance(entry.body, EditBody)}
    return tuple(
        ChatMessage(
            id=entry.id,
            author=entry.author,
            role=entry.body.role,
            content=edits.get(entry.id, entry.body.content),
            model=entry.body.model,
            time_ms=entry.time_ms,
            edited=entry.id in edits,
        )
        for entry in ordered
        if isinstance(entry.body, MessageBody) and entry.id not in deleted
    )
