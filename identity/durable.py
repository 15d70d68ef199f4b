"""Small files that survive a crash: each is replaced whole, and is on the disk before the call returns."""

import os
import secrets
import sys
from pathlib import Path

PRIVATE: int = 0o600


def replace_file(path: Path, content: bytes, mode: int = PRIVATE) -> None:
    """Put `content` at `path`, so that at every moment the old or the new content is there, and no mixture.

    Temporary file in the same directory → flush to the disk → rename → flush of the directory.

    Raises:
        OSError: as the system says; `path` is then as it was.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), mode)
    try:
        with open(descriptor, "wb") as file:  # noqa: PTH123 - it is opened by descriptor, to create it with its mode
            file.write(content)
            file.flush()
            sync_file(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def remove_leftovers(directory: Path) -> None:
    """Remove temporary files that a crash left behind in `directory`; only its one writer may call this."""
    for leftover in directory.glob(".*.tmp"):
        leftover.unlink(missing_ok=True)


def make_directory(path: Path, mode: int = 0o700) -> None:
    """Make `path` and what is missing above it, each entry flushed to the disk."""
    if path.is_dir():
        return
    make_directory(path.parent, mode)
    path.mkdir(mode=mode, exist_ok=True)
    sync_directory(path.parent)


def sync_file(descriptor: int) -> None:
    """Return when the file's bytes are on the medium; macOS needs more than fsync for that."""
    if sys.platform == "darwin":
        import fcntl

        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
    else:
        os.fsync(descriptor)


def sync_directory(path: Path) -> None:
    """Return when the directory's entries are on the medium."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
