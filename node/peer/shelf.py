"""What this node can vouch for and serves: models in the store under a name, with verified provenance (specs/0011)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from identity.did import DeviceId
from node.threads import Threads
from protocol.digest import Digest, digest_of
from protocol.errors import ProtocolError, ProvenanceInvalid
from protocol.heads import MAX_OFFERS, OfferedModel
from protocol.manifest import Descriptor, Manifest
from protocol.model_name import parse_model_name
from protocol.provenance import decode_and_verify_provenance
from store.errors import StoreError
from store.models import ModelStore

Key = tuple[tuple[Digest, ...], tuple[Digest, ...], frozenset[DeviceId]]


@dataclass(frozen=True)
class ServedBlob:
    """A blob that may be served: its size and, for a mapped layer, its chunk map's descriptor."""

    size: int
    chunk_map: Descriptor | None = None


@dataclass(frozen=True)
class ShelfView:
    """One state of the shelf: the offers, their bundles by digest, and every blob that they lead to."""

    offers: tuple[OfferedModel, ...] = ()
    bundles: Mapping[Digest, Digest] = field(default_factory=dict)
    blobs: Mapping[Digest, ServedBlob] = field(default_factory=dict)


class Shelf:
    """The current view, made anew when a name or a bundle changed or a publisher was stopped."""

    def __init__(self, store: ModelStore, threads: Threads, stopped: Callable[[], frozenset[DeviceId]]) -> None:
        """`stopped()` are the publishers that signed two logs: nothing of theirs is passed on."""
        self._store: Final = store
        self._threads = threads
        self._stopped = stopped
        self._key: Key | None = None
        self._view = ShelfView()

    async def view(self) -> ShelfView:
        """Return what may be served now."""
        return await self._threads.store(self._current)

    async def bundle(self, manifest: Digest, bundle: Digest) -> bytes | None:
        """Return the provenance bundle with this digest if it is on the shelf."""
        view = await self.view()
        if view.bundles.get(bundle) != manifest:
            return None
        found = await self._threads.store(self._store.provenance.all, manifest)
        return next((content for content in found if digest_of(content) == bundle), None)

    def _current(self) -> ShelfView:
        named = sorted({entry.digest for entry in self._store.refs.list()})
        bundles = {manifest: self._store.provenance.all(manifest) for manifest in named}
        stopped = self._stopped()
        key = (tuple(named), tuple(digest_of(bundle) for manifest in named for bundle in bundles[manifest]), stopped)
        if key != self._key:
            self._view = self._make(bundles, stopped)
            self._key = key
        return self._view

    def _make(self, bundles: Mapping[Digest, list[bytes]], stopped: frozenset[DeviceId]) -> ShelfView:
        offers: list[OfferedModel] = []
        blobs: dict[Digest, ServedBlob] = {}
        for manifest, contents in bundles.items():
            verified = [offer for content in contents if (offer := _offer(content)) is not None]
            vouched = [offer for offer in verified if offer.publisher not in stopped]
            reachable = self._reachable(manifest) if vouched else None
            if reachable is not None and len(offers) + len(vouched) <= MAX_OFFERS:
                offers += vouched
                blobs |= reachable
        return ShelfView(tuple(sorted(offers)), {offer.bundle: offer.manifest for offer in offers}, blobs)

    def _reachable(self, manifest: Digest) -> dict[Digest, ServedBlob] | None:
        try:
            return served_blobs(self._store.manifest(manifest))
        except (StoreError, ProtocolError):
            return None  # its manifest is gone or damaged: nothing of it can be served, everything else can


def _offer(content: bytes) -> OfferedModel | None:
    try:
        provenance = decode_and_verify_provenance(content)
    except ProvenanceInvalid:
        return None  # damaged on the disk: the model can be used, but this node cannot vouch for it
    name = parse_model_name(provenance.name)
    return OfferedModel(name, provenance.manifest_digest, provenance.publisher, digest_of(content), len(content))


def served_blobs(manifest: Manifest) -> dict[Digest, ServedBlob]:
    """Return every blob that `manifest` leads to: config, layers and their chunk maps."""
    blobs = {manifest.config.digest: ServedBlob(manifest.config.size)}
    for layer in manifest.layers:
        blobs[layer.digest] = ServedBlob(layer.size, layer.chunk_map)
        if layer.chunk_map:
            blobs[layer.chunk_map.digest] = ServedBlob(layer.chunk_map.size)
    return blobs
