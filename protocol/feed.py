"""Feeds: every device writes its chat lines into one signed, hash-chained, append-only sequence (specs/0013).

An entry as bytes is `content ‖ signature`: the canonical msgpack map of its fields, then 64 bytes of Ed25519 over the
domain prefix of purpose `feed` followed by that map. Its id is the SHA-256 of exactly what was signed.
"""

import hashlib
import re
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from typing import Final, NewType

from identity.did import DeviceId, parse_did
from identity.errors import DidInvalid, SignatureInvalid
from identity.keys import SIGNATURE_BYTES, DeviceKey, domain, verify
from protocol.codec import Fields, decode, encode
from protocol.errors import (
    CodecInvalid,
    ContentTooLarge,
    EntryInvalid,
    EntrySignatureInvalid,
    FieldInvalid,
    NotEncodable,
)
from protocol.redacted import Redacted

ChatId = NewType("ChatId", str)  # 32 lower-case hex characters; empty for entries of no chat
EntryId = NewType("EntryId", str)  # 64 lower-case hex characters

VERSION: Final = 1
MAX_CONTENT_BYTES: Final = 262_144
MAX_ENTRY_BYTES: Final = MAX_CONTENT_BYTES + 1_024
MAX_TITLE_BYTES: Final = 256
MAX_MODEL_BYTES: Final = 256
MAX_NICKNAME_BYTES: Final = 256
MAX_SEQUENCE: Final = 2**48 - 1
MAX_TIME_MS: Final = 2**48 - 1
ROLES: Final = frozenset({"system", "user", "assistant", "tool"})
NO_CHAT: Final = ChatId("")

_ID_BYTES: Final = 32
_CHAT_BYTES: Final = 16
_MAX_DID_BYTES: Final = 80
_MAX_ITEMS: Final = 64
_PREFIX: Final = domain("feed")
_CHAT_PREFIX: Final = b"tilenode/chat/v1\0"
_CHAT_ID: Final = re.compile(r"[0-9a-f]{32}", re.ASCII)


@dataclass(frozen=True, slots=True)
class ChatBody:
    """Begins a chat; the chat's id is derived from the entry's author and sequence, so nobody can begin it twice."""

    title: Redacted


@dataclass(frozen=True, slots=True)
class MessageBody:
    """One line of a chat; `model` is the name of the model that wrote it, empty for a person."""

    role: str
    content: Redacted
    model: str = ""


@dataclass(frozen=True, slots=True)
class EditBody:
    """New content for the message whose entry id is `target`."""

    target: EntryId
    content: Redacted


@dataclass(frozen=True, slots=True)
class DeleteBody:
    """Hides the message whose entry id is `target`, or the whole chat when that entry began it; never undone."""

    target: EntryId


@dataclass(frozen=True, slots=True)
class RenameBody:
    """A new title for the chat."""

    title: Redacted


@dataclass(frozen=True, slots=True)
class DeviceBody:
    """The author vouches for a device of the same person (`added`), or takes that back.

    `last` is the highest sequence of that device which the author held when taking it back; 0 when vouching.
    """

    did: DeviceId
    nickname: str
    added: bool
    last: int = 0


Body = ChatBody | MessageBody | EditBody | DeleteBody | RenameBody | DeviceBody


class Kind(StrEnum):
    """What an entry says; the word on the wire."""

    CHAT = "chat"
    MESSAGE = "message"
    EDIT = "edit"
    DELETE = "delete"
    RENAME = "rename"
    DEVICE = "device"


_KINDS: Final[dict[type[Body], Kind]] = {
    ChatBody: Kind.CHAT,
    MessageBody: Kind.MESSAGE,
    EditBody: Kind.EDIT,
    DeleteBody: Kind.DELETE,
    RenameBody: Kind.RENAME,
    DeviceBody: Kind.DEVICE,
}


@dataclass(frozen=True, slots=True)
class Head:
    """The newest entry of a feed that somebody holds; sequence 0 for a feed without entries."""

    sequence: int
    id: EntryId


EMPTY_HEAD: Final = Head(0, EntryId("00" * _ID_BYTES))


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry; `encoded` is its only form on disk and wire, `id` names it for ever."""

    author: DeviceId
    sequence: int
    previous: EntryId
    time_ms: int
    chat: ChatId
    body: Body
    id: EntryId
    encoded: bytes = field(repr=False)

    @property
    def kind(self) -> Kind:
        """What the entry says."""
        return _KINDS[type(self.body)]

    @property
    def target(self) -> EntryId | None:
        """The entry that this one edits or deletes, if it does."""
        return self.body.target if isinstance(self.body, EditBody | DeleteBody) else None

    @property
    def rank(self) -> tuple[int, str, int]:
        """The order of entries in a view and among rivals: hybrid time, author, sequence."""
        return self.time_ms, self.author, self.sequence


class Placement(Enum):
    """Where a received entry stands to the feed that is held."""

    NEXT = "next"
    HELD = "held"
    GAP = "gap"
    FORK = "fork"


def place(entry: Entry, head: Head, held: EntryId | None) -> Placement:
    """Return where `entry` stands; `held` is the id of the entry with its sequence in the held feed, if there is one.

    Two signed entries of one sequence, or one that names another predecessor than the one held, prove a fork.
    """
    if entry.sequence <= head.sequence:
        return Placement.HELD if held == entry.id else Placement.FORK
    if entry.sequence > head.sequence + 1:
        return Placement.GAP
    return Placement.NEXT if entry.previous == head.id else Placement.FORK


def chat_id_of(author: DeviceId, sequence: int) -> ChatId:
    """Return the id of the chat that the entry `sequence` of `author` begins: 32 hex characters."""
    digest = hashlib.sha256(_CHAT_PREFIX + f"{author}\n{sequence}".encode("ascii")).hexdigest()
    return ChatId(digest[: 2 * _CHAT_BYTES])


def hybrid_time_ms(now_ms: int, newest_ms: int) -> int:
    """Return the time of a new entry: the clock's, or just after `newest_ms` where a clock stands behind it."""
    return min(max(now_ms, newest_ms + 1, 0), MAX_TIME_MS)


def sign_entry(key: DeviceKey, head: Head, time_ms: int, chat: ChatId, body: Body) -> Entry:
    """Return the entry that follows `head` in the feed of `key`.

    Raises:
        ContentTooLarge: a text of the body is over its cap.
        EntryInvalid: a field is out of its bounds.
    """
    _check_texts(body)
    content = _encode_content(key.did, head, time_ms, chat, body)
    return parse_entry(content + key.sign(_PREFIX + content))


def receive_entry(data: bytes) -> Entry:
    """Return the entry in `data`, its structure and its author's signature verified.

    Raises:
        EntryInvalid: too large, not canonical, or a field that is missing, unknown or out of its bounds.
        EntrySignatureInvalid: not signed by its author.
    """
    entry = parse_entry(data)
    content, signature = data[:-SIGNATURE_BYTES], data[-SIGNATURE_BYTES:]
    try:
        verify(entry.author, _PREFIX + content, signature)
    except SignatureInvalid:
        raise EntrySignatureInvalid(entry.author, entry.sequence) from None
    return entry


def parse_entry(data: bytes) -> Entry:
    """Return the entry in `data` without verifying its signature: for entries that were verified before.

    Raises:
        EntryInvalid: as `receive_entry`.
    """
    if len(data) > MAX_ENTRY_BYTES:
        raise EntryInvalid(f"{len(data)} bytes, at most {MAX_ENTRY_BYTES} are allowed")
    if len(data) <= SIGNATURE_BYTES:
        raise EntryInvalid(f"{len(data)} bytes are too few")
    content = data[:-SIGNATURE_BYTES]
    try:
        return _parse_content(Fields(decode(content, MAX_ENTRY_BYTES, _MAX_ITEMS), "entry"), content, data)
    except (CodecInvalid, FieldInvalid, DidInvalid) as error:
        raise EntryInvalid(str(error)) from error


def _parse_content(fields: Fields, content: bytes, data: bytes) -> Entry:
    fields.int("v", VERSION, VERSION)
    author = parse_did(fields.text("author", max=_MAX_DID_BYTES))
    sequence = fields.int("seq", 1, MAX_SEQUENCE)
    previous = _entry_id(fields, "prev")
    if (sequence == 1) != (previous == EMPTY_HEAD.id):
        raise fields.invalid("prev", "32 zero bytes stand in the first entry and nowhere else")
    chat = ChatId(fields.bytes("chat", max=_CHAT_BYTES).hex())
    body = _parse_body(fields)
    _check_chat(fields, author, sequence, chat, body)
    time_ms = fields.int("time_ms", 0, MAX_TIME_MS)
    fields.done()
    entry_id = EntryId(hashlib.sha256(_PREFIX + content).hexdigest())
    return Entry(author, sequence, previous, time_ms, chat, body, entry_id, data)


def _parse_body(fields: Fields) -> Body:
    kind = fields.text("kind", max=16)
    body = fields.fields("body")
    parsed: Body
    match kind:
        case Kind.CHAT:
            parsed = ChatBody(Redacted(body.text("title", max=MAX_TITLE_BYTES)))
        case Kind.MESSAGE:
            content = Redacted(body.text("content", max=MAX_CONTENT_BYTES))
            parsed = MessageBody(_role(body), content, body.text("model", max=MAX_MODEL_BYTES))
        case Kind.EDIT:
            parsed = EditBody(_entry_id(body, "target"), Redacted(body.text("content", max=MAX_CONTENT_BYTES)))
        case Kind.DELETE:
            parsed = DeleteBody(_entry_id(body, "target"))
        case Kind.RENAME:
            parsed = RenameBody(Redacted(body.text("title", max=MAX_TITLE_BYTES)))
        case Kind.DEVICE:
            parsed = _parse_device(body)
        case _:
            raise fields.invalid("kind", "not a kind that this version knows")
    body.done()
    return parsed


def _parse_device(body: Fields) -> DeviceBody:
    did = parse_did(body.text("did", max=_MAX_DID_BYTES))
    added = body.bool("added")
    last = body.int("last", 0, 0 if added else MAX_SEQUENCE)
    return DeviceBody(did, body.text("nickname", max=MAX_NICKNAME_BYTES), added, last)


def _role(body: Fields) -> str:
    role = body.text("role", max=16)
    if role not in ROLES:
        raise body.invalid("role", "not system, user, assistant or tool")
    return role


def _entry_id(fields: Fields, name: str) -> EntryId:
    return EntryId(fields.bytes(name, length=_ID_BYTES).hex())


def _check_chat(fields: Fields, author: DeviceId, sequence: int, chat: ChatId, body: Body) -> None:
    match body:
        case DeviceBody():
            fits = chat == NO_CHAT
        case ChatBody():
            fits = chat == chat_id_of(author, sequence)
        case _:
            fits = _CHAT_ID.fullmatch(chat) is not None
    if not fits:
        raise fields.invalid("chat", "not the chat that an entry of this kind belongs to")


def _encode_content(author: DeviceId, head: Head, time_ms: int, chat: ChatId, body: Body) -> bytes:
    try:
        return encode(
            {
                "v": VERSION,
                "author": author,
                "seq": head.sequence + 1,
                "prev": bytes.fromhex(head.id),
                "time_ms": time_ms,
                "chat": bytes.fromhex(chat),
                "kind": _KINDS[type(body)].value,
                "body": _body_fields(body),
            }
        )
    except NotEncodable as error:
        raise EntryInvalid(str(error)) from error


def _body_fields(body: Body) -> dict[str, object]:
    match body:
        case ChatBody(title) | RenameBody(title):
            return {"title": title.reveal()}
        case MessageBody(role, content, model):
            return {"role": role, "content": content.reveal(), "model": model}
        case EditBody(target, content):
            return {"target": bytes.fromhex(target), "content": content.reveal()}
        case DeleteBody(target):
            return {"target": bytes.fromhex(target)}
        case DeviceBody(did, nickname, added, last):
            return {"did": did, "nickname": nickname, "added": added, "last": last}


def _check_texts(body: Body) -> None:
    match body:
        case ChatBody(title) | RenameBody(title):
            _check_text("title", title, MAX_TITLE_BYTES)
        case MessageBody(_, content, _) | EditBody(_, content):
            _check_text("message", content, MAX_CONTENT_BYTES)
        case _:
            return


def _check_text(what: str, text: Redacted, cap_bytes: int) -> None:
    if text.size_bytes > cap_bytes:
        raise ContentTooLarge(what, text.size_bytes, cap_bytes)
