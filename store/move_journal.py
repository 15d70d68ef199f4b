"""Where a store that is being moved lies now: one small file in the home, there only while a move is unfinished (0027).

Kept apart from the move itself: every command reads it, and few move anything.
"""

import os
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from protocol.canonical_json import decode_json, encode_json
from protocol.errors import JsonInvalid
from store.disk import PRIVATE, disk_errors, flush_directory, flush_file
from store.errors import MoveJournalInvalid

VERSION: Final = 1
MAX_JOURNAL_BYTES: Final = 16_384
JOURNAL_FILE: Final = "store-move.json"


class How(StrEnum):
    """One rename on the same file system, or every file copied to another one."""

    RENAME = "rename"
    COPY = "copy"


@dataclass(frozen=True)
class Move:
    """A move that was begun: both absolute paths, and how."""

    source: Path
    target: Path
    how: How


def read_move(home: Path) -> Move | None:
    """Return the unfinished move of the store of `home`; None where there is none.

    Raises:
        MoveJournalInvalid: there is a journal, and it cannot be read.
    """
    path = home / JOURNAL_FILE
    try:
        with path.open("rb") as file:
            content = file.read(MAX_JOURNAL_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise MoveJournalInvalid(path, error.strerror or "cannot be read") from error
    return decode_move(path, content)


def decode_move(path: Path, content: bytes) -> Move:
    """Return the move that a journal's `content` says; `path` names it in errors.

    Raises:
        MoveJournalInvalid: another version or other fields, relative paths, more than 16 KiB.
    """
    try:
        document = decode_json(content, MAX_JOURNAL_BYTES, "journal")
    except JsonInvalid as error:
        raise MoveJournalInvalid(path, error.reason) from None
    match document:
        case {"version": int(version), "source": str(source), "target": str(target), "how": str(how), **others}:
            if others or type(version) is not int or version != VERSION:
                raise MoveJournalInvalid(path, f"version {version} with {len(others)} unknown fields")
        case _:
            raise MoveJournalInvalid(path, "expected version, source, target and how")
    if how not in tuple(How) or not all(_is_plain(text) for text in (source, target)) or source == target:
        raise MoveJournalInvalid(path, "expected rename or copy between two absolute paths")
    return Move(Path(source), Path(target), How(how))


def write_move(home: Path, move: Move) -> None:
    """Write the journal down, durably: from now on a killed move is found.

    Raises:
        DiskFull, DiskFailed: there is no journal, or the old one stands.
    """
    path = home / JOURNAL_FILE
    content = encode_json(
        {"version": VERSION, "source": str(move.source), "target": str(move.target), "how": move.how.value}
    )
    fresh = path.with_name(f"{JOURNAL_FILE}.new")  # one name: whoever writes it holds the home
    with disk_errors(path, len(content)):
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, PRIVATE)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            flush_file(file.fileno())
        fresh.replace(path)
        flush_directory(home)


def remove_move(home: Path) -> None:
    """Remove the journal: the move is finished, or given up."""
    path = home / JOURNAL_FILE
    with disk_errors(path):
        path.unlink(missing_ok=True)
        flush_directory(home)


def locate_store(home: Path, set_path: Path) -> Path:
    """Return where the store lies: where the setting says, or where a killed move had renamed it to by then.

    Raises:
        MoveJournalInvalid: a move was begun, and how far it got cannot be told.
    """
    move = read_move(home)
    if move is not None and move.how is How.RENAME and move.source == set_path and was_renamed(move):
        return move.target
    return set_path


def was_renamed(move: Move) -> bool:
    """Return whether the one rename of a move has happened: the store's marker is over there and not here."""
    return not (move.source / "oci-layout").exists() and (move.target / "oci-layout").exists()


def _is_plain(text: str) -> bool:
    return text.startswith("/") and "\0" not in text and os.path.normpath(text) == text
