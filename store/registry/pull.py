"""A model from a registry: every byte checked by hash, the name moved last, and nothing kept that nobody wants."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from identity.did import DeviceId
from protocol.digest import Digest, format_oci_digest
from protocol.manifest import ARTIFACT_TYPE, MANIFEST_MEDIA_TYPE, Manifest, parse_manifest
from protocol.model_name import ModelName, format_model_name
from protocol.provenance import decode_and_verify_provenance
from protocol.referrer import INDEX_MEDIA_TYPE, parse_index
from protocol.registry import Reference
from store.models import ModelStore
from store.refs import RefEvent
from store.registry.client import FetchedManifest, RegistryClient
from store.registry.credentials import Login
from store.registry.errors import IndexAmbiguous
from store.registry.layers import LayerPull, Report
from store.registry.offered import Offered, read_offered
from store.registry.session import Pace


@dataclass(frozen=True)
class PullReport:
    """What a pull brought: bytes moved over the network, taken from blobs here, and left by an earlier run.

    `publisher` is the DID that signed it, "" where no valid signature came with it.
    """

    name: ModelName
    manifest: Digest
    publisher: str
    bytes_moved: int
    bytes_reused: int
    bytes_resumed: int
    seconds: float


def pull_model(
    store: ModelStore,
    reference: Reference,
    name: ModelName,
    *,
    report: Report,
    login: Login | None = None,
    deltas: bool = True,
    distrusted: Callable[[DeviceId], bool] = lambda _: False,
    pace: Pace | None = None,
    check: Callable[[], None] = lambda: None,
) -> PullReport:
    """Let `name` stand for the model at `reference`, fetched as far as it is not here already.

    `report` is told each step and may raise to stop; so may `check`, several times a second. What arrived by then is
    kept for the next time. Order: manifest → lease → space → chunk maps, config, layers → manifest → provenance → name.
    The signature of a `distrusted` publisher counts as none.

    Raises:
        RegistryError, RegistryAnswerInvalid: the registry does not give it, or not as it promised.
        ManifestInvalid, ModelfileInvalid, ArtifactInvalid: what it gives is no model that can be used here.
        LayerCorrupt, ChunkCorrupt, ChunkMapInvalid: it gives other bytes than it promised.
        VersionTaken: the release `name` stands for another model already.
        DiskFull, DiskFailed, PartialBusy: as the store says.
    """
    began_s = time.monotonic()
    with RegistryClient(reference, login=login, pace=pace, check=check) as client:
        report({"status": "pulling manifest"})
        fetched = find_model(client)
        manifest = parse_manifest(fetched.data)
        with store.lease([fetched.digest, *(blob.digest for blob in manifest.blobs())]) as lease:
            _require_space(store, manifest)
            offered = read_offered(client, fetched.digest)
            for complaint in offered.complaints:
                report({"status": complaint})
            layers = LayerPull(client, store, offered, lease, report, deltas)
            _take_blobs(layers, manifest)
            report({"status": "writing manifest"})
            publisher = _keep(store, fetched, _trusted(offered, distrusted, report), name, reference)
        moved = client.session.received.count
    tally = layers.tally
    return PullReport(name, fetched.digest, publisher, moved, tally.reused, tally.resumed, time.monotonic() - began_s)


def find_model(client: RegistryClient) -> FetchedManifest:
    """Return the manifest at the client's reference; of an index, the one model that stands in it.

    Raises:
        IndexAmbiguous: it stands for none or for several.
        RegistryUnknown: there is nothing at the reference.
        AnswerMismatch, AnswerTooLarge, ArtifactInvalid: it is not what it should be.
    """
    fetched = client.manifest(client.reference.key)
    if fetched.media_type != INDEX_MEDIA_TYPE:
        return fetched
    entries = [entry for entry in parse_index(fetched.data) if entry.media_type == MANIFEST_MEDIA_TYPE]
    models = [entry for entry in entries if entry.artifact_type == ARTIFACT_TYPE]
    fitting = models or [entry for entry in entries if not entry.artifact_type]
    if len(fitting) != 1:
        raise IndexAmbiguous(str(client.reference), [entry.digest for entry in fitting])
    return client.manifest(format_oci_digest(fitting[0].digest))


def _require_space(store: ModelStore, manifest: Manifest) -> None:
    store.require_space(sum(blob.size for blob in manifest.blobs() if not store.blobs.has(blob.digest)))


def _take_blobs(layers: LayerPull, manifest: Manifest) -> None:
    if not layers.store.blobs.has(manifest.config.digest):
        layers.take_small(manifest.config)
    for layer in {layer.digest: layer for layer in manifest.layers}.values():
        layers.take_layer(layer)


def _trusted(offered: Offered, distrusted: Callable[[DeviceId], bool], report: Report) -> list[bytes]:
    """Return the bundles of publishers that were not stopped; who was is told."""
    trusted = []
    for bundle in offered.bundles:
        publisher = decode_and_verify_provenance(bundle).publisher
        if distrusted(publisher):
            report({"status": f"the signature of {publisher} does not count: that device was stopped"})
        else:
            trusted.append(bundle)
    return trusted


def _keep(
    store: ModelStore, fetched: FetchedManifest, bundles: Sequence[bytes], name: ModelName, reference: Reference
) -> str:
    """Publish the manifest, keep its provenance, move the name: in this order, so that a kill leaves no half.

    Return who signed it under this name, else who signed it at all, else "".
    """
    store.blobs.publish_bytes(fetched.data)
    store.require_readable(fetched.digest)
    signed = [store.provenance.save(bundle) for bundle in bundles]
    source = f"registry {reference.host}/{reference.repository}:{reference.tag}"
    store.refs.set(name, fetched.digest, event=RefEvent.PULL, source=source)
    here = [provenance.publisher for provenance in signed if provenance.name == format_model_name(name)]
    return str(next(iter(here or [provenance.publisher for provenance in signed]), ""))
