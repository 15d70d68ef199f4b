"""The transparency log and the evidence against others.

StoreError
├── LogDamaged
├── LogEntryUnknown
├── LogExportRefused
├── LogRolledBack
├── LogForked
└── EvidenceDamaged
"""

from pathlib import Path

from store.errors.base import StoreError


class LogDamaged(StoreError):
    """A file of the log is missing or does not hash to what was signed."""

    hint = "restore the log directory from its newest copy; an older copy is noticed and refused"

    def __init__(self, directory: Path, reason: str) -> None:
        super().__init__(f"log {directory}: {reason}")
        self.directory = directory
        self.reason = reason


class LogEntryUnknown(StoreError):
    """The log does not have that many entries."""

    def __init__(self, asked: int, size: int) -> None:
        super().__init__(f"log: entry or size {asked} was asked for, it has {size} entries")
        self.asked = asked
        self.size = size


class LogExportRefused(StoreError):
    """A log is exported into a new or empty directory only."""

    def __init__(self, directory: Path) -> None:
        super().__init__(f"export to {directory}: something is there already")
        self.directory = directory
        self.hint = "name a directory that does not exist yet"


class LogRolledBack(StoreError):
    """The log is older than what this device has signed; signing on would show two logs to the world."""

    hint = "this home was restored or copied from an older state: start a new identity with another TILENODE_HOME"

    def __init__(self, directory: Path, reason: str) -> None:
        super().__init__(f"log {directory}: set back: {reason}")
        self.directory = directory
        self.reason = reason


class LogForked(StoreError):
    """A device has signed two logs that cannot both be true; nothing more is accepted from it."""

    hint = "its device or a copy of its key misbehaves: unlink it, and link again only with a new identity"

    def __init__(self, origin: str, sizes: tuple[int, int]) -> None:
        super().__init__(f"log of {origin}: forked, its checkpoints of {sizes[0]} and {sizes[1]} entries disagree")
        self.origin = origin
        self.sizes = sizes


class EvidenceDamaged(StoreError):
    """What is kept about another device's log cannot be read any more."""

    hint = "restore this file from a backup; without it a change of that log's past would go unnoticed"

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason
