"""ADAPTER at the build: found, checked against the model it is for, and stored as layers of it (specs/0009)."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from protocol.digest import digest_of
from protocol.errors import ModelNameInvalid
from protocol.manifest import WEIGHT, WEIGHT_CONFIG, Layer
from protocol.model_name import parse_model_name
from protocol.modelfile import Modelfile
from store.disk import disk_errors, open_regular
from store.errors import AdapterInvalid, AdapterUnknown
from store.ingest import ingest_file
from store.leases import Lease
from store.lora import (
    CONFIG,
    FOLDER,
    MAX_CONFIG_BYTES,
    WEIGHTS,
    Adapter,
    check_adapter,
    check_tensors,
    encode_adapter_config,
    parse_adapter_config,
    read_adapter,
)
from store.models import ModelStore
from store.safetensors import SafetensorsHeader, read_header

ADAPTER_HERE: Final = "./adapter"  # what ADAPTER says in a stored recipe
WEIGHTS_PATH: Final = f"{FOLDER}/{WEIGHTS}"
CONFIG_PATH: Final = f"{FOLDER}/{CONFIG}"
_PATH_STARTS: Final = (".", "/", "~")


def find_adapter(store: ModelStore, adapter: str, base_dir: Path) -> Adapter:
    """Return the adapter that ADAPTER names: a path, the stored model that has it, or a directory in `base_dir`.

    Paths begin with `.`, `/` or `~`; relative ones start at `base_dir`. A path may also be that of the weights.

    Raises:
        AdapterUnknown: there is none.
        AdapterInvalid, FormatUnsupported, SafetensorsInvalid, WeightsNotFinite: it is there and cannot be used.
    """
    if not adapter.startswith(_PATH_STARTS) and (stored := _stored_adapter(store, adapter)):
        return stored
    try:
        path = base_dir / Path(adapter).expanduser()
    except RuntimeError:  # the home of a user whom this machine does not know
        raise AdapterUnknown(adapter) from None
    with disk_errors(path):
        directory = path.parent if path.name == WEIGHTS and path.is_file() else path
        if not directory.is_dir():
            raise AdapterUnknown(adapter)
    return read_adapter(directory)


def adapter_layers(store: ModelStore, adapter: Adapter, lease: Lease) -> tuple[Layer, ...]:
    """Store an adapter and return its layers; what is in the store already is only leased.

    Raises:
        WeightsNotFinite, SourceInvalid: the file changed since it was checked.
        DiskFull, DiskFailed: it was not stored.
    """
    config = encode_adapter_config(adapter.config)
    lease.add(digest_of(config))
    config_layer = Layer(store.blobs.publish_bytes(config), len(config), WEIGHT_CONFIG, CONFIG_PATH)
    if isinstance(adapter.weights, Layer):
        pin = adapter.weights.chunk_map
        lease.add(adapter.weights.digest, *((pin.digest,) if pin else ()))
        return config_layer, adapter.weights
    with disk_errors(adapter.weights), open_regular(adapter.weights) as file:
        size = adapter.weights.stat().st_size
        ingested = ingest_file(store.blobs, lease, file, size, WEIGHTS_PATH, WEIGHT, adapter.header)
    if ingested.chunk_map:
        store.chunks.add(ingested.blob.digest, ingested.chunk_map)
    return config_layer, Layer(ingested.blob.digest, size, WEIGHT, WEIGHTS_PATH, ingested.annotations)


def with_adapter(
    store: ModelStore, adapter: Adapter | None, recipe: Modelfile, layers: Sequence[Layer], lease: Lease
) -> tuple[Modelfile, tuple[Layer, ...]]:
    """Return recipe and layers of a model with `adapter` in the place of the one that its base may have had.

    With None the base's own stays. Raises as `check_adapter` and `adapter_layers`.
    """
    if adapter is None:
        return recipe, tuple(layers)
    check_adapter(adapter, weight_headers(store, layers))
    return replace(recipe, adapter=ADAPTER_HERE), (*without_adapter(layers), *adapter_layers(store, adapter, lease))


def without_adapter(layers: Iterable[Layer]) -> tuple[Layer, ...]:
    """Return `layers` without those of an adapter."""
    return tuple(layer for layer in layers if not layer.filepath.startswith(f"{FOLDER}/"))


def weight_headers(store: ModelStore, layers: Iterable[Layer]) -> list[SafetensorsHeader]:
    """Return the headers of a stored model's weights, without its adapter's.

    Raises:
        BlobMissing, SafetensorsInvalid: one is gone or cannot be read.
    """
    weights = [layer for layer in without_adapter(layers) if layer.filepath.endswith(".safetensors")]
    return [read_header(store.layout.blob_path(layer.digest)) for layer in weights]


def _stored_adapter(store: ModelStore, adapter: str) -> Adapter | None:
    try:
        name = parse_model_name(adapter)
    except ModelNameInvalid:
        return None
    if store.refs.get(name) is None:
        return None
    manifest = store.resolve(name).manifest
    config, weights = manifest.layer(CONFIG_PATH), manifest.layer(WEIGHTS_PATH)
    if config is None or weights is None:
        raise AdapterInvalid(adapter, "the model of that name has no adapter")
    parsed = parse_adapter_config(store.blobs.read(config.digest, MAX_CONFIG_BYTES))
    store.blobs.verify(weights.digest)
    header = read_header(store.layout.blob_path(weights.digest))
    check_tensors(parsed, header)
    return Adapter(parsed, header, weights)
