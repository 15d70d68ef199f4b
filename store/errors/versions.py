"""Names and their versions: unknown, taken, kept.

StoreError
├── RefCorrupt
├── ModelUnknown
├── LeaseCorrupt
├── LeaseTooLarge
├── VersionTaken
├── VersionUnknown
├── VersionAmbiguous
├── VersionPinned
├── VersionCurrent
├── HistoryFull
├── CollectRefused
├── ForeignUnknown
├── ForeignAmbiguous
└── ForeignUnusable
"""

from pathlib import Path

from protocol.digest import Digest, short_digest
from store.errors.base import StoreError


class RefCorrupt(StoreError):
    """The file that says which manifest a name stands for cannot be read."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"ref {path}: {reason}")
        self.path = path
        self.reason = reason
        self.hint = "give the name a model again: tilenode create NAME, or tilenode pull NAME"


class ModelUnknown(StoreError):
    """No model has this name."""

    def __init__(self, name: str, nearest: str | None = None) -> None:
        super().__init__(f"model {name[:100]!r}: not in the store{f'; did you mean {nearest}?' if nearest else ''}")
        self.name = name
        self.nearest = nearest
        self.hint = "see what there is: tilenode list"


class LeaseCorrupt(StoreError):
    """What a running process keeps cannot be read, so nothing may be removed."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"lease {path}: {reason}")
        self.path = path
        self.reason = reason
        self.hint = "end the process whose number the file's name begins with, then try again"


class LeaseTooLarge(StoreError):
    """One process keeps more blobs than its lease file may name."""

    hint = "do fewer pulls and builds at a time"

    def __init__(self, count: int, max_count: int) -> None:
        super().__init__(f"lease: {count} blobs, at most {max_count} are kept by one process")
        self.count = count
        self.max_count = max_count


class VersionTaken(StoreError):
    """A release stands for its manifest for ever; another one needs another release."""

    def __init__(self, name: str, held: Digest, offered: Digest) -> None:
        super().__init__(f"release {name}: is manifest {short_digest(held)}, not {short_digest(offered)}")
        self.name = name
        self.held = held
        self.offered = offered
        self.hint = f"choose another version after the @, or remove this one first: tilenode rm {name}"


class VersionUnknown(StoreError):
    """A name has no such version."""

    def __init__(self, name: str, version: str) -> None:
        super().__init__(f"model {name[:100]!r}: no version {version[:80]!r}")
        self.name = name
        self.version = version
        self.hint = f"see its versions: tilenode history {name}"


class VersionAmbiguous(StoreError):
    """Several versions of a name begin with these characters."""

    def __init__(self, name: str, version: str, count: int) -> None:
        super().__init__(f"model {name[:100]!r}: {count} versions begin with {version[:80]!r}")
        self.name = name
        self.version = version
        self.count = count
        self.hint = f"give more characters, or the number: tilenode history {name}"


class VersionPinned(StoreError):
    """A pinned version is not forgotten."""

    def __init__(self, name: str, number: int) -> None:
        super().__init__(f"model {name}: version {number} is pinned")
        self.name = name
        self.number = number
        self.hint = f"unpin it first: tilenode unpin {name} {number}"


class VersionCurrent(StoreError):
    """What a name stands for now cannot be taken from under it."""

    def __init__(self, name: str, number: int) -> None:
        super().__init__(f"model {name}: version {number} is what the name stands for")
        self.name = name
        self.number = number
        self.hint = f"go back first: tilenode rollback {name}; or remove the whole name: tilenode rm {name}"


class HistoryFull(StoreError):
    """Every version that a name can remember is pinned."""

    def __init__(self, name: str, count: int) -> None:
        super().__init__(f"model {name}: all {count} versions are pinned, there is no room for another one")
        self.name = name
        self.count = count
        self.hint = f"unpin one: tilenode unpin {name} NUMBER"


class CollectRefused(StoreError):
    """What is needed cannot be told, so nothing is removed."""

    def __init__(self, what: str, reason: str, hint: str) -> None:
        super().__init__(f"nothing is removed while {what} cannot be read: {reason}")
        self.what = what
        self.reason = reason
        self.hint = hint


class ForeignUnknown(StoreError):
    """No other program has put a model of this reference or digest into the store."""

    hint = "see what other programs put here: tilenode list"

    def __init__(self, text: str) -> None:
        super().__init__(f"nothing that another program put here is called {text[:80]!r}")
        self.text = text


class ForeignAmbiguous(StoreError):
    """Several models that other programs put into the store are called so."""

    hint = "name it by more of its digest, as shown by: tilenode list"

    def __init__(self, text: str, count: int) -> None:
        super().__init__(f"{count} models that other programs put here are called {text[:80]!r}")
        self.text = text
        self.count = count


class ForeignUnusable(StoreError):
    """What another program put into the store is no whole model."""

    hint = "copy it here again, whole; or fetch it: tilenode pull NAME --from PEER"

    def __init__(self, digest: Digest, reason: str) -> None:
        super().__init__(f"manifest {short_digest(digest)}: {reason}")
        self.digest = digest
        self.reason = reason
