"""Referrers: small artifacts that point at a model's manifest and carry what is no part of it (specs/0023).

A chunk map, a provenance bundle and a delta are no layers, because other programs refuse layer types that they do not
know. Each travels as a manifest of its own whose `subject` is the model; its bytes follow from its content alone.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from protocol.canonical_json import Json, decode_json, encode_json
from protocol.digest import Digest, digest_of, format_oci_digest, parse_digest
from protocol.errors import ArtifactInvalid, DigestInvalid, JsonInvalid
from protocol.manifest import (
    MANIFEST_MEDIA_TYPE,
    MAX_ANNOTATION_CHARS,
    MAX_ANNOTATIONS,
    MAX_BLOB_BYTES,
    MAX_LAYERS,
    MAX_MANIFEST_BYTES,
    Descriptor,
)

INDEX_MEDIA_TYPE: Final = "application/vnd.oci.image.index.v1+json"
EMPTY_MEDIA_TYPE: Final = "application/vnd.oci.empty.v1+json"
EMPTY_CONFIG: Final = b"{}"
EMPTY: Final = Descriptor(digest_of(EMPTY_CONFIG), len(EMPTY_CONFIG), EMPTY_MEDIA_TYPE)

CHUNK_MAPS: Final = "application/vnd.tilenode.chunkmap.v1"
PROVENANCE: Final = "application/vnd.tilenode.provenance.v1"
DELTA: Final = "application/vnd.tilenode.delta.v1"

MAPPED_BLOB: Final = "io.tilenode.chunkmap.blob"
DELTA_BASE: Final = "io.tilenode.delta.base"
DELTA_TARGET: Final = "io.tilenode.delta.target"

MAX_INDEX_BYTES: Final = 4 << 20
MAX_INDEX_ENTRIES: Final = 4096
MAX_TYPE_CHARS: Final = 255


@dataclass(frozen=True)
class Part:
    """A blob of an artifact, or a manifest in an index, with what is written beside it."""

    digest: Digest
    size: int
    media_type: str
    annotations: Mapping[str, str] = field(default_factory=dict)
    artifact_type: str = ""

    @property
    def descriptor(self) -> Descriptor:
        """Digest, size and media type alone."""
        return Descriptor(self.digest, self.size, self.media_type)


@dataclass(frozen=True)
class Artifact:
    """A manifest that refers to `subject` and carries `parts`."""

    artifact_type: str
    subject: Descriptor
    parts: tuple[Part, ...]
    annotations: Mapping[str, str] = field(default_factory=dict)


def encode_artifact(artifact: Artifact) -> bytes:
    """Return the canonical bytes of `artifact`; its config is the empty JSON object of OCI 1.1.

    Raises:
        ArtifactInvalid: one that `parse_artifact` would refuse.
    """
    document: dict[str, Json] = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_MEDIA_TYPE,
        "artifactType": artifact.artifact_type,
        "config": _part_document(Part(EMPTY.digest, EMPTY.size, EMPTY.media_type)),
        "layers": [_part_document(part) for part in artifact.parts],
        "subject": _part_document(
            Part(artifact.subject.digest, artifact.subject.size, artifact.subject.media_type),
        ),
    }
    if artifact.annotations:
        document["annotations"] = dict(artifact.annotations)
    data = encode_json(document)
    parse_artifact(data)
    return data


def parse_artifact(data: bytes) -> Artifact:
    """Return the artifact that `data` holds: at most 4 MiB, 4,096 parts.

    Raises:
        ArtifactInvalid: no OCI manifest with a type and a subject, or not within the limits.
    """
    document = _open(data, MAX_MANIFEST_BYTES, "artifact")
    if document.get("schemaVersion") != 2 or document.get("mediaType") != MANIFEST_MEDIA_TYPE:
        raise ArtifactInvalid("artifact", "expected an OCI image manifest")
    config = _part("artifact.config", document.get("config"))
    artifact_type = _type("artifact.artifactType", document.get("artifactType", config.media_type))
    layers = document.get("layers")
    if not isinstance(layers, list) or not 0 < len(layers) <= MAX_LAYERS:
        raise ArtifactInvalid("artifact.layers", f"expected 1 to {MAX_LAYERS} layers")
    parts = tuple(_part(f"artifact.layers[{index}]", layer) for index, layer in enumerate(layers))
    subject = _part("artifact.subject", document.get("subject")).descriptor
    return Artifact(artifact_type, subject, parts, _annotations("artifact", document.get("annotations")))


def encode_index(entries: Iterable[Part]) -> bytes:
    """Return the canonical bytes of an OCI index of `entries`, in the order of their digests, each once.

    Raises:
        ArtifactInvalid: one that `parse_index` would refuse.
    """
    unique = {entry.digest: entry for entry in entries}
    documents = [_part_document(unique[digest]) for digest in sorted(unique)]
    data = encode_json({"schemaVersion": 2, "mediaType": INDEX_MEDIA_TYPE, "manifests": documents})
    parse_index(data)
    return data


def parse_index(data: bytes) -> tuple[Part, ...]:
    """Return the entries of an OCI index: at most 4 MiB, 4,096 entries.

    Raises:
        ArtifactInvalid: no OCI index, or not within the limits.
    """
    document = _open(data, MAX_INDEX_BYTES, "index")
    if document.get("schemaVersion") != 2 or document.get("mediaType", INDEX_MEDIA_TYPE) != INDEX_MEDIA_TYPE:
        raise ArtifactInvalid("index", "expected an OCI image index")
    manifests = document.get("manifests")
    if not isinstance(manifests, list) or len(manifests) > MAX_INDEX_ENTRIES:
        raise ArtifactInvalid("index.manifests", f"expected at most {MAX_INDEX_ENTRIES} entries")
    return tuple(_part(f"index.manifests[{number}]", entry) for number, entry in enumerate(manifests))


def merge_index(entries: Sequence[Part], added: Sequence[Part]) -> bytes:
    """Return the index of `entries` with `added` among them, as the referrers tag of a subject is kept.

    Raises:
        ArtifactInvalid: more than 4,096 entries.
    """
    return encode_index([*entries, *added])


def referrers_tag(subject: Digest) -> str:
    """Return the tag under which a registry without the referrers API lists the referrers of `subject`."""
    return f"sha256-{subject}"


def _part_document(part: Part) -> dict[str, Json]:
    document: dict[str, Json] = {
        "mediaType": part.media_type,
        "digest": format_oci_digest(part.digest),
        "size": part.size,
    }
    if part.artifact_type:
        document["artifactType"] = part.artifact_type
    if part.annotations:
        document["annotations"] = dict(part.annotations)
    return document


def _open(data: bytes, max_bytes: int, what: str) -> dict[str, object]:
    try:
        document = decode_json(data, max_bytes, what)
    except JsonInvalid as error:
        raise ArtifactInvalid(what, error.reason) from None
    if not isinstance(document, dict):
        raise ArtifactInvalid(what, "expected an object")
    return document


def _part(where: str, value: object) -> Part:
    if not isinstance(value, dict):
        raise ArtifactInvalid(where, "expected an object")
    size = value.get("size")
    if type(size) is not int or not 0 <= size <= MAX_BLOB_BYTES:
        raise ArtifactInvalid(f"{where}.size", f"expected 0 to {MAX_BLOB_BYTES} bytes, found {str(size)[:40]}")
    return Part(
        digest=_digest(f"{where}.digest", value.get("digest")),
        size=size,
        media_type=_type(f"{where}.mediaType", value.get("mediaType")),
        annotations=_annotations(where, value.get("annotations")),
        artifact_type=_type(f"{where}.artifactType", value["artifactType"]) if value.get("artifactType") else "",
    )


def _digest(where: str, value: object) -> Digest:
    if not isinstance(value, str) or not value.startswith("sha256:"):
        raise ArtifactInvalid(where, f"expected sha256:<64 hex>, found {str(value)[:80]!r}")
    try:
        return parse_digest(value)
    except DigestInvalid as error:
        raise ArtifactInvalid(where, str(error)) from None


def _type(where: str, value: object) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= MAX_TYPE_CHARS or not value.isprintable():
        raise ArtifactInvalid(where, f"expected a media type, found {str(value)[:80]!r}")
    return value


def _annotations(where: str, value: object) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict) or len(value) > MAX_ANNOTATIONS:
        raise ArtifactInvalid(f"{where}.annotations", f"expected at most {MAX_ANNOTATIONS} annotations")
    for key, text in value.items():
        if not (isinstance(text, str) and _is_text(key) and _is_text(text)):
            raise ArtifactInvalid(f"{where}.annotations", f"{key[:80]!a}: expected text within the limit")
    return dict(value)


def _is_text(text: str) -> bool:
    """Return whether `text` is short enough and can be written again: JSON can spell half of a surrogate pair."""
    return len(text) <= MAX_ANNOTATION_CHARS and not any("\ud800" <= char <= "\udfff" for char in text)
