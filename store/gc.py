"""Collecting what nothing needs any more: mark, lock, mark again, sweep (specs/0022)."""

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Protocol

from protocol.digest import Digest, digest_of
from protocol.model_name import ModelName
from store.chunks import ChunkIndex
from store.disk import disk_errors
from store.errors import CollectRefused, LeaseCorrupt, VersionCurrent, VersionPinned, VersionUnknown
from store.facts import FactsCache
from store.leftovers import Leftover, leftovers
from store.materialize import remove_materialized
from store.provenance import ProvenanceFiles
from store.reach import ReachStore, documents_closure, needed_blobs, read_manifest, subject_of, used_blobs
from store.refs import Version

MIN_AGE_S: Final = 3600


class CollectStore(ReachStore, Protocol):
    """What collecting needs of the model store."""

    @property
    def chunks(self) -> ChunkIndex:
        """Where chunks of blobs are remembered."""

    @property
    def provenance(self) -> ProvenanceFiles:
        """Who signed which manifest."""

    @property
    def facts(self) -> FactsCache:
        """What lists show of manifests and bundles."""


@dataclass(frozen=True)
class Collected:
    """A blob that goes, its bytes, and what it was: the file of a model, a manifest, a chunk map."""

    digest: Digest
    size_bytes: int
    what: str


@dataclass(frozen=True)
class GcReport:
    """What went, or with `dry_run` would go.

    `young` blobs are needed by nothing and stay: they are too new, or of a model whose files were just handed out.
    """

    dry_run: bool
    versions: tuple[tuple[ModelName, Version], ...]
    blobs: tuple[Collected, ...]
    leftovers: tuple[Leftover, ...]
    young: int
    young_bytes: int

    @property
    def freed_bytes(self) -> int:
        """Bytes of everything that goes."""
        return sum(blob.size_bytes for blob in self.blobs) + sum(left.size_bytes for left in self.leftovers)


def collect(
    store: CollectStore,
    *,
    dry_run: bool = False,
    min_age_s: float = MIN_AGE_S,
    now_s: float | None = None,
    keep: int | None = None,
    quarantine_age_s: float | None = None,
) -> GcReport:
    """Remove every blob that nothing needs and that is older than `min_age_s`, and what dead processes left behind.

    It is safe beside builds and pulls in this and other processes: what is needed is marked, then marked again while
    nobody can take a lease or move a name, and only what was needed by nothing both times goes. With `keep`, each name
    first forgets all but its newest `keep` versions; pinned ones and those that are a release stay. Bytes in
    quarantine go only where `quarantine_age_s` is given and they are older.

    Raises:
        CollectRefused, LeaseCorrupt: what is needed cannot be told; nothing was removed.
        DiskFailed: the disk says no; what was not removed yet stays.
    """
    now = time.time() if now_s is None else now_s
    old_s = now - min_age_s
    forgotten = () if keep is None else tuple(_beyond(store, keep))
    without = _numbers(forgotten)
    candidates, young = _unneeded(store, needed_blobs(store, without), old_s)
    blobs = tuple(_describe(store, candidates))
    if not dry_run:
        for name, version in forgotten:
            with suppress(VersionUnknown, VersionCurrent, VersionPinned):  # moved or pinned since it was looked at
                store.refs.forget_version(name, version.number)
    with store.layout.lock, store.layout.sweeping.exclusive():
        if not dry_run:
            needed = needed_blobs(store, sweeping=True) | used_blobs(store, old_s)
            gone = _sweep(store, [blob.digest for blob in blobs], needed)
            blobs = tuple(blob for blob in blobs if blob.digest in gone)
        left = tuple(leftovers(store, {blob.digest for blob in blobs}, old_s, now, quarantine_age_s))
        if not dry_run:
            left = tuple(leftover for leftover in left if leftover.remove())
    if not dry_run:
        store.leases.remove_dead()
        _forget_facts(store)
    return GcReport(dry_run, forgotten, blobs, left, len(young), sum(young.values()))


def free(store: CollectStore, digests: Iterable[Digest]) -> dict[Digest, int]:
    """Remove those of `digests` that nothing needs, in order and whatever their age; return the bytes of each.

    Nothing goes where what is needed cannot be told.

    Raises:
        DiskFailed: the disk says no; what was not removed yet stays.
    """
    try:
        with store.layout.lock, store.layout.sweeping.exclusive():
            gone = _sweep(store, digests, needed_blobs(store, sweeping=True))
            for digest in gone:
                remove_materialized(store.blobs, digest)
                store.provenance.remove(digest)
    except (CollectRefused, LeaseCorrupt):
        return {}
    return gone


def _sweep(store: CollectStore, digests: Iterable[Digest], needed: frozenset[Digest]) -> dict[Digest, int]:
    """Remove what is not needed; the caller holds the locks since before it marked what is."""
    gone = {}
    for digest in digests:
        if digest not in needed:
            store.chunks.remove(digest)
            gone[digest] = store.blobs.delete(digest)
    return gone


def _forget_facts(store: CollectStore) -> None:
    """Let the cache of lists forget what no name ever stands for again; it is worked out anew where that was wrong."""
    manifests = {version.digest for entry in store.refs.list() for version in entry.history}
    bundles = {digest_of(bundle) for manifest in manifests for bundle in store.provenance.all(manifest)}
    store.facts.forget(frozenset(manifests), frozenset(bundles))


def _unneeded(
    store: CollectStore, needed: frozenset[Digest], old_s: float
) -> tuple[dict[Digest, int], dict[Digest, int]]:
    """Return the blobs that nothing needs with their bytes: those old enough to go, and the others."""
    used = used_blobs(store, old_s)
    old: dict[Digest, int] = {}
    young: dict[Digest, int] = {}
    for digest in store.blobs.list():
        if digest in needed:
            continue
        path = store.layout.blob_path(digest)
        with disk_errors(path), suppress(FileNotFoundError):
            status = path.lstat()
            (old if status.st_mtime < old_s and digest not in used else young)[digest] = status.st_size
    belonging = {digest for digest in (*old, *young) if subject_of(store.blobs, digest) in needed}
    for digest in {led for document in belonging for led in documents_closure(store.blobs, document)}:
        old.pop(digest, None)
        young.pop(digest, None)
    return old, young


def _describe(store: CollectStore, candidates: Mapping[Digest, int]) -> Iterator[Collected]:
    """Yield what goes, manifests first: a kill in between leaves no manifest without its blobs."""
    manifests = {digest: found for digest in candidates if (found := read_manifest(store.blobs, digest)) is not None}
    words = dict.fromkeys(manifests, "manifest")
    for manifest in manifests.values():
        words.setdefault(manifest.config.digest, "config")
        for layer in manifest.layers:
            words.setdefault(layer.digest, layer.filepath)
            if layer.chunk_map is not None:
                words.setdefault(layer.chunk_map.digest, f"chunk map of {layer.filepath}")
    for digest in sorted(candidates, key=lambda digest: (digest not in manifests, candidates[digest], digest)):
        yield Collected(digest, candidates[digest], words.get(digest, "blob"))


def _beyond(store: CollectStore, keep: int) -> Iterator[tuple[ModelName, Version]]:
    """Yield the versions that a name forgets when it keeps only its newest `keep`."""
    for entry in store.refs.list():
        released = set(store.refs.releases(entry.name).values()) if not entry.name.version else set()
        for version in entry.history[: -max(1, keep)]:
            if not version.pinned and version.digest not in released:
                yield entry.name, version


def _numbers(versions: Iterable[tuple[ModelName, Version]]) -> dict[ModelName, frozenset[int]]:
    numbers: dict[ModelName, set[int]] = {}
    for name, version in versions:
        numbers.setdefault(name, set()).add(version.number)
    return {name: frozenset(found) for name, found in numbers.items()}
