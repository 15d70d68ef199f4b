"""ADAPTER at the build: found, checked against the model it is for, and stored as layers of it (specs/0009)."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from protocol.build_record import ResolvedSource, SourceDigest
from protocol.digest import digest_of
from protocol.manifest import WEIGHT, WEIGHT_CONFIG, Layer
from store.bases import Places, located_layers
from store.errors import AdapterInvalid, AdapterUnknown, BaseUnknown, FormatUnsupported, SourceEscapes
from store.fetched import Report, Wanted
from store.layers import Progress, StoredLayer, read_layer_header, store_file
from store.leases import Lease
from store.lora import (
    CONFIG,
    FOLDER,
    PEFT_REASON,
    PEFT_WEIGHTS,
    WEIGHTS,
    Adapter,
    check_adapter,
    encode_adapter_config,
    read_adapter_files,
)
from store.models import ModelStore, StoredModel
from store.sources import FileAt, Origin, SourceFile

ADAPTER_HERE: Final = "./adapter"  # what ADAPTER says in a stored recipe
WEIGHTS_PATH: Final = f"{FOLDER}/{WEIGHTS}"
CONFIG_PATH: Final = f"{FOLDER}/{CONFIG}"


@dataclass(frozen=True)
class FoundAdapter:
    """A checked adapter, where its files lie, and where they came from."""

    adapter: Adapter
    weights: FileAt
    origin: Origin


def find_adapter(places: Places, name: str) -> FoundAdapter:
    """Return the adapter that ADAPTER names, found as FROM is: a path, a stored model that has one, a repository.

    A path may also be that of the weights in their directory.

    Raises:
        AdapterUnknown: there is nothing of that name.
        SourceEscapes: a symbolic link leads out of its directory.
        AdapterInvalid, FormatUnsupported, SafetensorsInvalid, WeightsNotFinite: it is there and cannot be used.
        HubError: it may be elsewhere, and that place does not give it.
    """
    try:
        found = places.locate(name.removesuffix(f"/{WEIGHTS}"), Wanted.ADAPTER)
    except BaseUnknown:
        raise AdapterUnknown(name) from None
    skipped = () if isinstance(found, StoredModel) else found.skipped
    if isinstance(found, StoredModel):
        found = located_layers(places.store, found, adapter_layers(found.layers))
    files = {path.removeprefix(f"{FOLDER}/"): at for path, at in found.files.items()}
    if WEIGHTS not in files and PEFT_WEIGHTS in {*files, *skipped}:
        raise FormatUnsupported(PEFT_WEIGHTS, PEFT_REASON)
    for file in (CONFIG, WEIGHTS):
        if file not in files:
            raise AdapterInvalid(file, f"is not in {found.origin.name}")
        _require_inside(file, files[file])
    adapter = read_adapter_files(files[CONFIG].path, files[WEIGHTS].path)
    return FoundAdapter(adapter, files[WEIGHTS], found.origin)


def store_adapter(
    store: ModelStore, lease: Lease, found: FoundAdapter, base: Iterable[Layer], report: Report
) -> tuple[tuple[StoredLayer, ...], ResolvedSource]:
    """Store the adapter for a model whose layers are `base`; return its layers and what is recorded of it.

    Raises:
        AdapterMismatch: it was made for another model.
        LayerCorrupt, SourceInvalid, WeightsNotFinite: its weights are not what was promised, or changed meanwhile.
        DiskFull, DiskFailed: it was not stored.
    """
    # Of the base alone: a draft's weights lie in a folder of their own, as an adapter's do.
    weights = [layer for layer in base if layer.media_type == WEIGHT and "/" not in layer.filepath]
    check_adapter(found.adapter, (read_layer_header(store.blobs, layer) for layer in weights))
    config = encode_adapter_config(found.adapter.config)
    lease.add(digest_of(config))
    config_layer = Layer(store.blobs.publish_bytes(config), len(config), WEIGHT_CONFIG, CONFIG_PATH)
    path = found.weights.path.resolve()
    size = path.stat().st_size
    file = SourceFile(path, WEIGHTS_PATH, WEIGHT, size, found.adapter.header, found.weights.digest)
    layers = (StoredLayer(config_layer), store_file(store, lease, file, Progress(report, "storing", size)))
    digests = tuple(SourceDigest(x.layer.filepath, x.layer.digest, x.layer.size) for x in layers)
    return layers, ResolvedSource(found.origin.kind, found.origin.name, found.origin.revision, digests)


def is_adapter(layer: Layer) -> bool:
    """Return whether `layer` is a file of a model's adapter."""
    return layer.filepath.startswith(f"{FOLDER}/")


def adapter_layers(layers: Iterable[Layer]) -> list[Layer]:
    """Return the layers of a model's adapter; none where it has none."""
    return [layer for layer in layers if is_adapter(layer)]


def _require_inside(name: str, at: FileAt) -> None:
    if at.within is not None and not at.path.resolve().is_relative_to(at.within.resolve()):
        raise SourceEscapes(name)
