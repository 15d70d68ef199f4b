"""Model manifests: the CNCF ModelPack form of an OCI image manifest (specs/0007)."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from protocol.canonical_json import Json, decode_json, encode_json
from protocol.chunkmap import MAX_CHUNK_MAP_BYTES
from protocol.digest import Digest, format_oci_digest, parse_digest
from protocol.errors import DigestInvalid, JsonInvalid, LayerPathInvalid, ManifestInvalid
from protocol.layer_path import check_layer_paths

MAX_MANIFEST_BYTES: Final = 4 << 20
MAX_CONFIG_BYTES: Final = 4 << 20
MAX_LAYERS: Final = 4096
MAX_OBJECTS: Final = 8 * MAX_LAYERS  # a layer is two; counted before anything is built
MAX_BLOB_BYTES: Final = 1 << 50
MAX_ANNOTATIONS: Final = 64
MAX_ANNOTATION_CHARS: Final = 4096

MANIFEST_MEDIA_TYPE: Final = "application/vnd.oci.image.manifest.v1+json"
ARTIFACT_TYPE: Final = "application/vnd.cncf.model.manifest.v1+json"
CONFIG_MEDIA_TYPE: Final = "application/vnd.cncf.model.config.v1+json"
WEIGHT: Final = "application/vnd.cncf.model.weight.v1.raw"
WEIGHT_CONFIG: Final = "application/vnd.cncf.model.weight.config.v1.raw"
DOC: Final = "application/vnd.cncf.model.doc.v1.raw"
CODE: Final = "application/vnd.cncf.model.code.v1.raw"
DATASET: Final = "application/vnd.cncf.model.dataset.v1.raw"
LAYER_MEDIA_TYPES: Final = frozenset({WEIGHT, WEIGHT_CONFIG, DOC, CODE, DATASET})

FILEPATH: Final = "org.cncf.model.filepath"
TITLE: Final = "org.opencontainers.image.title"
CREATED: Final = "org.opencontainers.image.created"
MIR: Final = "io.tilenode.mir"  # the model's normalised MIR name (specs/0020)
CHUNK_MAP: Final = "io.tilenode.chunkmap"
CHUNK_MAP_SIZE: Final = "io.tilenode.chunkmap.size"


@dataclass(frozen=True)
class Descriptor:
    """A blob by digest, size in bytes and media type."""

    digest: Digest
    size: int
    media_type: str


@dataclass(frozen=True)
class Layer:
    """One file of a model: a raw blob and the path it has in the model's directory.

    `annotations` holds what stands beside the file path; the chunk map's pin is among it.
    """

    digest: Digest
    size: int
    media_type: str
    filepath: str
    annotations: Mapping[str, str] = field(default_factory=dict)

    @property
    def chunk_map(self) -> Descriptor | None:
        """The pinned chunk map of this layer: its digest and size; None where the layer is fetched whole."""
        digest = self.annotations.get(CHUNK_MAP)
        if digest is None:
            return None
        return Descriptor(parse_digest(digest), int(self.annotations[CHUNK_MAP_SIZE]), CHUNK_MAP)


@dataclass(frozen=True)
class Manifest:
    """A model: its config blob and its files in path order."""

    config: Descriptor
    layers: tuple[Layer, ...]
    annotations: Mapping[str, str] = field(default_factory=dict)

    @property
    def size_bytes(self) -> int:
        """Bytes of config and layers together; a layer that stands twice counts once."""
        sizes = {layer.digest: layer.size for layer in self.layers} | {self.config.digest: self.config.size}
        return sum(sizes.values())

    def blobs(self) -> Iterator[Descriptor]:
        """Yield every blob that the model needs once, in publishing order: chunk maps and config, then layers."""
        small = [pin for layer in self.layers if (pin := layer.chunk_map)] + [self.config]
        large = [Descriptor(layer.digest, layer.size, layer.media_type) for layer in self.layers]
        yield from {blob.digest: blob for blob in (*small, *large)}.values()

    def layer(self, filepath: str) -> Layer | None:
        """Return the layer that holds the file `filepath`, or None."""
        return next((layer for layer in self.layers if layer.filepath == filepath), None)


def pin_chunk_map(digest: Digest, size: int) -> dict[str, str]:
    """Return the annotations that tie a layer to its chunk map."""
    return {CHUNK_MAP: format_oci_digest(digest), CHUNK_MAP_SIZE: str(size)}


def format_time(seconds: int) -> str:
    """Return `seconds` since the epoch in RFC 3339, UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def encode_manifest(manifest: Manifest) -> bytes:
    """Return the canonical bytes of `manifest`, whose SHA-256 is the model's digest.

    Raises:
        ManifestInvalid: a manifest that `parse_manifest` would refuse.
    """
    document: dict[str, Json] = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_MEDIA_TYPE,
        "artifactType": ARTIFACT_TYPE,
        "config": _descriptor_document(manifest.config),
        "layers": [_layer_document(layer) for layer in manifest.layers],
    }
    if manifest.annotations:
        document["annotations"] = dict(manifest.annotations)
    data = encode_json(document)
    parse_manifest(data)
    return data


def parse_manifest(data: bytes) -> Manifest:
    """Return the manifest that `data` holds, every digest, size and path checked.

    Properties that this version does not know are carried by the digest but have no effect: OCI requires readers to
    bear them. `urls` and `data` of a descriptor are among them, so a manifest can never make this node call out.

    Raises:
        ManifestInvalid: anything that is not a ModelPack manifest of raw layers within the limits of specs/0007.
    """
    objects = data.count(b"{")
    if objects > MAX_OBJECTS:
        raise ManifestInvalid("manifest", f"{objects} objects, more than {MAX_LAYERS} layers can have")
    try:
        document = _object("manifest", decode_json(data, MAX_MANIFEST_BYTES, "manifest"))
    except JsonInvalid as error:
        raise ManifestInvalid("manifest", error.reason) from None
    _expect(document, "schemaVersion", 2)
    _expect(document, "mediaType", MANIFEST_MEDIA_TYPE)
    _expect(document, "artifactType", ARTIFACT_TYPE)
    config = _parse_config_descriptor(document.get("config"))
    layers = _parse_layers(document.get("layers"))
    _check_sizes_agree(config, layers)
    return Manifest(config, layers, _annotations("annotations", document.get("annotations")))


def _descriptor_document(blob: Descriptor) -> dict[str, Json]:
    return {"mediaType": blob.media_type, "digest": format_oci_digest(blob.digest), "size": blob.size}


def _layer_document(layer: Layer) -> dict[str, Json]:
    document = _descriptor_document(Descriptor(layer.digest, layer.size, layer.media_type))
    document["annotations"] = {**layer.annotations, FILEPATH: layer.filepath, TITLE: layer.filepath}
    return document


def _parse_config_descriptor(value: object) -> Descriptor:
    config = _parse_descriptor("config", _object("config", value))
    if config.media_type != CONFIG_MEDIA_TYPE:
        raise ManifestInvalid("config.mediaType", f"expected {CONFIG_MEDIA_TYPE}, found {config.media_type[:80]!r}")
    if config.size > MAX_CONFIG_BYTES:
        raise ManifestInvalid("config.size", f"{config.size} bytes, at most {MAX_CONFIG_BYTES} are allowed")
    return config


def _parse_layers(value: object) -> tuple[Layer, ...]:
    if not isinstance(value, list):
        raise ManifestInvalid("layers", "expected a list")
    if not 0 < len(value) <= MAX_LAYERS:
        raise ManifestInvalid("layers", f"{len(value)} layers, 1 to {MAX_LAYERS} are allowed")
    layers = tuple(_parse_layer(f"layers[{index}]", item) for index, item in enumerate(value))
    try:
        check_layer_paths(layer.filepath for layer in layers)
    except LayerPathInvalid as error:
        raise ManifestInvalid("layers", str(error)) from None
    return layers


def _parse_layer(where: str, value: object) -> Layer:
    document = _object(where, value)
    blob = _parse_descriptor(where, document)
    if blob.media_type not in LAYER_MEDIA_TYPES:
        raise ManifestInvalid(f"{where}.mediaType", f"{blob.media_type[:80]!r} is no raw model layer")
    annotations = _annotations(f"{where}.annotations", document.get("annotations"))
    filepath = annotations.pop(FILEPATH, None)
    if filepath is None:
        raise ManifestInvalid(f"{where}.annotations", f"{FILEPATH} is missing")
    if annotations.pop(TITLE, filepath) != filepath:
        raise ManifestInvalid(f"{where}.annotations", f"{TITLE} names another file than {FILEPATH}")
    _check_chunk_map_pin(where, annotations)
    return Layer(blob.digest, blob.size, blob.media_type, filepath, annotations)


def _check_chunk_map_pin(where: str, annotations: Mapping[str, str]) -> None:
    digest, size = annotations.get(CHUNK_MAP), annotations.get(CHUNK_MAP_SIZE)
    if digest is None and size is None:
        return
    if digest is None or size is None:
        raise ManifestInvalid(f"{where}.annotations", f"{CHUNK_MAP} and {CHUNK_MAP_SIZE} go together")
    _digest(f"{where}.annotations[{CHUNK_MAP}]", digest)
    if not (size.isascii() and size.isdigit() and len(size) <= 10 and str(int(size)) == size):
        raise ManifestInvalid(f"{where}.annotations[{CHUNK_MAP_SIZE}]", f"{size[:20]!r} is no size")
    if not 0 < int(size) <= MAX_CHUNK_MAP_BYTES:
        raise ManifestInvalid(f"{where}.annotations[{CHUNK_MAP_SIZE}]", f"{size} bytes")


def _check_sizes_agree(config: Descriptor, layers: tuple[Layer, ...]) -> None:
    sizes = {config.digest: config.size}
    for index, layer in enumerate(layers):
        pin = layer.chunk_map
        claims = [(layer.digest, layer.size)] + ([(pin.digest, pin.size)] if pin else [])
        for digest, size in claims:
            if sizes.setdefault(digest, size) != size:
                raise ManifestInvalid(f"layers[{index}]", f"{digest[:12]} with two different sizes")


def _parse_descriptor(where: str, document: Mapping[str, object]) -> Descriptor:
    media_type, size = document.get("mediaType"), document.get("size")
    if not isinstance(media_type, str):
        raise ManifestInvalid(f"{where}.mediaType", "expected text")
    if type(size) is not int or not 0 <= size <= MAX_BLOB_BYTES:
        raise ManifestInvalid(f"{where}.size", f"expected 0 to {MAX_BLOB_BYTES} bytes, found {str(size)[:40]}")
    return Descriptor(_digest(f"{where}.digest", document.get("digest")), size, media_type)


def _digest(where: str, value: object) -> Digest:
    if not isinstance(value, str) or not value.startswith("sha256:"):
        raise ManifestInvalid(where, f"expected sha256:<64 hex>, found {str(value)[:80]!r}")
    try:
        return parse_digest(value)
    except DigestInvalid as error:
        raise ManifestInvalid(where, str(error)) from None


def _annotations(where: str, value: object) -> dict[str, str]:
    found = _object(where, {} if value is None else value)
    if len(found) > MAX_ANNOTATIONS:
        raise ManifestInvalid(where, f"{len(found)} annotations, at most {MAX_ANNOTATIONS} are allowed")
    checked: dict[str, str] = {}
    for key, text in found.items():
        if not isinstance(text, str) or len(text) > MAX_ANNOTATION_CHARS or len(key) > MAX_ANNOTATION_CHARS:
            raise ManifestInvalid(f"{where}[{key[:80]}]", f"expected text of at most {MAX_ANNOTATION_CHARS} characters")
        checked[key] = text
    return checked


def _object(where: str, value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise ManifestInvalid(where, "expected an object")
    return value


def _expect(document: Mapping[str, object], key: str, expected: int | str) -> None:
    found = document.get(key)
    if type(found) is not type(expected) or found != expected:
        raise ManifestInvalid(key, f"expected {expected}, found {str(found)[:80]}")
