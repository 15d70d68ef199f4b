"""What a manifest leads to, read and parsed: its config and its recipe, and what a list shows of it."""

from typing import Final

from protocol.digest import Digest
from protocol.errors import ManifestInvalid, ProtocolError
from protocol.manifest import MAX_CONFIG_BYTES, MAX_MANIFEST_BYTES, MIR, Layer, Manifest, parse_manifest
from protocol.model_config import ModelConfig, parse_config
from protocol.modelfile import MAX_MODELFILE_CHARS, Modelfile, parse_modelfile
from store.blobs import Blobs
from store.capabilities import read_capabilities
from store.errors import StoreError
from store.facts import ModelFacts

MODELFILE: Final = "Modelfile"
HERE: Final = "."  # what FROM says in a stored recipe: the weights beside it
MAX_MODELFILE_BYTES: Final = 4 * MAX_MODELFILE_CHARS


def read_model(blobs: Blobs, digest: Digest) -> tuple[Manifest, ModelConfig, Modelfile]:
    """Return a stored manifest with the config and the recipe that it names.

    Raises:
        BlobMissing, LayerCorrupt, BlobTooLarge: one of them is gone, changed or too large.
        ManifestInvalid, ModelfileInvalid: one of them cannot be read.
    """
    manifest = parse_manifest(blobs.read(digest, MAX_MANIFEST_BYTES))
    config = parse_config(blobs.read(manifest.config.digest, MAX_CONFIG_BYTES))
    recipe = manifest.layer(MODELFILE)
    return manifest, config, _read_recipe(blobs, recipe) if recipe else Modelfile(HERE)


def read_facts(blobs: Blobs, digest: Digest) -> ModelFacts | None:
    """Return what a list shows of a stored manifest, None where it cannot be read."""
    try:
        manifest, config, _ = read_model(blobs, digest)
    except (StoreError, ProtocolError):
        return None
    about = (config.format, config.family, config.parameter_size, config.precision)
    words = " ".join(read_capabilities(blobs, manifest, config.family))
    return ModelFacts(manifest.size_bytes, *about, manifest.annotations.get(MIR, ""), words)


def _read_recipe(blobs: Blobs, layer: Layer) -> Modelfile:
    content = blobs.read(layer.digest, MAX_MODELFILE_BYTES)
    try:
        return parse_modelfile(content.decode())
    except UnicodeDecodeError as error:
        raise ManifestInvalid(MODELFILE, f"no UTF-8 at byte {error.start}") from None
