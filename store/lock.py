"""Locks between processes: one node at a time holds a data directory, and moments in which one alone changes files."""

import fcntl
import io
import itertools
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Final

from store.disk import PRIVATE, disk_errors, make_directories
from store.errors import HomeLocked

MAX_PID_CHARS = 20
_counter: Final = itertools.count(1)


def lock_home(path: Path) -> "HomeLock":
    """Hold the data directory whose lock file is `path`, until the block ends, `release`, or the process is gone.

    The operating system lets go of it after any kind of death, so there is no stale lock to clean up.

    Raises:
        HomeLocked: another process holds it; the error names it.
        DiskFull, DiskFailed: the lock file cannot be made.
    """
    return HomeLock(path)


class HomeLock:
    """A held data directory; see `lock_home`."""

    def __init__(self, path: Path) -> None:
        with disk_errors(path):
            make_directories(path.parent)
            self._file = io.FileIO(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, PRIVATE), "r+")
        try:
            fcntl.flock(self._file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = _read_pid(self._file)
            self._file.close()
            raise HomeLocked(path.parent, pid) from None
        self._file.truncate(0)
        self._file.write(f"{os.getpid()}\n".encode())

    def release(self) -> None:
        """Let another node have the directory."""
        self._file.close()

    def __enter__(self) -> "HomeLock":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.release()


def _read_pid(file: io.FileIO) -> int | None:
    text = file.read(MAX_PID_CHARS).strip()
    return int(text) if text.isdigit() else None


@contextmanager
def held_directory(path: Path, sweeping: "FileLock") -> Iterator[None]:
    """Make the directory `path`, and hold it during the block, so that nobody who sweeps takes it for a leftover.

    Raises:
        DiskFull, DiskFailed: it cannot be made.
    """
    with disk_errors(path), sweeping.shared():
        path.mkdir(mode=0o700)
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(descriptor)


@contextmanager
def scratch_directory(parent: Path, sweeping: "FileLock") -> Iterator[Path]:
    """Give a new directory in `parent` that is held as by `held_directory`, and gone after the block."""
    path = parent / f"{os.getpid()}-scratch-{next(_counter)}"
    shutil.rmtree(path, ignore_errors=True)  # of a killed process that had this number
    with held_directory(path, sweeping):
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)  # a leftover otherwise, which the next start removes


class FileLock:
    """An advisory lock on the file `path`, held for moments and waited for.

    Every use opens the file anew, so that the lock also stands between the threads of one process. It is not
    re-entrant: who holds it exclusively must not ask for it once more.
    """

    def __init__(self, path: Path) -> None:
        self._path: Final = path

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Wait until nobody holds it exclusively, and let nobody do so inside the block.

        Raises:
            DiskFull, DiskFailed: the lock file cannot be made.
        """
        with self._held(fcntl.LOCK_SH):
            yield

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Wait until nobody holds it, and let nobody do so inside the block. Raises as `shared`."""
        with self._held(fcntl.LOCK_EX):
            yield

    @contextmanager
    def _held(self, operation: int) -> Iterator[None]:
        with disk_errors(self._path):
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, PRIVATE)
        try:
            with disk_errors(self._path):
                fcntl.flock(descriptor, operation)
            yield
        finally:
            os.close(descriptor)
