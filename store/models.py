"""The model store: names, manifests, blobs and chunks as one thing."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from protocol.chunkmap import ChunkMap, decode_chunk_map
from protocol.digest import Digest
from protocol.errors import ProtocolError
from protocol.manifest import MAX_MANIFEST_BYTES, Layer, Manifest, parse_manifest
from protocol.model_config import ModelConfig
from protocol.model_name import ModelName, format_model_name
from protocol.modelfile import Modelfile
from store.blobs import Blobs
from store.chunks import ChunkIndex
from store.contents import HERE, MAX_MODELFILE_BYTES, MODELFILE, read_facts, read_model
from store.disk import remove_orphans, require_space
from store.errors import (
    BlobMissing,
    LayerCorrupt,
    RefCorrupt,
    StoreError,
    VersionPinned,
)
from store.facts import FactsCache
from store.gc import free
from store.layout import Layout
from store.leases import Lease, Leases
from store.listing import ListedModel, Listing
from store.lookup import find_entry, find_version, numbered_version, unknown
from store.materialize import materialize
from store.provenance import ProvenanceFiles, signature_of
from store.reach import closure, read_manifest
from store.refs import RefEntry, Refs, Version

__all__ = ["HERE", "MAX_MODELFILE_BYTES", "MODELFILE", "ModelStore", "RemoveReport", "StoredModel", "VerifyReport"]


@dataclass(frozen=True)
class StoredModel:
    """A name, the manifest it stands for, and what the model says about itself."""

    name: ModelName
    digest: Digest
    manifest: Manifest
    modelfile: Modelfile
    config: ModelConfig
    modified_s: int

    @property
    def size_bytes(self) -> int:
        """Bytes of the model's files and config; chunk maps are not counted."""
        return self.manifest.size_bytes

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The model's files."""
        return self.manifest.layers


@dataclass(frozen=True)
class VerifyReport:
    """Everything that a model consists of was hashed again and is what its digests say."""

    name: ModelName
    digest: Digest
    blob_count: int
    size_bytes: int


@dataclass(frozen=True)
class RemoveReport:
    """A name or version that is gone, how many versions that were, and what went with them: what nothing else needs.

    `digest` is the manifest of the newest of them, None where the name could not be read.
    """

    name: ModelName
    digest: Digest | None
    freed_blobs: int
    freed_bytes: int
    versions: int = 1


class ModelStore:
    """The store at `root`; the tree is made where there is none. Every method blocks and may run in any thread.

    Raises:
        DiskFull, DiskFailed: the tree cannot be made.
    """

    def __init__(self, root: Path) -> None:
        self.layout = Layout(root)
        self.leases = Leases(self.layout)
        self.blobs = Blobs(self.layout)
        self.refs = Refs(self.layout, self.blobs, self.leases)
        self.chunks = ChunkIndex(self.layout.chunks)
        self.facts = FactsCache(self.layout.facts)
        self.provenance = ProvenanceFiles(self.layout)

    def resolve(self, name: ModelName) -> StoredModel:
        """Return the model that `name` stands for.

        What stands after an `@` is a release, or else the number of a version or the beginning of its digest, as in
        `resolve_version`.

        Raises:
            ModelUnknown: there is no such name; the error suggests the nearest one.
            VersionUnknown, VersionAmbiguous: the name has no such version, or several.
            BlobMissing, LayerCorrupt: its manifest, config or Modelfile is gone or was changed.
            RefCorrupt, ManifestInvalid, ModelfileInvalid: they are there and cannot be read.
        """
        return self._load(find_entry(self.refs, name))

    def resolve_version(self, name: ModelName, text: str) -> StoredModel:
        """Return the model that a version of `name` is: a number, a release, or a digest's first 6 characters or more.

        A number wins over a release of that spelling, and a release over a digest; `@` before it means the release.

        Raises:
            VersionUnknown, VersionAmbiguous: there is none, or several begin so.
            ModelUnknown, BlobMissing, LayerCorrupt, RefCorrupt, ManifestInvalid, ModelfileInvalid: as `resolve`.
        """
        return self._load(RefEntry(name, (version := find_version(self.refs, name, text)).digest, version.time_s))

    def load(self, name: ModelName, digest: Digest) -> StoredModel:
        """Return the model of a manifest under `name`, whatever the name stands for by now.

        Raises:
            BlobMissing, LayerCorrupt: its manifest, config or Modelfile is gone or was changed.
            ManifestInvalid, ModelfileInvalid: they are there and cannot be read.
        """
        return self._load(RefEntry(name, digest, 0))

    def require_readable(self, digest: Digest) -> None:
        """Accept a model whose manifest, config and Modelfile can be read, so that a name may stand for it.

        Raises:
            BlobMissing, LayerCorrupt: its manifest, config or Modelfile is gone or was changed.
            ManifestInvalid, ModelfileInvalid: they are there and cannot be read.
        """
        read_model(self.blobs, digest)

    def manifest(self, digest: Digest) -> Manifest:
        """Return a stored manifest, verified and parsed.

        Raises:
            BlobMissing, LayerCorrupt, BlobTooLarge, ManifestInvalid: it is not there or is none.
        """
        return parse_manifest(self.blobs.read(digest, MAX_MANIFEST_BYTES))

    def chunk_map(self, layer: Layer) -> ChunkMap | None:
        """Return the verified chunk map of `layer`; None where the layer has none and is fetched whole.

        Raises:
            BlobMissing, LayerCorrupt: it is pinned, but not in the store, or changed.
            ChunkMapInvalid: the pinned blob is no map of this layer.
        """
        pin = layer.chunk_map
        if pin is None:
            return None
        return decode_chunk_map(self.blobs.read(pin.digest, pin.size), layer.digest, layer.size)

    def materialize(self, digest: Digest) -> Path:
        """Return a directory with the files of the manifest `digest`, every one verified; see `store.materialize`.

        Raises:
            BlobMissing, LayerCorrupt: a layer is gone or changed; nothing is handed out.
            DiskFull, DiskFailed: the directory could not be made.
        """
        with self.lease([digest]) as lease:
            manifest = self.manifest(digest)
            lease.add(*(blob.digest for blob in manifest.blobs()))
            return materialize(self.blobs, digest, manifest)

    def verify(self, name: ModelName) -> VerifyReport:
        """Hash everything again that `name` needs.

        Raises:
            LayerCorrupt: a blob changed. It is in quarantine and is neither served nor loaded; all others were
                checked as well.
            BlobMissing: a blob is not in the store.
            ModelUnknown, RefCorrupt, ManifestInvalid: the name leads to no manifest.
        """
        digest = find_entry(self.refs, name).digest
        total = self.blobs.verify(digest)
        faults: list[BlobMissing | LayerCorrupt] = []
        needed = list(self.manifest(digest).blobs())
        for blob in needed:
            try:
                total += self.blobs.verify(blob.digest)
            except (BlobMissing, LayerCorrupt) as fault:
                self.chunks.remove(blob.digest)
                faults.append(fault)
        if faults:
            raise faults[0]
        return VerifyReport(name, digest, 1 + len(needed), total)

    def remove(self, name: ModelName, *, force: bool = False) -> RemoveReport:
        """Forget `name` with all its versions, and free what only they needed.

        What another name, a release, a lease or another program's entry needs stays. A pinned version keeps the name,
        unless `force` says otherwise. With a release its tag forgets that version, unless it is pinned or current.

        Raises:
            ModelUnknown: there is no such name.
            VersionPinned: a version is pinned; nothing was removed.
            DiskFailed: the disk says no; what was not freed yet stays.
        """
        with self.layout.lock:
            history = self._history_if_readable(name)
            pinned = [version.number for version in history if version.pinned]
            if pinned and not force:
                raise VersionPinned(format_model_name(name), pinned[-1])
            if not self.refs.delete(name):
                raise unknown(self.refs, name)
            return self._free(name, [*self._forget_released(name, history), *history])

    def remove_version(self, name: ModelName, text: str) -> RemoveReport:
        """Forget one version of `name`, given as in `resolve_version`, and free what only it needed.

        Raises:
            ModelUnknown, VersionUnknown, VersionAmbiguous: there is none, or several begin so.
            VersionCurrent, VersionPinned: it is what the name stands for, or pinned; nothing was removed.
            RefCorrupt, DiskFailed: the name cannot be read; the disk says no.
        """
        with self.layout.lock:
            version = numbered_version(self.refs, name, text)
            return self._free(name, [self.refs.forget_version(name, version.number)])

    def require_space(self, needed_bytes: int) -> None:
        """Accept when `needed_bytes` more fit on the store's disk.

        Raises:
            DiskFull: it says how much is missing.
        """
        require_space(self.layout.root, needed_bytes)

    def lease(self, digests: Iterable[Digest] = ()) -> Lease:
        """Return a lease: its blobs stay until it is released. Take it before looking whether a blob is there."""
        return self.leases.take(digests)

    def discard(self, lease: Lease) -> int:
        """Release `lease` and free what only it kept: what a build or pull that failed had stored; return the bytes."""
        with self.layout.lock:
            digests = lease.digests
            lease.release()
            return sum(free(self, digests).values())

    def tidy(self) -> int:
        """Put right what a kill has left: unfinished files, `index.json`, chunks not in the index.

        For the one process that holds the store, at its start. Returns how many leftover files were removed.
        """
        with self.layout.materializing:
            removed = remove_orphans(self.layout.temporary) + self.leases.remove_dead()
        self.refs.write_indexes()
        known = self.chunks.blobs()
        for entry in self.refs.list():
            manifest = read_manifest(self.blobs, entry.digest)
            for layer in manifest.layers if manifest else ():
                if layer.chunk_map and layer.digest not in known:
                    self._index(layer)
        return removed

    def close(self) -> None:
        """Close the chunk index and the cache of facts."""
        self.chunks.close()
        self.facts.close()

    def problems(self) -> list[tuple[str, StoreError | ProtocolError]]:
        """Return the names that `list` leaves out, each with what is wrong with it."""
        unreadable = [(str(fault.path.relative_to(self.layout.manifests)), fault) for fault in self.refs.unreadable()]
        broken = [(format_model_name(name), fault) for name, fault in self._scan() if isinstance(fault, Exception)]
        return [*unreadable, *broken]

    def listing(self) -> Iterator[ListedModel]:
        """Yield every name in order with what a list shows of it; a name is there as soon as it was read.

        Unlike `list` this parses no manifest that was listed before and checks no signature twice.
        """
        return Listing(self.layout, self.facts, partial(read_facts, self.blobs), signature_of).models()

    def list(self) -> list[StoredModel]:
        """Return every model whose manifest can be read, in name order; `problems` has the others."""
        return [model for _, model in self._scan() if isinstance(model, StoredModel)]

    def _scan(self) -> Iterator[tuple[ModelName, StoredModel | StoreError | ProtocolError]]:
        for entry in self.refs.list():
            try:
                yield entry.name, self._load(entry)
            except (StoreError, ProtocolError) as fault:
                yield entry.name, fault

    def _load(self, entry: RefEntry) -> StoredModel:
        manifest, config, modelfile = read_model(self.blobs, entry.digest)
        return StoredModel(
            name=entry.name,
            digest=entry.digest,
            manifest=manifest,
            modelfile=modelfile,
            config=config,
            modified_s=entry.modified_s,
        )

    def _history_if_readable(self, name: ModelName) -> tuple[Version, ...]:
        try:
            return self.refs.history(name)
        except RefCorrupt:
            return ()

    def _forget_released(self, release: ModelName, history: Sequence[Version]) -> Sequence[Version]:
        """Forget what was a release also where its tag remembers it, unless that is pinned or what the tag is now."""
        if not release.version:
            return []
        digests = {version.digest for version in history}
        earlier = [version for version in self.refs.history(release.moving)[:-1] if version.digest in digests]
        return [self.refs.forget_version(release.moving, each.number) for each in earlier if not each.pinned]

    def _free(self, name: ModelName, versions: Sequence[Version]) -> RemoveReport:
        """Free what only these versions needed: the manifests first, so that a kill leaves none without its blobs."""
        manifests = list(dict.fromkeys(version.digest for version in reversed(versions)))
        blobs = [blob for manifest in manifests for blob in closure(self.blobs, manifest)[1:]]
        sizes = free(self, dict.fromkeys((*manifests, *blobs)))
        return RemoveReport(name, manifests[0] if manifests else None, len(sizes), sum(sizes.values()), len(versions))

    def _index(self, layer: Layer) -> None:
        try:
            chunk_map = self.chunk_map(layer)
        except (StoreError, ProtocolError):
            return  # only reuse is lost; verify and materialize say what is wrong
        if chunk_map and self.blobs.has(layer.digest):
            self.chunks.add(layer.digest, chunk_map)
