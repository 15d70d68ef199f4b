"""What processes that are gone have left behind: half-written files, unfinished downloads, copies of gone models."""

import fcntl
import os
import shutil
import stat
from collections.abc import Iterator, Set
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from protocol.digest import Digest, parse_digest
from protocol.errors import DigestInvalid
from store.blobs import Blobs
from store.disk import disk_errors, is_at, open_regular
from store.layout import Layout

_BITMAP = ".bitmap"
_PARTIAL = ".partial"
BLOCK_BYTES = 512  # of `st_blocks`, whatever the file system's own blocks are (POSIX stat.h)


class LeftoverStore(Protocol):
    """What is looked at."""

    @property
    def layout(self) -> Layout:
        """Where files lie."""

    @property
    def blobs(self) -> Blobs:
        """Which models are there."""


@dataclass(frozen=True)
class Leftover:
    """A file or folder that nobody will come back for, what it takes on the disk, and what it is."""

    path: Path
    size_bytes: int
    what: str

    def remove(self) -> bool:
        """Remove it and return True, unless somebody has taken it up or removed it meanwhile.

        Raises:
            DiskFailed: the disk says no.
        """
        with disk_errors(self.path):
            return _remove_unlocked(self.path)


def leftovers(
    store: LeftoverStore, gone: Set[Digest], old_s: float, now_s: float, quarantine_age_s: float | None
) -> Iterator[Leftover]:
    """Yield what was last written before `old_s` and is nobody's any more.

    Models whose manifest is in `gone` or not in the store count as gone; what is in quarantine only where
    `quarantine_age_s` is given. To be called while the store's `sweeping` is held: looking locks a file for a moment,
    and must not stand in the way of a download that is just being taken up.
    """
    layout = store.layout
    with disk_errors(layout.root):
        yield from _old(layout.temporary.iterdir(), old_s, "unfinished file")
        yield from _downloads(layout, old_s)
        for folder, what in (
            (layout.materialized, "copy of a model that is gone"),
            (layout.provenance, "signatures of a model that is gone"),
        ):
            yield from _of_gone_models(store, folder, gone, old_s, what)
        if quarantine_age_s is not None:
            yield from _old(layout.quarantine.iterdir(), now_s - quarantine_age_s, "bytes in quarantine")


def disk_bytes(path: Path) -> int:
    """Return what a file, or a folder with all in it, takes on the disk; links to other files take nothing."""
    total = 0
    for each in (path, *(path.rglob("*") if path.is_dir() and not path.is_symlink() else ())):
        with suppress(FileNotFoundError):
            status = each.lstat()
            total += status.st_blocks * BLOCK_BYTES if stat.S_ISREG(status.st_mode) and status.st_nlink == 1 else 0
    return total


def _old(paths: Iterator[Path], old_s: float, what: str) -> Iterator[Leftover]:
    for path in sorted(paths):
        if _is_old(path, old_s):
            yield Leftover(path, disk_bytes(path), what)


def _downloads(layout: Layout, old_s: float) -> Iterator[Leftover]:
    for path in sorted(layout.downloads.iterdir()):
        partial = path.with_suffix(_PARTIAL)
        in_use = path.suffix == _BITMAP and partial.exists() and not _is_old(partial, old_s)
        if not in_use and _is_old(path, old_s):
            yield Leftover(path, disk_bytes(path), f"unfinished download {path.name[:12]}")


def _of_gone_models(
    store: LeftoverStore, folder: Path, gone: Set[Digest], old_s: float, what: str
) -> Iterator[Leftover]:
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        try:
            digest = parse_digest(path.name.partition(".")[0])
        except DigestInvalid:
            continue  # not ours
        if digest in gone or (not store.blobs.has(digest) and _is_old(path, old_s)):
            yield Leftover(path, disk_bytes(path), what)


def _is_old(path: Path, old_s: float) -> bool:
    """Return whether it was last written before then, with everything in it, and no living process holds it."""
    try:
        newest = max(each.lstat().st_mtime for each in (path, *(path.rglob("*") if path.is_dir() else ())))
        return newest < old_s and not is_locked(path)
    except FileNotFoundError:
        return False


def is_locked(path: Path) -> bool:
    """Return whether a process that lives is writing this file, or working in this folder."""
    try:
        with _opened(path) as descriptor:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # gone meanwhile, or neither file nor folder
        return False
    return False


def _remove_unlocked(path: Path) -> bool:
    try:
        with _opened(path) as descriptor:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not is_at(path, descriptor):
                return False
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
    except (BlockingIOError, FileNotFoundError):
        return False
    return True


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    """Give a descriptor of a regular file or a folder itself, of no link to one."""
    if stat.S_ISDIR(path.lstat().st_mode):
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            yield descriptor
        finally:
            os.close(descriptor)
    else:
        with open_regular(path) as file:
            yield file.fileno()
