"""Taking a file of another program into the store without copying it where that is safe, else by copying it.

A reflink is always safe: what is written to one file later does not show in the other. A hard link is one file with
two names, so it is made only of a file that belongs to this user and that nobody else may write; it becomes read-only
for both programs. Whoever makes it writable and writes into it all the same changes the blob: `verify` finds that and
puts the blob into quarantine. Source: specs/0021-builds.md §Caches.
"""

import fcntl
import io
import itertools
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Final

from protocol.digest import Digest
from store.blobs import Blobs, hash_file
from store.disk import READ_ONLY, disk_errors, flush_directory, flush_file, open_regular
from store.errors import LayerCorrupt
from store.materialize import reflink

_OTHERS_MAY_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH
_counter: Final = itertools.count(1)


class Way(StrEnum):
    """How a file came into the store."""

    REFLINK = "reflink"
    HARD_LINK = "hard link"
    COPY = "copy"


def take_file(blobs: Blobs, path: Path, expected: Digest) -> Way:
    """Publish the regular file `path` as the blob `expected` and return how; the caller holds a lease on it.

    The bytes are hashed after they were linked, under their new name: what is published is what was hashed.

    Raises:
        LayerCorrupt: its bytes are not those of `expected`; nothing was stored, the file is as it was.
        DiskFull, DiskFailed: nothing was stored.
    """
    with disk_errors(path), open_regular(path) as source:
        for way, link in ((Way.REFLINK, _reflink), (Way.HARD_LINK, _hard_link)):
            with _linked(blobs, path, source, link) as linked:
                if linked is not None:
                    _publish(blobs, *linked, expected)
                    return way
    blobs.publish_file(path, expected)
    return Way.COPY


@contextmanager
def _linked(
    blobs: Blobs, path: Path, source: io.FileIO, link: Callable[[Path, Path, io.FileIO], None]
) -> Iterator[tuple[Path, io.FileIO] | None]:
    """Give a new name in the store with its file, or None where this link cannot be made here; gone after the block.

    The file is locked: by its time it may be years old, and who collects would take it for a leftover.
    """
    place = blobs.layout.temporary / f"{os.getpid()}-take-{next(_counter)}"
    file = None
    try:
        with blobs.layout.sweeping.shared():
            link(path, place, source)
            file = open_regular(place)
            fcntl.flock(file.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB)  # another one may be taking the same file
    except OSError:  # another file system, or one that knows no such links or locks: the next way
        place.unlink(missing_ok=True)
        if file is not None:
            file.close()
        yield None
        return
    try:
        with file:
            yield place, file
    finally:
        place.unlink(missing_ok=True)


def _reflink(path: Path, place: Path, _: io.FileIO) -> None:
    reflink(path, place)


def _hard_link(path: Path, place: Path, source: io.FileIO) -> None:
    """Link `path` where nobody but this user can have a say about its bytes."""
    opened = os.fstat(source.fileno())
    if opened.st_uid != os.getuid() or opened.st_mode & _OTHERS_MAY_WRITE:
        raise PermissionError(f"{path}: others may write it")
    os.link(path, place, follow_symlinks=False)
    linked = place.lstat()
    if (linked.st_dev, linked.st_ino) != (opened.st_dev, opened.st_ino):
        raise FileNotFoundError(f"{path}: replaced while it was linked")


def _publish(blobs: Blobs, place: Path, file: io.FileIO, expected: Digest) -> None:
    before = os.fstat(file.fileno()).st_mode
    os.fchmod(file.fileno(), READ_ONLY)
    found, _ = hash_file(file)
    if found != expected:
        os.fchmod(file.fileno(), stat.S_IMODE(before))
        raise LayerCorrupt(expected, found)
    flush_file(file.fileno())
    place.replace(blobs.layout.blob_path(expected))
    flush_directory(blobs.layout.blobs)
