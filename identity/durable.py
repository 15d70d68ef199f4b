"""Small files that survive a crash: each is replaced whole, and is on the disk before the call returns."""

import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from identity.errors import SecretsFileFailed

PRIVATE: Final = 0o600


def replace_file(path: Path, content: bytes, mode: int = PRIVATE) -> None:
    """Put `content` at `path`, so that at every moment the old or the new content is there, and no mixture.

    Temporary file in the same directory → flush to the disk → rename → flush of the directory.

    Raises:
        SecretsFileFailed: `path` is then as it was.
    """
    with file_errors(path):
        make_directory(path.parent)
        _replace(path, content, mode)


def _replace(path: Path, content: bytes, mode: int) -> None:
    for leftover in path.parent.glob(f".{path.name}.*.tmp"):  # of a process that was killed; a home has one writer
        leftover.unlink(missing_ok=True)
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


def read_file(path: Path, max_bytes: int) -> bytes | None:
    """Return the content of `path`, or None where there is no such file.

    Raises:
        SecretsFileFailed: more than `max_bytes`, or the system says no.
    """
    with file_errors(path):
        try:
            with path.open("rb") as file:
                content = file.read(max_bytes + 1)
        except FileNotFoundError:
            return None
    if len(content) > max_bytes:
        raise SecretsFileFailed(path, f"more than {max_bytes} bytes")
    return content


@contextmanager
def file_errors(path: Path) -> Iterator[None]:
    """Turn what the system says about `path` into a named error."""
    try:
        yield
    except OSError as error:
        raise SecretsFileFailed(path, error.strerror or type(error).__name__) from error


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
