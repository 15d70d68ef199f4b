"""Moving the store to another directory or disk: verified, and to be gone on with after a kill at any point (0027).

The caller holds the home, so that no node works on the store meanwhile. The old side stays the truth until `switch`
has changed the one setting that says where the store lies; only then is the old tree removed.
"""

import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from protocol.digest import Digest, parse_digest
from protocol.errors import DigestInvalid
from store.blobs import BLOCK_BYTES, hash_file
from store.disk import (
    READ_ONLY,
    Temporary,
    disk_errors,
    flush_directory,
    flush_file,
    make_directories,
    open_regular,
    require_space,
)
from store.errors import DiskFailed, MoveRefused, MoveUnfinished
from store.layout import Layout
from store.move_journal import How, Move, read_move, remove_move, was_renamed, write_move
from store.probe import PROBES, require_operations

# Derived or of the processes that ran: made anew where the store lies then.
_LEFT_BEHIND: Final = frozenset({"cache/tmp", "cache/models", "leases"})
_LEFT_BEHIND_FILES: Final = ("indexes/chunks.sqlite", "indexes/models.sqlite", "gc.lock", "refs.lock")
# What a fresh file system has of its own.
_OF_THE_DISK: Final = frozenset({"lost+found"})
_BLOBS: Final = "blobs/sha256/"


@dataclass(frozen=True)
class Copying:
    """Progress: the file at hand, and bytes that are there of all that have to be."""

    file: str
    completed: int
    total: int


Report = Callable[[Copying], None]


@dataclass
class MoveReport:
    """What a move did: `copied_bytes` is 0 for a rename, `damaged` are blobs that no longer hash to their name.

    `left` is why the old tree could not be removed, or None.
    """

    source: Path
    target: Path
    how: How
    copied_bytes: int = 0
    kept_bytes: int = 0
    damaged: list[Digest] = field(default_factory=list)
    left: DiskFailed | None = None


def require_target(source: Path, target: Path) -> How:
    """Return how the store at `source` would get to `target`; both absolute and without links.

    Raises:
        MoveRefused: not a place for a store: not empty, inside the store, no such disk, or its file system lacks what
            a store needs.
        FileTooLarge: its file system takes no file as large as the largest blob.
        DiskFull: it does not fit there.
    """
    if target.is_relative_to(source) or source.is_relative_to(target):
        raise MoveRefused(target, f"it and the store at {source} lie inside one another")
    if not target.parent.is_dir():
        raise MoveRefused(target, f"there is no directory {target.parent}; is its disk mounted?")
    if target.exists():
        if not target.is_dir():
            raise MoveRefused(target, "is not a directory")
        with disk_errors(target):
            found = sorted({path.name for path in target.iterdir()} - _OF_THE_DISK - PROBES)
        if found:
            raise MoveRefused(target, f"is not empty: {found[0]}")
    with disk_errors(source):
        files = list(_files(source))
    require_operations(target, largest=max((file.size for file in files), default=0))
    if _is_one_file_system(source, target):
        return How.RENAME
    require_space(target, sum(file.size for file in files))
    return How.COPY


def move_store(home: Path, source: Path, target: Path, switch: Callable[[Path], None], report: Report) -> MoveReport:
    """Move the store of `home` from `source`, where it is set to lie, to `target`, or go on with that.

    `switch(path)` durably changes the setting. To be called again after a kill, with the same two paths. Where the old
    tree cannot be removed, as on a disk that fails, the report says so, and the move is finished all the same.

    Raises:
        MoveUnfinished: another move was begun; it has to be finished or given up first.
        MoveRefused, FileTooLarge, DiskFull: `target` cannot hold it.
        DiskFailed: the disk says no; the store is where it was, and the move can be gone on with.
    """
    begun = read_move(home)
    if begun is not None and (begun.source, begun.target) != (source, target):
        raise MoveUnfinished(begun.source, begun.target)
    move = begun or Move(source, target, require_target(source, target))
    if begun is None:
        write_move(home, move)
    done = MoveReport(source, target, move.how)
    if move.how is How.RENAME and not _rename(move):
        done.how = How.COPY
        write_move(home, Move(source, target, How.COPY))
    if done.how is How.COPY:
        _Copy(move, done, report).run()
    switch(target)
    done.left = settle_move(home, target, switch)
    return done


def settle_move(home: Path, set_path: Path, switch: Callable[[Path], None]) -> DiskFailed | None:
    """Finish what a killed move has left once the setting, or the one rename, was changed; to be called at each start.

    A copy that was not complete yet is left as it is: the store is where it was, and the move can be gone on with. The
    old tree stays as well while the disk with the new one is away. Returns why the old tree could not be removed; then
    it is for a person to remove, the store is whole elsewhere.

    Raises:
        MoveJournalInvalid: how far a move got cannot be told.
        DiskFull, DiskFailed: the setting cannot be changed, or the journal cannot be removed.
    """
    move = read_move(home)
    left = None
    if move is None:
        return None
    if move.how is How.RENAME:
        if set_path == move.source and was_renamed(move):
            flush_directory(move.target.parent)
            switch(move.target)
        remove_move(home)
    elif set_path == move.target and (move.target / "oci-layout").is_file():  # not while its disk is away
        try:
            _remove_tree(move.source)
        except DiskFailed as error:
            left = error
        remove_move(home)
    return left


def give_up_move(home: Path) -> Move:
    """Remove the copy that a killed move has begun, and its journal; the store stays where it is set to lie.

    The caller knows that the setting still names the move's source.

    Raises:
        DiskFailed: what was copied cannot be removed.
    """
    move = read_move(home)
    assert move is not None, "the caller has read the journal"
    if move.how is How.COPY:
        _remove_tree(move.target)
    remove_move(home)
    return move


@dataclass(frozen=True)
class _File:
    """A regular file of the store, by its path below the root."""

    place: str
    size: int
    mtime_ns: int
    mode: int

    @property
    def blob(self) -> Digest | None:
        if not self.place.startswith(_BLOBS):
            return None
        try:
            return parse_digest(self.place.removeprefix(_BLOBS))
        except DigestInvalid:
            return None  # left there by another program


def _files(root: Path) -> Iterator[_File]:
    """Yield the files that a move takes along: blobs first, refs after everything that they lead to."""
    found = [file for file in _walk(root) if not file.place.startswith(_LEFT_BEHIND_FILES)]
    found.sort(key=lambda file: (file.blob is None, file.place.startswith("manifests/"), file.place))
    return iter(found)


def _walk(root: Path) -> Iterator[_File]:
    for directory, names, files in os.walk(root, onerror=_raise):
        below = os.path.relpath(directory, root)
        prefix = "" if below == "." else f"{below}/"
        names[:] = [name for name in names if prefix + name not in _LEFT_BEHIND | _OF_THE_DISK]
        for name in files:
            path = Path(directory, name)
            if path.is_symlink() or not path.is_file():
                continue  # nothing that a store makes; what another program linked here stays its own
            status = path.stat()
            yield _File(prefix + name, status.st_size, status.st_mtime_ns, status.st_mode & 0o777)


def _raise(error: OSError) -> None:
    raise error


def _is_one_file_system(source: Path, target: Path) -> bool:
    place = target if target.exists() else target.parent
    if source.is_symlink():
        return False  # a rename would move the link alone
    # A target that is a mount point cannot be replaced by a rename.
    return source.stat().st_dev == place.stat().st_dev and not os.path.ismount(target) and not os.path.ismount(source)


def _rename(move: Move) -> bool:
    """Give the store its new place in one step, or find that done; False where these two need a copy after all."""
    if was_renamed(move):
        return True
    with disk_errors(move.target):
        try:
            move.source.rename(move.target)
        except OSError as error:
            if error.errno in (errno.EXDEV, errno.EBUSY, errno.ENOTEMPTY):
                return False  # one device number, and still two mounts; or lost+found in the way
            raise
        flush_directory(move.target.parent)
        flush_directory(move.source.parent)
    return True


class _Copy:
    """Every file of one store into another, what is there already left out; what the old side lost since is removed."""

    def __init__(self, move: Move, done: MoveReport, report: Report) -> None:
        self._source = move.source
        self._layout = Layout(move.target)
        self._done = done
        self._report = report
        self._completed = 0

    def run(self) -> None:
        with disk_errors(self._source):
            files = list(_files(self._source))
        missing = [file for file in files if not self._is_there(file)]
        total = sum(file.size for file in files)
        self._completed = self._done.kept_bytes = total - sum(file.size for file in missing)
        require_space(self._layout.root, sum(file.size for file in missing))
        for file in missing:
            self._copy(file, total)
        self._remove_others({file.place for file in files})

    def _is_there(self, file: _File) -> bool:
        try:
            status = (self._layout.root / file.place).lstat()
        except OSError:
            return False
        if file.blob is not None:
            return status.st_size == file.size  # it got its name only after its bytes were read back and hashed
        return (status.st_size, status.st_mtime_ns) == (file.size, file.mtime_ns)

    def _copy(self, file: _File, total: int) -> None:
        with self._layout.new_temporary() as temporary:
            written = self._fill(temporary, file, total)
            if _read_back(temporary) != written:
                raise MoveRefused(self._layout.root, f"what is written to it is read back otherwise: {file.place}")
            target = self._target(file, written)
            with disk_errors(target):
                make_directories(target.parent)
                os.utime(temporary.file.fileno(), ns=(file.mtime_ns, file.mtime_ns))
                temporary.rename(target, READ_ONLY if file.blob else file.mode)
                os.utime(target, ns=(file.mtime_ns, file.mtime_ns))  # changing the mode may have changed it

    def _fill(self, temporary: Temporary, file: _File, total: int) -> Digest:
        """Write the file's bytes and return their hash; zeros stay a hole, as in layers that are still arriving."""
        path = self._source / file.place
        with disk_errors(path):
            source = open_regular(path)
        position, state = 0, hashlib.sha256()
        with source, disk_errors(self._layout.root, file.size):
            while block := source.read(BLOCK_BYTES):
                if any(block):
                    os.lseek(temporary.file.fileno(), position, os.SEEK_SET)
                    temporary.write(block)
                state.update(block)
                position += len(block)
                self._report(Copying(file.place, self._completed + position, total))
            os.ftruncate(temporary.file.fileno(), position)
            flush_file(temporary.file.fileno())
        self._completed += position
        self._done.copied_bytes += position
        return Digest(state.hexdigest())

    def _target(self, file: _File, found: Digest) -> Path:
        """Return where the copied file goes: a blob that does not hash to its name goes into quarantine over there."""
        if file.blob is None or found == file.blob:
            return self._layout.root / file.place
        self._done.damaged.append(file.blob)
        return self._layout.quarantine_path(file.blob)

    def _remove_others(self, places: set[str]) -> None:
        """Remove what an earlier attempt had copied and the old side has no longer."""
        with disk_errors(self._layout.root):
            kept = places | {f"quarantine/{digest}" for digest in self._done.damaged}
            for file in list(_walk(self._layout.root)):
                if file.place not in kept or file.blob in self._done.damaged:
                    (self._layout.root / file.place).unlink()


def _read_back(temporary: Temporary) -> Digest:
    """Return the hash of what is on the disk, past the operating system's memory of it where that can be had."""
    descriptor = temporary.file.fileno()
    with disk_errors(temporary.path):
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.lseek(descriptor, 0, os.SEEK_SET)
        return hash_file(temporary.file)[0]


def _remove_tree(root: Path) -> None:
    """Remove a store, and the link to it where one was set; the directory stays where it is a mount point."""
    with disk_errors(root):
        if not root.exists():
            return
        for path in root.iterdir():
            if path.name in _OF_THE_DISK:
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        try:
            root.unlink() if root.is_symlink() else root.rmdir()
        except OSError as error:
            if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):
                raise
        flush_directory(root.parent)
