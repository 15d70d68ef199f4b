"""Writing so that it is there after a power cut, or not at all."""

import errno
import fcntl
import io
import itertools
import os
import shutil
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Final

from store.errors import DiskFailed, DiskFull

SPACE_MARGIN_BYTES: Final = 64 << 20
READ_ONLY: Final = 0o444
PRIVATE: Final = 0o600

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_counter = itertools.count(1)


def flush_file(descriptor: int) -> None:
    """Return when the file's bytes and metadata are on the disk itself."""
    if sys.platform == "darwin":
        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
    else:
        os.fsync(descriptor)


def flush_data(descriptor: int) -> None:
    """Return when the file's bytes are on the disk itself; times may lag."""
    if sys.platform == "darwin":
        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
    else:
        os.fdatasync(descriptor)


def flush_directory(directory: Path) -> None:
    """Return when the names in `directory` are on the disk itself."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directories(directory: Path) -> None:
    """Make `directory` and what is missing above it, durably, for this user alone."""
    if directory.is_dir():
        return
    make_directories(directory.parent)
    directory.mkdir(mode=0o700, exist_ok=True)
    flush_directory(directory.parent)


def open_regular(path: Path) -> io.FileIO:
    """Return `path` opened for reading when it is a regular file itself, no link to one.

    Raises:
        OSError: not there, a symbolic link, or no regular file.
    """
    # Non-blocking: a pipe under this name must not stop the reader before it is refused.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return io.FileIO(descriptor, "rb")


@contextmanager
def disk_errors(place: Path, missing_bytes: int = 0) -> Iterator[None]:
    """Turn what the operating system says about `place` into this package's errors.

    `missing_bytes` is what was still to be written, for the message.

    Raises:
        DiskFull: no space, quota or file size limit left.
        DiskFailed: anything else.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise DiskFull(place, missing_bytes, free_bytes(place)) from error
        raise DiskFailed(place, error) from error


def free_bytes(place: Path) -> int:
    """Return how many bytes this user may still write beside `place`; 0 when that cannot be told."""
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        status = os.statvfs(place)
    except OSError:
        return 0
    return status.f_bavail * status.f_frsize


def require_space(place: Path, needed_bytes: int) -> None:
    """Accept when `needed_bytes` and a margin of 64 MiB fit on the disk of `place`.

    Raises:
        DiskFull: they do not; it says how much is missing.
    """
    free = free_bytes(place)
    if free < needed_bytes + SPACE_MARGIN_BYTES:
        raise DiskFull(place, needed_bytes + SPACE_MARGIN_BYTES - free, free)


def is_at(path: Path, descriptor: int) -> bool:
    """Return whether the open file still is the one under this name."""
    try:
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


class Temporary:
    """A new file in `directory` under a name nobody uses, locked while it is open; gone unless it was renamed.

    The lock tells a file that somebody is writing from one that a killed process left behind.
    """

    def __init__(self, directory: Path) -> None:
        while True:
            self.path = directory / f"{os.getpid()}-{next(_counter)}"
            try:
                flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
                descriptor = os.open(self.path, flags, PRIVATE)
            except FileExistsError:  # left by a killed process that had this number
                continue
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if is_at(self.path, descriptor):
                break
            os.close(descriptor)  # taken for a leftover by another process, before it was locked
        self.file = io.FileIO(descriptor, "r+b")
        self._past_cache = False

    def write_past_cache(self) -> None:
        """Write from now on to the disk itself, where this file system can: a large file pushes no other out of memory.

        It takes whole pages of memory that begin on a page; from the first `write` of anything else on, the page
        cache is used again.
        """
        if sys.platform == "linux":
            with suppress(OSError):  # not on this file system, so through the page cache
                self._set_past_cache(True)

    def write(self, data: bytes | memoryview) -> None:
        """Write all of `data`."""
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(self.file.fileno(), rest) :]
            except OSError as error:
                if error.errno != errno.EINVAL or not self._past_cache:
                    raise
                self._set_past_cache(False)

    def _set_past_cache(self, wanted: bool) -> None:
        flags = fcntl.fcntl(self.file.fileno(), fcntl.F_GETFL)
        flags = flags | os.O_DIRECT if wanted else flags & ~os.O_DIRECT
        fcntl.fcntl(self.file.fileno(), fcntl.F_SETFL, flags)
        self._past_cache = wanted

    def rename(self, target: Path, mode: int) -> None:
        """Make the file durable and give it its final name, replacing what stood there."""
        os.fchmod(self.file.fileno(), mode)
        flush_file(self.file.fileno())
        self.path.replace(target)
        flush_directory(target.parent)

    def __enter__(self) -> "Temporary":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with suppress(OSError):  # a leftover, which the next start removes
            self.path.unlink(missing_ok=True)
        self.file.close()


def replace_file(temporary_directory: Path, target: Path, content: bytes, mode: int = PRIVATE) -> None:
    """Give `target` this content: a reader and a power cut see the old file or the new one, never a part.

    Raises:
        DiskFull, DiskFailed: the old file stands.
    """
    with disk_errors(target, len(content)), Temporary(temporary_directory) as temporary:
        temporary.write(content)
        temporary.rename(target, mode)


def remove_orphans(directory: Path) -> int:
    """Remove what killed processes left in `directory`, files and folders; return how many that were.

    A file that somebody is writing is locked and stays; the caller knows that nobody is filling a folder.
    """
    removed = 0
    for path in directory.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
            removed += 1
            continue
        with open_regular(path) as file:
            try:
                fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            path.unlink(missing_ok=True)
            removed += 1
    return removed
