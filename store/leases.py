"""Leases: blobs that somebody is working with and that therefore stay, named or not (specs/0022).

<store>/leases/<pid>-<16 hex>    what one process keeps; locked (flock) as long as it lives
"""

import fcntl
import io
import os
import threading
import weakref
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final

from protocol.canonical_json import decode_json, encode_json
from protocol.digest import Digest, parse_digest
from protocol.errors import DigestInvalid, JsonInvalid
from store.disk import Temporary, disk_errors, is_at, open_regular
from store.errors import DiskFailed, DiskFull, LeaseCorrupt, LeaseTooLarge
from store.layout import Layout

VERSION: Final = 1
# Digests of 64 characters and what stands between them.
MAX_LEASED: Final = 200_000
MAX_LEASE_BYTES: Final = 16 << 20


class Lease:
    """Keeps its blobs in the store until `release`, the end of its block, or until nobody holds the lease any more.

    Take it *before* looking whether a blob is there. Where `until_named` is set, it also ends as soon as a name stands
    for that manifest. A process that dies keeps nothing any longer.
    """

    def __init__(self, leases: "Leases", digests: Iterable[Digest]) -> None:
        """Use `Leases.take`."""
        self._leases = leases
        self._digests = frozenset(digests)
        self.until_named: Digest | None = None

    @property
    def digests(self) -> frozenset[Digest]:
        """What is kept."""
        return self._digests

    def add(self, *digests: Digest) -> None:
        """Keep these as well; when this returns every process knows.

        Raises:
            DiskFull, DiskFailed: it cannot be written down; what was kept before still is.
            LeaseTooLarge: this process keeps more than 200,000 blobs.
        """
        self._leases.change(self, self._digests | frozenset(digests))

    def release(self) -> None:
        """Keep nothing any longer."""
        self._leases.change(self, frozenset())

    def __enter__(self) -> "Lease":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.release()


class Leases:
    """The leases of this process, written to a file that other processes read, and theirs, read from their files.

    What is added is on the disk before `take` and `add` return, under the shared lock: whoever sweeps either sees it
    or has swept before. It need not outlive a power cut, because no process does.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout: Final = layout
        self._lock = threading.RLock()
        self._leases: weakref.WeakSet[Lease] = weakref.WeakSet()
        self._written: frozenset[Digest] = frozenset()
        self._file = _LeaseFile(layout)
        weakref.finalize(self, self._file.remove)

    def take(self, digests: Iterable[Digest] = ()) -> Lease:
        """Return a lease on `digests`.

        Raises:
            DiskFull, DiskFailed, LeaseTooLarge: it cannot be written down; there is no lease.
        """
        lease = Lease(self, ())
        with self._lock:
            self._leases.add(lease)
        lease.add(*digests)
        return lease

    def change(self, lease: Lease, digests: frozenset[Digest]) -> None:
        """Let `lease` keep `digests` and nothing else. Raises as `Lease.add` where something is added."""
        before = lease._digests
        if digests <= before:
            self._keep_less(lease, digests)
            return
        with self._layout.sweeping.shared(), self._lock:
            lease._digests = digests
            try:
                self._write_more()
            except (DiskFull, DiskFailed, LeaseTooLarge):
                lease._digests = before
                raise

    def named(self, manifest: Digest) -> None:
        """Release the leases that were to last until a name stands for `manifest`: now the name keeps the blobs."""
        with self._lock:
            for lease in list(self._leases):
                if lease.until_named == manifest:
                    self._keep_less(lease, frozenset())

    def held(self) -> frozenset[Digest]:
        """Return every blob that a lease keeps, in this process or another one that lives.

        Raises:
            LeaseCorrupt: what another process keeps cannot be read.
            DiskFailed: the disk says no.
        """
        with self._lock:
            return self._own().union(*(_read_if_alive(path) for path in self._others()))

    def remove_dead(self) -> int:
        """Remove the files of processes that are gone; return how many that were."""
        return sum(_remove_if_dead(path) for path in self._others())

    def _own(self) -> frozenset[Digest]:
        return frozenset().union(*(lease._digests for lease in self._leases))

    def _others(self) -> list[Path]:
        with disk_errors(self._layout.leases):
            return [path for path in self._layout.leases.iterdir() if path != self._file.path]

    def _keep_less(self, lease: Lease, digests: frozenset[Digest]) -> None:
        with self._lock:
            if lease._digests == digests:
                return
            lease._digests = digests
            # Without room for the shorter list the longer one stands: too much is kept, never too little.
            with suppress(DiskFull, DiskFailed):
                self._write(self._own())

    def _write_more(self) -> None:
        needed = self._own()
        if not needed <= self._written:
            self._write(needed)

    def _write(self, digests: frozenset[Digest]) -> None:
        """Replace this process's file by one that names `digests`; none at all where there are none."""
        if digests == self._written:
            return
        if len(digests) > MAX_LEASED:
            raise LeaseTooLarge(len(digests), MAX_LEASED)
        with disk_errors(self._layout.leases):
            if digests:
                self._file.replace(encode_json({"version": VERSION, "pid": os.getpid(), "digests": sorted(digests)}))
            else:
                self._file.remove()
        self._written = digests


class _LeaseFile:
    """The file of one process: locked as long as it stands, so that every other process can tell that it lives."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._file: io.FileIO | None = None
        self._pid = 0
        self.path: Path | None = None

    def replace(self, content: bytes) -> None:
        """Let the file say `content`; whoever reads it meanwhile finds the old or the new one, both locked."""
        temporary = Temporary(self._layout.temporary)  # locked from its first moment on
        path = self.path if self._pid == os.getpid() else None  # a forked process has a file of its own
        path = path or self._layout.leases / f"{os.getpid()}-{os.urandom(8).hex()}"
        try:
            temporary.write(content)
            temporary.path.replace(path)
        except OSError:
            temporary.__exit__(None, None, None)
            raise
        self._close()
        self.path, self._file, self._pid = path, temporary.file, os.getpid()

    def remove(self) -> None:
        """Take the file away, unless it is that of the process from which this one was forked."""
        if self.path is not None and self._pid == os.getpid():
            self.path.unlink(missing_ok=True)
        self.path = None
        self._close()

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def parse_lease(path: Path, data: bytes) -> frozenset[Digest]:
    """Return the blobs that the lease file `path` with these bytes keeps.

    Raises:
        LeaseCorrupt: it is none, too large, or of another version.
    """
    try:
        document = decode_json(data, MAX_LEASE_BYTES, "lease")
        if not isinstance(document, dict) or document.keys() != {"version", "pid", "digests"}:
            raise LeaseCorrupt(path, "not the keys of a lease")
        if type(document["version"]) is not int or document["version"] != VERSION:
            raise LeaseCorrupt(path, f"version {str(document['version'])[:20]}, {VERSION} is known")
        digests = document["digests"]
        if not isinstance(digests, list) or len(digests) > MAX_LEASED:
            raise LeaseCorrupt(path, f"no list of at most {MAX_LEASED} digests")
        return frozenset(parse_digest(str(digest)) for digest in digests)
    except (JsonInvalid, DigestInvalid) as error:
        raise LeaseCorrupt(path, str(error)) from None


def _read_if_alive(path: Path) -> frozenset[Digest]:
    """Return what a process keeps; nothing where it is gone, which is when its file can be locked."""
    with disk_errors(path):
        try:
            file = open_regular(path)
        except FileNotFoundError:
            return frozenset()
        with file:
            if not _try_lock(file, fcntl.LOCK_SH):
                return parse_lease(path, file.read(MAX_LEASE_BYTES + 1))
            if is_at(path, file.fileno()) or not path.exists():
                return frozenset()
    # Its process replaced it between opening and locking, so what was locked is nobody's any more: look again.
    return _read_if_alive(path)


def _remove_if_dead(path: Path) -> bool:
    with disk_errors(path):
        try:
            file = open_regular(path)
        except FileNotFoundError:
            return False
        with file:
            # The same file as under the name: a living process may have replaced it between opening and locking.
            if not _try_lock(file, fcntl.LOCK_EX) or not is_at(path, file.fileno()):
                return False
            path.unlink(missing_ok=True)
            return True


def _try_lock(file: io.FileIO, operation: int) -> bool:
    try:
        fcntl.flock(file.fileno(), operation | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
