"""What a directory's file system can do, found out by doing it: before anything large is copied there."""

import errno
import fcntl
import mmap
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from store.disk import flush_directory, flush_file
from store.errors import FileTooLarge, MoveRefused

_PROBE: Final = ".tilenode-probe"
_PROBE_RENAMED: Final = ".tilenode-probe-2"
# What a process that was killed while it tried may have left.
PROBE_FILES: Final = frozenset({_PROBE, _PROBE_RENAMED})
_RENAMED: Final = f"{_PROBE}-2"
PROBES: Final = frozenset({_PROBE, _RENAMED})  # what a kill may leave; the next probe takes it over
_PAGE: Final = 4096


def require_operations(directory: Path, *, largest: int) -> None:
    """Accept a directory, made if it is not there, whose file system can hold a store with a file of `largest` bytes.

    Raises:
        MoveRefused: it cannot be written to, or lacks locks, renames, flushes or shared memory on files.
        FileTooLarge: no file there can be so large.
    """
    made = not directory.exists()
    try:
        if made:
            directory.mkdir(mode=0o700)
        _try_all(directory, largest)
    except OSError as error:
        raise MoveRefused(directory, f"cannot hold a store: {(error.strerror or str(error)).lower()}") from error
    finally:
        if made:
            with suppress(OSError):  # not empty: it is named above
                directory.rmdir()


def require_file_size(directory: Path, size: int) -> None:
    """Accept a directory whose file system takes a file of `size` bytes; nothing of that size is written.

    Raises:
        FileTooLarge: it does not, as FAT32 from 4 GiB on.
        OSError: the directory cannot be written to.
    """
    path = directory / _PROBE
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        if sys.platform == "darwin":
            bits = os.fpathconf(descriptor, "PC_FILESIZEBITS")
            if size.bit_length() >= bits:
                raise FileTooLarge(directory, size)
        else:
            # Seeking beyond what the file system can hold is refused, and costs no block.
            os.lseek(descriptor, size, os.SEEK_SET)
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.EFBIG, errno.EOVERFLOW):
            raise FileTooLarge(directory, size) from error
        raise
    finally:
        os.close(descriptor)
        path.unlink()


def _try_all(directory: Path, largest: int) -> None:
    require_file_size(directory, largest)
    path, other = directory / _PROBE, directory / _RENAMED
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        for attempt in _ATTEMPTS:
            attempt(descriptor)
        other.touch()
        path.replace(other)
        other.chmod(0o444)
        flush_directory(directory)
    finally:
        os.close(descriptor)
        path.unlink(missing_ok=True)
        other.unlink(missing_ok=True)


def _lock(descriptor: int) -> None:
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fcntl.flock(descriptor, fcntl.LOCK_UN)


def _lock_range(descriptor: int) -> None:
    fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # what SQLite locks with
    fcntl.lockf(descriptor, fcntl.LOCK_UN)


def _share(descriptor: int) -> None:
    os.ftruncate(descriptor, _PAGE)
    with mmap.mmap(descriptor, _PAGE) as memory:  # what SQLite's write-ahead log needs
        memory[:4] = b"tile"


def _flush(descriptor: int) -> None:
    flush_file(descriptor)


_ATTEMPTS: Final[tuple[Callable[[int], None], ...]] = (_lock, _lock_range, _share, _flush)
