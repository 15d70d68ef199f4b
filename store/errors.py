"""Named errors of `store`.

The message says what failed, where and what was found; `hint` says what to do about it.

    StoreError
    ├── DatabaseError
    │   ├── DatabaseKeyInvalid
    │   ├── DatabaseMissing
    │   ├── DatabaseKeyWrong
    │   ├── DatabaseDamaged
    │   ├── DatabaseTooNew
    │   ├── DatabaseFull
    │   └── DatabaseFailed
    ├── ChatUnknown
    ├── ChatAmbiguous
    ├── EntryUnknown
    ├── FeedForked
    └── DeviceRemoved
"""

from pathlib import Path


class StoreError(Exception):
    """Base of every error that `store` raises on purpose."""

    hint: str = ""


class DatabaseError(StoreError):
    """Something is wrong with the encrypted database."""


class DatabaseKeyInvalid(DatabaseError):
    """A database key is exactly 32 bytes."""

    def __init__(self, length: int) -> None:
        super().__init__(f"database key: expected 32 bytes, got {length}")
        self.length = length


class DatabaseMissing(DatabaseError):
    """There is a key for a database, but no database."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"database {path}: no such file")
        self.path = path
        self.hint = f"put {path.name} back from a backup; the key alone cannot bring the chats back"


class DatabaseKeyWrong(DatabaseError):
    """The file does not open under this key; it is left as it is."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"database {path}: not a database under this key")
        self.path = path
        self.hint = (
            "restore the keychain item or vault that belongs to this data directory, "
            f"or move {path.name} away to start without its chats"
        )


class DatabaseDamaged(DatabaseError):
    """The file is empty, or a page of it does not authenticate."""

    def __init__(self, path: Path, found: str) -> None:
        super().__init__(f"database {path}: damaged: {found}")
        self.path = path
        self.hint = f"restore {path.name} from a backup; chats also come back by sync from another linked device"


class DatabaseTooNew(DatabaseError):
    """A newer version of the program has changed the schema."""

    hint = "use the newer tilenode that last opened this data directory"

    def __init__(self, found: int, known: int) -> None:
        super().__init__(f"database schema {found}: this program knows up to {known}")
        self.found = found
        self.known = known


class DatabaseFull(DatabaseError):
    """There is no space left for the database; what was being written was not kept."""

    hint = "free some disk space and try again; nothing that was kept before is lost"

    def __init__(self, path: Path) -> None:
        super().__init__(f"database {path}: disk full")
        self.path = path


class DatabaseFailed(DatabaseError):
    """SQLite reports a failure that has no name of its own here."""

    def __init__(self, path: Path, found: str) -> None:
        super().__init__(f"database {path}: {found}")
        self.path = path
        self.found = found


class ChatUnknown(StoreError):
    """There is no such chat here, or it was deleted."""

    hint = "list the chats with: tilenode data"

    def __init__(self, text: str) -> None:
        super().__init__(f"chat {text[:40]!r}: not found")
        self.text = text


class ChatAmbiguous(StoreError):
    """More than one chat begins with these characters."""

    hint = "give more characters of the chat's id"

    def __init__(self, text: str, count: int) -> None:
        super().__init__(f"chat {text[:40]!r}: {count} chats begin like this")
        self.text = text
        self.count = count


class EntryUnknown(StoreError):
    """There is no such line to edit or delete."""

    def __init__(self, entry: str) -> None:
        super().__init__(f"chat line {entry[:64]!r}: not found")
        self.entry = entry


class FeedForked(StoreError):
    """This device's own feed continued in two ways: its data directory was copied or restored. Nothing was written."""

    hint = (
        "this identity is in use twice: keep the other copy, and start here with a new data directory (TILENODE_HOME) "
        "and link it again"
    )

    def __init__(self, author: str, sequence: int) -> None:
        super().__init__(f"feed of {author}: two entries follow entry {sequence}")
        self.author = author
        self.sequence = sequence


class DeviceRemoved(StoreError):
    """This device was removed here; removal is for ever, so that a lost device cannot come back by introduction."""

    hint = "give that device a new identity (a new TILENODE_HOME) and link it again"

    def __init__(self, did: str, nickname: str) -> None:
        super().__init__(f"device {nickname} ({did}): was removed here")
        self.did = did
        self.nickname = nickname
