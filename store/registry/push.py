"""A stored model to a registry: its blobs, its manifest under its tags, then what refers to it."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from protocol.digest import Digest, format_oci_digest
from protocol.errors import OciNameInvalid, ProtocolError, ReferenceInvalid
from protocol.manifest import MAX_MANIFEST_BYTES, Descriptor, Layer, Manifest
from protocol.model_name import ModelName
from protocol.referrer import INDEX_MEDIA_TYPE, Part, merge_index, referrers_tag
from protocol.registry import Reference, parse_reference
from store.delta import delta_limit, make_delta
from store.errors import BlobMissing, LayerCorrupt, StoreError
from store.leases import Lease
from store.models import ModelStore, StoredModel
from store.referrers import DeltaBlob, ReferrerManifest, referrers_of
from store.registry.client import RegistryClient
from store.registry.credentials import Login
from store.registry.errors import RegistryRefused
from store.registry.layers import Progress, Report
from store.registry.session import Pace
from store.registry.upload import Content, Way, push_blob

DIGEST_INVALID: Final = "DIGEST_INVALID"
SOURCE: Final = "registry "


@dataclass
class PushReport:
    """What a push did: blobs and bytes sent, blobs mounted from another repository, and blobs that were there."""

    name: ModelName
    reference: Reference
    manifest: Digest
    tags: tuple[str, ...]
    blobs_sent: int = 0
    bytes_sent: int = 0
    blobs_mounted: int = 0
    blobs_there: int = 0
    referrers: int = 0
    deltas: int = 0
    seconds: float = 0.0


def push_model(
    store: ModelStore,
    model: StoredModel,
    reference: Reference,
    *,
    report: Report,
    login: Login | None = None,
    deltas: bool = True,
    pace: Pace | None = None,
    check: Callable[[], None] = lambda: None,
) -> PushReport:
    """Put `model` under the tags of `reference`, with its chunk maps, provenance and deltas as referrers.

    Deltas are made against what the moving tag stood for until now, where that model is here. Layers are read from the
    disk as they are sent. `report` and `check` may raise to stop: what the registry has by then it need not be sent
    again. Raises:
        RegistryError, RegistryAnswerInvalid: the registry cannot be reached, or does not take it.
        BlobMissing, LayerCorrupt: a blob is gone, or changed on the disk.
    """
    began_s = time.monotonic()
    with (
        RegistryClient(reference, login=login, pace=pace, check=check) as client,
        store.lease([model.digest, *(blob.digest for blob in model.manifest.blobs())]) as lease,
    ):
        push = _Push(store, model, client, report, PushReport(model.name, reference, model.digest, reference.tags))
        push.run(lease, deltas)
    push.told.seconds = time.monotonic() - began_s
    return push.told


@dataclass
class _Push:
    store: ModelStore
    model: StoredModel
    client: RegistryClient
    report: Report
    told: PushReport
    _mounts: dict[Digest, str] = field(default_factory=dict)

    def run(self, lease: Lease, deltas: bool) -> None:
        self.report({"status": "retrieving manifest"})
        data = self.store.blobs.read(self.model.digest, MAX_MANIFEST_BYTES)
        before = self._previous() if deltas else None
        self._mounts = self._repositories()
        for blob in self.model.manifest.blobs():
            self._send(Content(blob.digest, blob.size, self.store.blobs), blob)
        self.report({"status": "pushing manifest"})
        for tag in self.told.tags:
            self.client.put_manifest(tag, data)
        kept = self.store.lease()
        try:
            made = list(self._deltas(before, lease, kept)) if before else []
            self._push_referrers(referrers_of(self.store, self.model.digest, made))
        finally:
            self.store.discard(kept)  # here both ends of each delta are, unless somebody else needs it
        self.told.deltas = len(made)

    def _send(self, content: Content, blob: Descriptor) -> None:
        progress = Progress(self.report, self.client.reference.host, blob, verb="pushing")

        def tell(sent: int) -> None:
            if sent < blob.size:  # the last byte is not in the registry before it says so
                progress(sent, sent)

        try:
            way = push_blob(
                self.client,
                content,
                mount_from=self._mounts.get(blob.digest, ""),
                progress=tell,
            )
        except RegistryRefused as refusal:
            if refusal.code == DIGEST_INVALID and self.store.blobs.has(blob.digest):
                self.store.blobs.verify(blob.digest)  # raises where the bytes changed on this disk
            raise
        progress(blob.size, blob.size if way is Way.SENT else 0)
        self.told.blobs_there += way is Way.THERE
        self.told.blobs_mounted += way is Way.MOUNTED
        self.told.blobs_sent += way is Way.SENT
        self.told.bytes_sent += blob.size if way is Way.SENT else 0

    def _previous(self) -> Manifest | None:
        """Return what the moving tag stands for in the registry until now, where that model is here."""
        digest = self.client.manifest_digest(self.told.tags[-1])
        if digest is None or digest == self.model.digest or not self.store.blobs.has(digest):
            return None
        try:
            return self.store.manifest(digest)
        except (StoreError, ProtocolError):
            return None  # without it there is only no delta

    def _repositories(self) -> dict[Digest, str]:
        """Return in which other repository of this registry a blob should be: that of a model that came from there."""
        found: dict[Digest, str] = {}
        for entry in self.store.refs.list():
            for version in entry.history:
                repository = _repository(version.source, self.client.reference)
                if repository:
                    found |= dict.fromkeys(self._blobs_of(version.digest), repository)
        return found

    def _blobs_of(self, manifest: Digest) -> list[Digest]:
        try:
            return [blob.digest for blob in self.store.manifest(manifest).blobs()]
        except (StoreError, ProtocolError):
            return []

    def _deltas(self, before: Manifest, lease: Lease, kept: Lease) -> Iterator[DeltaBlob]:
        """Make a delta for each layer whose counterpart of the same path changed throughout; `kept` keeps them."""
        for layer in self.model.layers:
            old = before.layer(layer.filepath)
            if old is None or old.digest == layer.digest or not self.store.blobs.has(old.digest):
                continue
            lease.add(old.digest)
            limit = self._limit(old, layer)
            if limit <= 0:
                continue
            self.report({"status": f"making a delta for {layer.filepath}"})
            try:
                delta = make_delta(self.store, old.digest, layer.digest, kept, limit)
            except (BlobMissing, LayerCorrupt):
                continue  # the old one is damaged; the new one has been sent, and needs no delta
            if delta is not None:
                blob = Descriptor(delta, self.store.blobs.size(delta), layer.media_type)
                yield DeltaBlob(blob, old.digest, layer.digest)

    def _limit(self, old: Layer, new: Layer) -> int:
        """Return how large a delta may be to move less than the missing chunks."""
        try:
            maps = self.store.chunk_map(old), self.store.chunk_map(new)
        except (StoreError, ProtocolError):
            return 0
        return 0 if maps[0] is None or maps[1] is None else delta_limit(maps[0], maps[1])

    def _push_referrers(self, referrers: Sequence[ReferrerManifest]) -> None:
        unlisted: list[Part] = []
        for referrer in referrers:
            sizes = {part.digest: part.size for part in referrer.artifact.parts}
            for digest, content in referrer.blobs.items():
                size = sizes[digest] if content is None else len(content)
                self._send(
                    Content(digest, size, self.store.blobs if content is None else content),
                    Descriptor(digest, size, referrer.descriptor.artifact_type),
                )
            if not self.client.put_manifest(format_oci_digest(referrer.descriptor.digest), referrer.data):
                unlisted.append(referrer.descriptor)
        if unlisted:
            self._list_by_tag(unlisted)
        self.told.referrers = len(referrers)

    def _list_by_tag(self, unlisted: list[Part]) -> None:
        """Add referrers to the tag that lists them where the registry does not do so itself."""
        before = self.client.tagged_referrers(self.model.digest)
        known = {entry.digest for entry in before}
        if any(part.digest not in known for part in unlisted):
            index = merge_index(before, unlisted)
            self.client.put_manifest(referrers_tag(self.model.digest), index, INDEX_MEDIA_TYPE)


def _repository(source: str, target: Reference) -> str:
    """Return the repository that the source of a version names, if it is another one of the same registry."""
    if not source.startswith(SOURCE):
        return ""
    try:
        reference = parse_reference(source.removeprefix(SOURCE))
    except (ReferenceInvalid, OciNameInvalid):
        return ""
    same = reference.host == target.host and reference.repository != target.repository
    return reference.repository if same else ""
