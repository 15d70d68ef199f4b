"""Leases: blobs that somebody is working with and that therefore stay, whether a ref names them or not."""

import threading
import weakref
from collections.abc import Iterable
from types import TracebackType

from protocol.digest import Digest


class Lease:
    """Keeps its blobs in the store until `release`, the end of its block, or until nobody holds the lease any more.

    Take it *before* looking whether a blob is there. Where `until_named` is set, it also ends as soon as a name stands
    for that manifest.
    """

    def __init__(self, digests: Iterable[Digest]) -> None:
        self._digests = frozenset(digests)
        self.until_named: Digest | None = None

    @property
    def digests(self) -> frozenset[Digest]:
        """What is kept."""
        return self._digests

    def add(self, *digests: Digest) -> None:
        """Keep these as well."""
        self._digests |= frozenset(digests)

    def release(self) -> None:
        """Keep nothing any longer."""
        self._digests = frozenset()

    def __enter__(self) -> "Lease":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.release()


class Leases:
    """All leases of this process; one node holds a store at a time, so these are all there are."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._leases: weakref.WeakSet[Lease] = weakref.WeakSet()

    def take(self, digests: Iterable[Digest] = ()) -> Lease:
        """Return a lease on `digests`."""
        lease = Lease(digests)
        with self._lock:
            self._leases.add(lease)
        return lease

    def named(self, manifest: Digest) -> None:
        """Release the leases that were to last until a name stands for `manifest`: now the name keeps the blobs."""
        with self._lock:
            for lease in self._leases:
                if lease.until_named == manifest:
                    lease.release()

    def held(self) -> frozenset[Digest]:
        """Return every blob that a lease keeps."""
        with self._lock:
            return frozenset().union(*(lease.digests for lease in self._leases))
