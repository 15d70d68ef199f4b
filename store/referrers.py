"""The referrers of a stored model: what a registry is given beside its manifest, in bytes that are always the same."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from protocol.digest import Digest, digest_of, format_oci_digest
from protocol.manifest import MANIFEST_MEDIA_TYPE, MAX_MANIFEST_BYTES, Descriptor, Manifest, parse_manifest
from protocol.referrer import (
    CHUNK_MAPS,
    DELTA,
    DELTA_BASE,
    DELTA_TARGET,
    EMPTY,
    EMPTY_CONFIG,
    MAPPED_BLOB,
    PROVENANCE,
    Artifact,
    Part,
    encode_artifact,
    encode_index,
)
from store.blobs import Blobs
from store.provenance import ProvenanceFiles

MAX_BUNDLES: Final = 16


class ReferrerStore(Protocol):
    """What is needed of the model store."""

    @property
    def blobs(self) -> Blobs:
        """Manifests and chunk maps."""

    @property
    def provenance(self) -> ProvenanceFiles:
        """The bundles of each manifest."""


@dataclass(frozen=True)
class DeltaBlob:
    """A stored blob that turns the layer `base` into the layer `target`."""

    blob: Descriptor
    base: Digest
    target: Digest


@dataclass(frozen=True)
class ReferrerManifest:
    """One referrer: how an index lists it, its manifest, and the blobs that the manifest names.

    In `blobs` the bytes stand beside each digest, or None where the blob lies in the store.
    """

    descriptor: Part
    data: bytes
    artifact: Artifact
    blobs: Mapping[Digest, bytes | None]


def referrers_of(store: ReferrerStore, manifest: Digest, deltas: Sequence[DeltaBlob] = ()) -> list[ReferrerManifest]:
    """Return the referrers of a stored model: its chunk maps, its provenance bundles (the newest 16), and `deltas`.

    Raises:
        BlobMissing, LayerCorrupt, BlobTooLarge, ManifestInvalid: the manifest is not there or is none.
        DiskFailed: a bundle cannot be read.
    """
    data = store.blobs.read(manifest, MAX_MANIFEST_BYTES)
    subject = Descriptor(manifest, len(data), MANIFEST_MEDIA_TYPE)
    found = [*_chunk_maps(store.blobs, parse_manifest(data), subject), *_deltas(subject, deltas)]
    bundles = sorted(store.provenance.all(manifest)[:MAX_BUNDLES], key=digest_of)
    return found + [_provenance(subject, bundle) for bundle in bundles]


def referrers_index(referrers: Sequence[ReferrerManifest], artifact_type: str = "") -> bytes:
    """Return the OCI index of `referrers`, only those of `artifact_type` where one is asked for."""
    listed = [referrer.descriptor for referrer in referrers]
    return encode_index(entry for entry in listed if artifact_type in ("", entry.artifact_type))


def _chunk_maps(blobs: Blobs, manifest: Manifest, subject: Descriptor) -> Iterator[ReferrerManifest]:
    pins = {layer.digest: pin for layer in manifest.layers if (pin := layer.chunk_map) and blobs.has(pin.digest)}
    parts = [
        Part(pin.digest, pin.size, CHUNK_MAPS, {MAPPED_BLOB: format_oci_digest(blob)})
        for blob, pin in sorted(pins.items())
    ]
    if parts:
        yield _referrer(Artifact(CHUNK_MAPS, subject, tuple(parts)), dict.fromkeys(part.digest for part in parts))


def _provenance(subject: Descriptor, bundle: bytes) -> ReferrerManifest:
    part = Part(digest_of(bundle), len(bundle), PROVENANCE)
    return _referrer(Artifact(PROVENANCE, subject, (part,)), {part.digest: bundle})


def _deltas(subject: Descriptor, deltas: Sequence[DeltaBlob]) -> Iterator[ReferrerManifest]:
    parts = [
        Part(
            delta.blob.digest,
            delta.blob.size,
            DELTA,
            {DELTA_BASE: format_oci_digest(delta.base), DELTA_TARGET: format_oci_digest(delta.target)},
        )
        for delta in sorted(deltas, key=lambda delta: (delta.target, delta.base))
    ]
    if parts:
        yield _referrer(Artifact(DELTA, subject, tuple(parts)), dict.fromkeys(part.digest for part in parts))


def _referrer(artifact: Artifact, blobs: Mapping[Digest, bytes | None]) -> ReferrerManifest:
    data = encode_artifact(artifact)
    descriptor = Part(digest_of(data), len(data), MANIFEST_MEDIA_TYPE, {}, artifact.artifact_type)
    return ReferrerManifest(descriptor, data, artifact, {EMPTY.digest: EMPTY_CONFIG, **blobs})
