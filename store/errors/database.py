"""The encrypted database, and the peers and chats in it.

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
├── FeedBehind
├── FeedBroken
├── DeviceRemoved
├── PeerUnknown
└── PeerAmbiguous
"""

from pathlib import Path

from store.errors.base import StoreError


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

    hint = "list the chats with: tilenode chats"

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


class FeedBehind(StoreError):
    """Another own device holds more of this device's feed than is here: the database was put back from a backup.

    What was written since comes back by sync; a line written before that would be a second history.
    """

    hint = "fetch it first: tilenode sync; if that brings nothing, unlink the device that says so"

    def __init__(self, author: str, held: int, peer: str, claimed: int) -> None:
        super().__init__(f"feed of {author}: {held} entries are here, {peer} says it holds {claimed}")
        self.author = author
        self.held = held
        self.peer = peer
        self.claimed = claimed


class FeedBroken(StoreError):
    """A feed as kept is not the chain that its author signed: the database was changed by another program."""

    hint = "restore node.db from a backup; chats also come back by sync from another linked device"

    def __init__(self, author: str, sequence: int) -> None:
        super().__init__(f"feed of {author}: the chain breaks after entry {sequence}")
        self.author = author
        self.sequence = sequence


class DeviceRemoved(StoreError):
    """This device was removed from the chats here; nobody's introduction brings it back, only a new link made here."""

    hint = "link it again as an own device: tilenode link enable"

    def __init__(self, did: str, nickname: str) -> None:
        super().__init__(f"device {nickname} ({did}): was removed from the chats here")
        self.did = did
        self.nickname = nickname


class PeerUnknown(StoreError):
    """No linked peer has this nickname or DID."""

    hint = "see who is linked: tilenode link list-peers"

    def __init__(self, text: str) -> None:
        super().__init__(f"no linked peer is called {text[:80]!r}")
        self.text = text


class PeerAmbiguous(StoreError):
    """Several linked peers have this nickname, or a DID that begins so."""

    def __init__(self, text: str, dids: tuple[str, ...]) -> None:
        super().__init__(f"{text[:80]!r} fits {len(dids)} linked peers: {', '.join(dids)}")
        self.text = text
        self.dids = dids
        self.hint = f"name one by its DID: {dids[0]}"
