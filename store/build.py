"""Building a model: from a recipe and the files it names to a manifest, the same one wherever and whenever it runs."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Final

from protocol.attestation import Artifact
from protocol.chunkmap import ALGORITHM, VERSION
from protocol.digest import Digest, digest_of
from protocol.errors import ModelNameInvalid
from protocol.manifest import (
    CONFIG_MEDIA_TYPE,
    CREATED,
    DOC,
    Descriptor,
    Layer,
    Manifest,
    encode_manifest,
    format_time,
)
from protocol.model_config import ModelConfig, encode_config, format_parameter_size
from protocol.model_name import ModelName, format_model_name, parse_model_name
from protocol.modelfile import Modelfile, format_modelfile, inherit_modelfile
from store.disk import disk_errors, require_space
from store.errors import BaseUnknown, FormatUnsupported, InstructionUnsupported
from store.ingest import ingest_file
from store.leases import Lease
from store.models import HERE, MODELFILE, ModelStore, StoredModel
from store.safetensors import SafetensorsHeader
from store.sources import Source, read_source

_PATH_STARTS: Final = (".", "/", "~")
_WEIGHT_TYPES: Final[Mapping[str, str]] = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "F8_E4M3": "float8", "F8_E5M2": "float8",
}  # fmt: skip


@dataclass(frozen=True)
class BuildRecord:
    """What a build says about itself: nothing in it depends on the machine, the day or the directory's place."""

    sources: tuple[Artifact, ...]
    external_parameters: Mapping[str, str]
    tool_versions: Mapping[str, str]
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class BuiltModel:
    """A manifest that is in the store with all its blobs, to which no name leads yet.

    The blobs stay until a name stands for the manifest, or nobody holds this object any more.
    """

    manifest: Digest
    record: BuildRecord
    layers: tuple[Layer, ...]
    lease: Lease = field(repr=False, compare=False)


def build_model(
    store: ModelStore,
    modelfile: Modelfile,
    base_dir: Path,
    name: ModelName,
    created_s: int = 0,
    find_base: Callable[[str], Path | None] = lambda base: None,
) -> BuiltModel:
    """Store the model that `modelfile` describes and return its manifest, which no name stands for yet.

    FROM is, in this order: a path (beginning with `.`, `/` or `~`; relative ones start at `base_dir`), a stored name,
    what `find_base` knows, a directory of that name in `base_dir`. `created_s` is the only time in the manifest.

    Raises:
        BuildRefused: FROM is nothing that can be built from, or ADAPTER or MIR is there.
        SafetensorsInvalid: a weight file is cut off or otherwise not what its header says.
        DiskFull, DiskFailed: nothing was named; what was stored is not in anybody's way.
    """
    for instruction, value in (("ADAPTER", modelfile.adapter), ("MIR", modelfile.mir)):
        if value is not None:
            raise InstructionUnsupported(instruction)
    lease = store.leases.take()
    try:
        return _build(store, modelfile, base_dir, name, created_s, find_base, lease)
    except BaseException:
        store.discard(lease)
        raise


def _build(
    store: ModelStore,
    modelfile: Modelfile,
    base_dir: Path,
    name: ModelName,
    created_s: int,
    find_base: Callable[[str], Path | None],
    lease: Lease,
) -> BuiltModel:
    base = _find_base(store, modelfile.base, base_dir, find_base)
    parts = _from_stored(base, lease) if isinstance(base, StoredModel) else _from_directory(store, base, lease)
    recipe = replace(inherit_modelfile(parts.recipe, modelfile), base=HERE)
    layers = (*parts.layers, _recipe_layer(store, recipe, lease))
    manifest = _publish(store, tuple(sorted(layers, key=lambda layer: layer.filepath)), parts.config, created_s, lease)
    lease.until_named = manifest
    record = BuildRecord(parts.sources, _parameters(modelfile, name, created_s), _tool_versions(), parts.left_out)
    return BuiltModel(manifest, record, layers, lease)


@dataclass(frozen=True)
class _Parts:
    """What a base gives: its files, its recipe, what is known of it."""

    layers: tuple[Layer, ...]
    recipe: Modelfile
    config: ModelConfig
    sources: tuple[Artifact, ...]
    left_out: tuple[str, ...] = ()


def _find_base(
    store: ModelStore, base: str, base_dir: Path, find_base: Callable[[str], Path | None]
) -> StoredModel | Path:
    if base.lower().endswith((".gguf", ".ggml")):
        raise FormatUnsupported(base, "GGUF weights are not read here")
    if base.startswith(_PATH_STARTS):
        return _directory(base, base_dir / _expand_home(base))
    if stored := _stored_base(store, base):
        return stored
    return find_base(base) or _directory(base, base_dir / base)


def _stored_base(store: ModelStore, base: str) -> StoredModel | None:
    try:
        name = parse_model_name(base)
    except ModelNameInvalid:
        return None
    return store.resolve(name) if store.refs.get(name) else None


def _expand_home(base: str) -> Path:
    try:
        return Path(base).expanduser()
    except RuntimeError:  # the home of a user whom this machine does not know
        raise BaseUnknown(base) from None


def _directory(base: str, path: Path) -> Path:
    with disk_errors(path):
        if not path.is_dir():
            raise BaseUnknown(base)
    return path


def _from_stored(base: StoredModel, lease: Lease) -> _Parts:
    layers = tuple(layer for layer in base.layers if layer.filepath != MODELFILE)
    lease.add(*(layer.digest for layer in layers), *(pin.digest for layer in layers if (pin := layer.chunk_map)))
    source = Artifact(format_model_name(base.name), base.digest)
    return _Parts(layers, base.modelfile, base.config, (source,))


def _from_directory(store: ModelStore, directory: Path, lease: Lease) -> _Parts:
    source = read_source(directory)
    require_space(store.layout.blobs, source.size_bytes)
    layers = []
    for file in source.files:
        with file.open() as opened:
            ingested = ingest_file(store.blobs, lease, opened, file.size, file.filepath, file.media_type, file.header)
        layer = Layer(ingested.blob.digest, file.size, file.media_type, file.filepath, ingested.annotations)
        if ingested.chunk_map:
            store.chunks.add(layer.digest, ingested.chunk_map)
        layers.append(layer)
    sources = tuple(Artifact(layer.filepath, layer.digest) for layer in layers)
    return _Parts(tuple(layers), Modelfile(HERE), _describe(source), sources, source.left_out)


def _recipe_layer(store: ModelStore, recipe: Modelfile, lease: Lease) -> Layer:
    content = format_modelfile(recipe).encode()
    lease.add(digest_of(content))
    return Layer(store.blobs.publish_bytes(content), len(content), DOC, MODELFILE)


def _publish(store: ModelStore, layers: tuple[Layer, ...], config: ModelConfig, created_s: int, lease: Lease) -> Digest:
    config_blob = encode_config(config, [layer.digest for layer in layers], created_s)
    lease.add(digest_of(config_blob))
    descriptor = Descriptor(store.blobs.publish_bytes(config_blob), len(config_blob), CONFIG_MEDIA_TYPE)
    manifest = encode_manifest(Manifest(descriptor, layers, {CREATED: format_time(created_s)}))
    lease.add(digest_of(manifest))
    return store.blobs.publish_bytes(manifest)


def _describe(source: Source) -> ModelConfig:
    headers = [file.header for file in source.files if file.header]
    quantization = source.config.get("quantization")
    bits = quantization.get("bits") if isinstance(quantization, dict) else None
    types = Counter(tensor.dtype for header in headers for tensor in header.tensors if tensor.dtype in _WEIGHT_TYPES)
    common = types.most_common(1)
    precision = f"{bits}-bit" if type(bits) is int else _WEIGHT_TYPES[common[0][0]] if common else ""
    count = sum(_parameter_count(header, bits if type(bits) is int and bits > 0 else None) for header in headers)
    family = str(source.config["model_type"])
    return ModelConfig(family if family.isprintable() else "", "safetensors", format_parameter_size(count), precision)


def _parameter_count(header: SafetensorsHeader, bits: int | None) -> int:
    """Return the weights in a file; where they are packed, several lie in each integer and scales are not weights."""
    if bits is None:
        return header.element_count
    packed = [tensor for tensor in header.tensors if tensor.dtype == "U32"]
    scales = {tensor.name.rpartition(".")[0] for tensor in packed}
    plain = [t for t in header.tensors if t.dtype != "U32" and t.name.rpartition(".")[0] not in scales]
    return sum(t.length * 8 // bits for t in packed) + sum(t.element_count for t in plain)


def _parameters(modelfile: Modelfile, name: ModelName, created_s: int) -> dict[str, str]:
    """Return what was asked for; of a path outside the recipe's directory only the last part, because peers see it."""
    base = modelfile.base
    shown = f"./{Path(base).name}" if base.startswith(("/", "~", "..")) else base
    return {
        "name": format_model_name(name),
        "modelfile": format_modelfile(replace(modelfile, base=shown)),
        "created": format_time(created_s),
    }


def _tool_versions() -> dict[str, str]:
    return {
        "tilenode": version("tilenode"),
        "pyfastcdc": version("pyfastcdc"),
        "chunkmap": f"{VERSION}.{ALGORITHM}",
    }
