"""From where a repair gets what is missing, and what came of each blob (specs/0027)."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from node.peer.pull import Event
from protocol.digest import Digest
from protocol.manifest import Layer
from protocol.model_name import ModelName
from store.leases import Lease
from store.models import ModelStore
from store.partial import PartialLayer


class Remote(Protocol):
    """A registry from which a version came: asked where no device has what is missing. Blocking."""

    @property
    def label(self) -> str:
        """How it is shown to people."""

    def manifest(self, digest: Digest) -> bytes:
        """Return a manifest, verified."""

    def small(self, digest: Digest, size: int) -> bytes:
        """Return a whole small blob, verified."""

    def whole(self, store: ModelStore, layer: Layer, lease: Lease, report: Callable[[Event], None]) -> int:
        """Fetch a layer without a chunk map as a stream, verified; return the bytes that moved."""

    def fill(self, partial: PartialLayer, left: Callable[[int], None]) -> int:
        """Fetch the missing chunks of a layer into it, each verified; return the bytes that moved.

        `left` is called now and then with the bytes that are still missing.
        """


# Gives the registries that a model's history names, to be used inside a block.
Remotes = Callable[[ModelName], Sequence[AbstractContextManager[Remote]]]


@dataclass
class Repaired:
    """One blob that was put right: where its bytes came from, in bytes."""

    digest: Digest
    what: str
    size: int
    bad_bytes: int
    moved_bytes: int = 0
    local_bytes: int = 0
    sources: tuple[str, ...] = ()

    def facts(self) -> Event:
        """Return what is shown of it."""
        return {
            "digest": self.digest,
            "file": self.what,
            "size_bytes": self.size,
            "bad_bytes": self.bad_bytes,
            "moved_bytes": self.moved_bytes,
            "local_bytes": self.local_bytes,
            "sources": list(self.sources),
        }
