"""Where the store's bytes are: what each model needs alone and shares, and what no model is."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from protocol.digest import Digest
from protocol.model_name import ModelName
from store.disk import disk_errors
from store.errors import CollectRefused, LeaseCorrupt
from store.gc import GcReport, collect
from store.leftovers import disk_bytes
from store.models import ModelStore
from store.reach import read_manifest


@dataclass(frozen=True)
class ModelUsage:
    """What one name takes with all its versions: bytes that go when it goes, and bytes that others need as well."""

    name: ModelName
    versions: int
    unique_bytes: int
    shared_bytes: int


@dataclass(frozen=True)
class Usage:
    """The bytes of a store. `models` are in order; the rest is told apart by what it is for.

    `blob_bytes` is all of `blobs/`, of which `chunk_map_bytes` is a part. `copy_bytes` are materialised models whose
    files are neither links nor counted as clones of blobs: a file system that shares their bytes does not say so.
    `garbage` is what collecting would free now, None where that cannot be told.
    """

    models: tuple[ModelUsage, ...]
    blob_bytes: int
    chunk_map_bytes: int
    partial_bytes: int
    quarantine_bytes: int
    copy_bytes: int
    provenance_bytes: int
    index_bytes: int
    garbage: GcReport | None

    @property
    def total_bytes(self) -> int:
        """Everything in the store's directory."""
        parts = (self.blob_bytes, self.partial_bytes, self.quarantine_bytes, self.copy_bytes)
        return sum(parts) + self.provenance_bytes + self.index_bytes


def measure(store: ModelStore, now_s: float | None = None) -> Usage:
    """Return where the store's bytes are.

    Raises:
        DiskFailed: the disk says no.
    """
    layout = store.layout
    sizes = {digest: store.blobs.size(digest) for digest in store.blobs.list() if store.blobs.has(digest)}
    needs: dict[ModelName, set[Digest]] = {}
    maps: set[Digest] = set()
    versions = {}
    for entry in store.refs.list():
        manifests = {version.digest for version in entry.history}
        needs[entry.name] = _blobs_of(store, manifests, maps)
        versions[entry.name] = len(entry.history)
    users = Counter(digest for blobs in needs.values() for digest in blobs)
    models = (
        ModelUsage(
            name=name,
            versions=versions[name],
            unique_bytes=sum(sizes.get(digest, 0) for digest in blobs if users[digest] == 1),
            shared_bytes=sum(sizes.get(digest, 0) for digest in blobs if users[digest] > 1),
        )
        for name, blobs in needs.items()
    )
    with disk_errors(layout.root):
        return Usage(
            models=tuple(models),
            blob_bytes=sum(sizes.values()),
            chunk_map_bytes=sum(sizes.get(digest, 0) for digest in maps),
            partial_bytes=_bytes_in(layout.downloads, layout.temporary),
            quarantine_bytes=_bytes_in(layout.quarantine),
            copy_bytes=_bytes_in(layout.materialized),
            provenance_bytes=_bytes_in(layout.provenance),
            index_bytes=_bytes_in(layout.indexes, layout.manifests, layout.leases) + disk_bytes(layout.index),
            garbage=_garbage(store, now_s),
        )


def _garbage(store: ModelStore, now_s: float | None) -> GcReport | None:
    try:
        return collect(store, dry_run=True, now_s=now_s)
    except (CollectRefused, LeaseCorrupt):
        return None


def _blobs_of(store: ModelStore, manifests: Iterable[Digest], maps: set[Digest]) -> set[Digest]:
    needed = set()
    for digest in manifests:
        needed.add(digest)
        manifest = read_manifest(store.blobs, digest)
        if manifest is not None:
            needed.update(blob.digest for blob in manifest.blobs())
            maps.update(pin.digest for layer in manifest.layers if (pin := layer.chunk_map) is not None)
    return needed


def _bytes_in(*directories: Path) -> int:
    return sum(disk_bytes(directory) for directory in directories if directory.exists())
