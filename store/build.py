"""Building a model: from a recipe and the files it names to a manifest, the same one wherever and whenever it runs."""

import tempfile
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Final, Protocol

from protocol.attestation import Artifact
from protocol.build_record import (
    BUILD_RECORD,
    MAX_BUILD_RECORD_BYTES,
    BuildRecord,
    ResolvedSource,
    SourceDigest,
    SourceKind,
    content_digest,
    encode_build_record,
    parse_build_record,
)
from protocol.chunkmap import ALGORITHM, VERSION
from protocol.digest import Digest, digest_of, parse_digest
from protocol.errors import BuildRecordInvalid
from protocol.manifest import (
    CONFIG_MEDIA_TYPE,
    CREATED,
    DOC,
    MIR,
    WEIGHT,
    Descriptor,
    Layer,
    Manifest,
    encode_manifest,
    format_time,
)
from protocol.model_config import ModelConfig, encode_config
from protocol.model_name import ModelName, format_model_name
from protocol.modelfile import Modelfile, format_modelfile, inherit_modelfile
from protocol.quantization import Quantization
from store.adapters import ADAPTER_HERE, adapter_layers, find_adapter, is_adapter, store_adapter
from store.bases import Bases, LocalBases, Located, Places, located_layers, shown_path
from store.disk import require_space
from store.errors import SourceInvalid, SourceMissing
from store.fetched import Report
from store.layers import Progress, StoredLayer, hash_source, known_layers, store_file
from store.leases import Lease
from store.models import HERE, MODELFILE, ModelStore, StoredModel
from store.sources import CONFIG, INDEX, TOKENIZER_FILES, TOKENIZERS, FileAt, Origin, Source, read_files
from store.weights import describe_weights

_OWN_FILES: Final = (MODELFILE, BUILD_RECORD)  # of a base: written anew for what is built from it
_MACHINE: Final = ("device", "host")  # facts about where a build ran: attested, and no part of the model


class Convert(Protocol):
    """What packs weights anew, in a process of its own."""

    def convert(self, source_dir: Path, target_dir: Path, quantization: Quantization) -> Mapping[str, str]:
        """Write `config.json` and canonical `model*.safetensors` into the empty `target_dir`; return what did it.

        The same input gives the same bytes. In the answer, tools by version; `device` and `host` are facts about the
        machine.

        Raises:
            QuantizationRefused: these weights cannot be packed so.
            ConversionFailed: the process ended before it was done.
        """


@dataclass(frozen=True)
class BuildRequest:
    """What is to be built, from which recipe; relative paths begin at `base_dir`.

    `created_s` is the only time in the manifest: None takes the time of the upstream commit, else 0. `tokenizer` names
    where the tokenizer's files come from when not from the base, in the words of FROM.
    """

    modelfile: Modelfile
    name: ModelName
    base_dir: Path
    created_s: int | None = None
    quantization: Quantization = Quantization.NONE
    tokenizer: str | None = None


@dataclass(frozen=True)
class AttestedBuild:
    """What a build attests beside its manifest: what was asked for, what went in, what did the work and where."""

    sources: tuple[Artifact, ...]
    external_parameters: Mapping[str, str]
    tool_versions: Mapping[str, str]
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class BuiltModel:
    """A manifest that is in the store with all its blobs, to which no name leads yet.

    The blobs stay until a name stands for the manifest, or nobody holds this object any more. `recorded` is what
    `build.json` in it says.
    """

    manifest: Digest
    record: AttestedBuild
    recorded: BuildRecord
    layers: tuple[Layer, ...]
    lease: Lease = field(repr=False, compare=False)


_NOTHING_ELSE: Final = LocalBases()


def _unheard(event: dict[str, object]) -> None:
    """Nobody listens."""


def build_model(
    store: ModelStore,
    request: BuildRequest,
    *,
    bases: Bases = _NOTHING_ELSE,
    convert: Convert | None = None,
    report: Report = _unheard,
    known: Mapping[str, StoredModel | Located] | None = None,
) -> BuiltModel:
    """Store the model that `request` describes and return its manifest, which no name stands for yet.

    What FROM means is in `Places.locate`; `known` are names that stand for something already. `report` is told how far
    the work is, and may raise to stop it.

    Raises:
        BuildRefused: FROM or ADAPTER is nothing that can be built from, or the weights cannot be packed as asked.
        SafetensorsInvalid: a weight file is cut off or otherwise not what its header says.
        LayerCorrupt: a file is not what was promised.
        DiskFull, DiskFailed: nothing was named; what was stored is not in anybody's way.
    """
    lease = store.leases.take()
    try:
        places = Places(store, request.base_dir, bases, lease, report, bool(request.name.version), known or {})
        return _Build(store, request, places, convert).run()
    except BaseException:
        store.discard(lease)
        raise


def read_build_record(store: ModelStore, model: StoredModel) -> BuildRecord | None:
    """Return what the model says about its build; None where it says nothing that is understood here.

    Raises:
        BlobMissing, LayerCorrupt: the layer is gone or changed.
    """
    layer = model.manifest.layer(BUILD_RECORD)
    if layer is None or layer.size > MAX_BUILD_RECORD_BYTES:
        return None
    try:
        return parse_build_record(store.blobs.read(layer.digest, MAX_BUILD_RECORD_BYTES))
    except BuildRecordInvalid:
        return None  # another program's file of that name


@dataclass(frozen=True)
class _Parts:
    """What a base gives: its files as layers, its recipe, what is known of it, and where it came from."""

    taken: tuple[StoredLayer, ...]
    recipe: Modelfile
    config: ModelConfig
    sources: tuple[ResolvedSource, ...]
    time_s: int | None = None
    tools: Mapping[str, str] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()


class _Build:
    """One build; everything it stores is kept by the lease of `places`."""

    def __init__(self, store: ModelStore, request: BuildRequest, places: Places, convert: Convert | None) -> None:
        self._store = store
        self._request = request
        self._places = places
        self._convert = convert
        self._lease = places.lease

    def run(self) -> BuiltModel:
        parts = self._parts_with_adapter()
        request = self._request
        created_s = request.created_s if request.created_s is not None else parts.time_s or 0
        record = BuildRecord(
            recipe=format_modelfile(_shown(request.modelfile)),
            sources=parts.sources,
            quantization=request.quantization,
            tokenizer=shown_path(request.tokenizer or ""),
            tools={**_tool_versions(), **{k: v for k, v in parts.tools.items() if k not in _MACHINE}},
            created_s=created_s,
            content=content_digest(row for taken in parts.taken for row in taken.tensors),
        )
        recipe = replace(inherit_modelfile(parts.recipe, request.modelfile), base=HERE)
        recipe = replace(recipe, adapter=ADAPTER_HERE) if recipe.adapter else recipe
        layers = (
            *(taken.layer for taken in parts.taken),
            self._document(MODELFILE, format_modelfile(recipe).encode()),
            self._document(BUILD_RECORD, encode_build_record(record)),
        )
        layers = tuple(sorted(layers, key=lambda layer: layer.filepath))
        annotations = {CREATED: format_time(created_s), **({MIR: recipe.mir} if recipe.mir else {})}
        manifest = self._publish(layers, parts.config, created_s, annotations)
        self._lease.until_named = manifest
        attested = AttestedBuild(
            sources=tuple(artifact for source in parts.sources for artifact in _artifacts(source)),
            external_parameters={
                "name": format_model_name(request.name),
                "modelfile": record.recipe,
                "created": format_time(created_s),
                "quantization": str(request.quantization),
            },
            tool_versions={**record.tools, **parts.tools},
            left_out=parts.left_out,
        )
        return BuiltModel(manifest, attested, record, layers, self._lease)

    def _parts_with_adapter(self) -> _Parts:
        """Return the parts with the adapter of the recipe, in the place of the one that the base may have."""
        name = self._request.modelfile.adapter
        if name is None:
            return self._parts()
        adapter = find_adapter(self._places, name)  # before a large base is read for nothing
        parts = self._parts()
        taken = tuple(stored for stored in parts.taken if not is_adapter(stored.layer))
        layers = (stored.layer for stored in taken)
        own, source = store_adapter(self._store, self._lease, adapter, layers, self._places.report)
        return replace(parts, taken=(*taken, *own), sources=(*parts.sources, source))

    def _parts(self) -> _Parts:
        base = self._places.locate(self._request.modelfile.base)
        tokenizer = self._tokenizer()
        if isinstance(base, StoredModel):
            if self._request.quantization is Quantization.NONE and tokenizer is None:
                return self._stored(base)
            weights = (x for x in base.layers if x.filepath not in _OWN_FILES and not is_adapter(x))
            parts = self._from_files(located_layers(self._store, base, weights), tokenizer)
            kept = adapter_layers(base.layers)
            progress = Progress(self._places.report, "reading", sum(layer.size for layer in kept))
            adapter = known_layers(self._store, self._lease, kept, progress)
            return replace(parts, taken=(*parts.taken, *adapter), recipe=base.modelfile, time_s=self._time_of(base))
        return self._from_files(base, tokenizer)

    def _stored(self, base: StoredModel) -> _Parts:
        layers = [layer for layer in base.layers if layer.filepath not in _OWN_FILES]
        progress = Progress(self._places.report, "reading", sum(layer.size for layer in layers))
        taken = known_layers(self._store, self._lease, layers, progress)
        source = ResolvedSource(
            SourceKind.MODEL,
            format_model_name(base.name),
            base.digest,
            tuple(SourceDigest(layer.filepath, layer.digest, layer.size) for layer in layers),
        )
        return _Parts(taken, base.modelfile, base.config, (source,), self._time_of(base))

    def _time_of(self, base: StoredModel) -> int | None:
        record = read_build_record(self._store, base)
        return record.created_s if record else None

    def _from_files(self, base: Located, tokenizer: Located | None) -> _Parts:
        files = dict(base.files)
        if tokenizer is not None:
            files = {name: at for name, at in files.items() if name not in TOKENIZER_FILES} | dict(tokenizer.files)
        source = read_files(files, base.origin, base.place)
        left_out = tuple(sorted({*source.left_out, *base.skipped}))
        if self._request.quantization is not Quantization.NONE:
            return replace(self._converted(source, tokenizer), left_out=left_out)
        require_space(self._store.layout.blobs, source.size_bytes)
        taken = self._take(source)
        digests = {x.layer.filepath: SourceDigest(x.layer.filepath, x.layer.digest, x.layer.size) for x in taken}
        return _Parts(
            taken,
            Modelfile(HERE),
            describe_weights(source),
            _resolved(source, tokenizer, digests),
            base.origin.time_s,
            left_out=left_out,
        )

    def _converted(self, source: Source, tokenizer: Located | None) -> _Parts:
        """Return the parts of `source` with its weights and config converted; its bytes are hashed before."""
        assert self._convert is not None, "the caller can convert when it asks for it"
        quantization = self._request.quantization
        require_space(self._store.layout.blobs, 2 * source.size_bytes)
        progress = Progress(self._places.report, "hashing", source.size_bytes)
        before = [file.path.stat() for file in source.files]
        digests = {file.filepath: hash_source(file, progress) for file in source.files}
        with tempfile.TemporaryDirectory(dir=self._store.layout.temporary, prefix="convert-") as scratch:
            given, made = Path(scratch, "source"), Path(scratch, "target")
            given.mkdir()
            made.mkdir()
            for file in source.files:
                (given / file.filepath).symlink_to(file.path)
            tools = self._convert.convert(given, made, quantization)
            for file, then in zip(source.files, before, strict=True):
                now = file.path.stat()
                if (now.st_ino, now.st_size, now.st_mtime_ns) != (then.st_ino, then.st_size, then.st_mtime_ns):
                    raise SourceInvalid(file.filepath, "changed while it was converted")
            kept = {
                file.filepath: FileAt(file.path, digests[file.filepath].digest)
                for file in source.files
                if file.media_type != WEIGHT and file.filepath not in (CONFIG, INDEX)
            }
            converted = {path.name: FileAt(path, within=made) for path in made.iterdir()}
            result = read_files({**kept, **converted}, source.origin, made)
            taken = self._take(result)
        return _Parts(
            taken,
            Modelfile(HERE),
            describe_weights(result),
            _resolved(source, tokenizer, digests),
            source.origin.time_s,
            tools,
        )

    def _tokenizer(self) -> Located | None:
        if self._request.tokenizer is None:
            return None
        found = self._places.locate(self._request.tokenizer)
        if isinstance(found, StoredModel):
            found = located_layers(self._store, found, found.layers)
        files = {name: at for name, at in found.files.items() if name in TOKENIZER_FILES}
        if not any(name in files for name in TOKENIZERS):
            raise SourceMissing(found.place, TOKENIZERS[0])
        return replace(found, files=files)

    def _take(self, source: Source) -> tuple[StoredLayer, ...]:
        progress = Progress(self._places.report, "storing", source.size_bytes)
        return tuple(store_file(self._store, self._lease, file, progress) for file in source.files)

    def _document(self, filepath: str, content: bytes) -> Layer:
        self._lease.add(digest_of(content))
        return Layer(self._store.blobs.publish_bytes(content), len(content), DOC, filepath)

    def _publish(
        self, layers: tuple[Layer, ...], config: ModelConfig, created_s: int, annotations: Mapping[str, str]
    ) -> Digest:
        blobs = self._store.blobs
        config_blob = encode_config(config, [layer.digest for layer in layers], created_s)
        self._lease.add(digest_of(config_blob))
        descriptor = Descriptor(blobs.publish_bytes(config_blob), len(config_blob), CONFIG_MEDIA_TYPE)
        manifest = encode_manifest(Manifest(descriptor, layers, annotations))
        self._lease.add(digest_of(manifest))
        return blobs.publish_bytes(manifest)


def _resolved(
    source: Source, tokenizer: Located | None, digests: Mapping[str, SourceDigest]
) -> tuple[ResolvedSource, ...]:
    """Return what went in, each source with the files that came from it."""
    borrowed = frozenset(tokenizer.files if tokenizer else ())
    origins: list[tuple[Origin, AbstractSet[str]]] = [(source.origin, digests.keys() - borrowed)]
    if tokenizer:
        origins.append((tokenizer.origin, borrowed & digests.keys()))
    return tuple(
        ResolvedSource(origin.kind, origin.name, origin.revision, tuple(digests[name] for name in sorted(names)))
        for origin, names in origins
    )


def _artifacts(source: ResolvedSource) -> tuple[Artifact, ...]:
    if source.kind is SourceKind.MODEL:
        return (Artifact(source.name, parse_digest(source.revision)),)
    return tuple(Artifact(file.path, file.digest) for file in source.files)


def _shown(modelfile: Modelfile) -> Modelfile:
    adapter = None if modelfile.adapter is None else shown_path(modelfile.adapter)
    return replace(modelfile, base=shown_path(modelfile.base), adapter=adapter)


def _tool_versions() -> dict[str, str]:
    return {
        "tilenode": version("tilenode"),
        "pyfastcdc": version("pyfastcdc"),
        "chunkmap": f"{VERSION}.{ALGORITHM}",
    }
