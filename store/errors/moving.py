"""Moving the store.

StoreError
├── MoveRefused
├── MoveUnfinished
├── MoveJournalInvalid
└── StoreAway
"""

from pathlib import Path

from store.errors.base import StoreError


class MoveRefused(StoreError):
    """The store cannot be moved to this place; it is where it was."""

    hint = "name a new directory on a local disk: tilenode data set-path DIR"

    def __init__(self, target: Path, reason: str) -> None:
        super().__init__(f"{target}: {reason}")
        self.target = target
        self.reason = reason


class MoveUnfinished(StoreError):
    """An earlier move to another place was not finished."""

    def __init__(self, source: Path, target: Path) -> None:
        super().__init__(f"the move of the store from {source} to {target} is not finished")
        self.source = source
        self.target = target
        self.hint = f"finish it: tilenode data set-path {target}; or give it up: tilenode data set-path {source}"


class MoveJournalInvalid(StoreError):
    """The file that says where a killed move goes on cannot be read."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.hint = f"move {path} away; the store is then where settings.json says, or {path.parent / 'store'}"


class StoreAway(StoreError):
    """The directory to which the store was moved is not there: its disk is not mounted."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"store {path}: not there, nothing is made anew in its place")
        self.path = path
        self.hint = "connect or mount its disk and try again"
