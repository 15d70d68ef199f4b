"""What base, tokenizer, adapter and draft of a recipe give a build: layers, and what is known of their origins."""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Protocol

from protocol.build_record import (
    BUILD_RECORD,
    MAX_BUILD_RECORD_BYTES,
    BuildRecord,
    ResolvedSource,
    SourceDigest,
    SourceKind,
    parse_build_record,
)
from protocol.errors import BuildRecordInvalid
from protocol.manifest import WEIGHT
from protocol.model_config import ModelConfig
from protocol.model_name import ModelName, format_model_name
from protocol.modelfile import Modelfile
from protocol.quantization import Quantization
from store.adapters import adapter_layers, find_adapter, is_adapter, store_adapter
from store.bases import Located, Places, located_layers
from store.disk import disk_errors, require_space
from store.drafts import draft_layers, find_draft, is_draft, store_draft
from store.errors import SourceInvalid, SourceMissing
from store.fetched import Wanted
from store.layers import Progress, StoredLayer, hash_source, known_layers, store_file
from store.lock import scratch_directory
from store.models import HERE, MODELFILE, ModelStore, StoredModel
from store.sources import (
    CONFIG,
    INDEX,
    TOKENIZER_FILES,
    TOKENIZERS,
    FileAt,
    Origin,
    Source,
    SourceFile,
    list_directory,
    read_files,
)
from store.weights import describe_weights

# Of 16-bit weights, what converted ones take; a group of 64 has two more numbers of 16 bits.
_SHARE: Final = {Quantization.FP16: 1.0, Quantization.INT8: 0.54, Quantization.INT4: 0.29}
_OWN_FILES: Final = (MODELFILE, BUILD_RECORD)  # of a base: written anew for what is built from it


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
class Parts:
    """What a base gives: its files as layers, its recipe, what is known of it, and where it came from."""

    taken: tuple[StoredLayer, ...]
    recipe: Modelfile
    config: ModelConfig
    sources: tuple[ResolvedSource, ...]
    time_s: int | None = None
    tools: Mapping[str, str] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()


class PartsReader:
    """Reads the parts of one build; everything it stores is kept by the lease of `places`."""

    def __init__(self, request: BuildRequest, places: Places, convert: Convert | None) -> None:
        self._store = places.store
        self._request = request
        self._places = places
        self._convert = convert
        self._lease = places.lease

    def read(self) -> Parts:
        """Return the parts with the recipe's adapter and draft, in the place of those that the base may have."""
        recipe = self._request.modelfile
        # Before a large base is read for nothing:
        adapter = find_adapter(self._places, recipe.adapter) if recipe.adapter is not None else None
        draft = find_draft(self._places, recipe.draft) if recipe.draft is not None else None
        parts = self._parts()
        if adapter is not None:
            base = [stored for stored in parts.taken if not is_adapter(stored.layer)]
            layers = (stored.layer for stored in base)
            own, source = store_adapter(self._store, self._lease, adapter, layers, self._places.report)
            parts = replace(parts, taken=(*base, *own), sources=(*parts.sources, source))
        if draft is not None:
            base = [stored for stored in parts.taken if not is_draft(stored.layer)]
            layers = (stored.layer for stored in base)
            own, source = store_draft(self._store, self._lease, draft, layers, self._places.report)
            parts = replace(parts, taken=(*base, *own), sources=(*parts.sources, source))
        return parts

    def _parts(self) -> Parts:
        base = self._places.locate(self._request.modelfile.base)
        tokenizer = self._tokenizer()
        if isinstance(base, StoredModel):
            if self._request.quantization is Quantization.NONE and tokenizer is None:
                return self._stored(base)
            kept = [*adapter_layers(base.layers), *draft_layers(base.layers)]
            weights = (x for x in base.layers if x.filepath not in _OWN_FILES and x not in kept)
            parts = self._from_files(located_layers(self._store, base, weights), tokenizer)
            progress = Progress(self._places.report, "reading", sum(layer.size for layer in kept))
            beside = known_layers(self._store, self._lease, kept, progress)
            return replace(parts, taken=(*parts.taken, *beside), recipe=base.modelfile, time_s=self._time_of(base))
        return self._from_files(base, tokenizer)

    def _stored(self, base: StoredModel) -> Parts:
        layers = [layer for layer in base.layers if layer.filepath not in _OWN_FILES]
        progress = Progress(self._places.report, "reading", sum(layer.size for layer in layers))
        taken = known_layers(self._store, self._lease, layers, progress)
        source = ResolvedSource(
            SourceKind.MODEL,
            format_model_name(base.name),
            base.digest,
            tuple(SourceDigest(layer.filepath, layer.digest, layer.size) for layer in layers),
        )
        return Parts(taken, base.modelfile, base.config, (source,), self._time_of(base))

    def _time_of(self, base: StoredModel) -> int | None:
        record = read_build_record(self._store, base)
        return record.created_s if record else None

    def _from_files(self, base: Located, tokenizer: Located | None) -> Parts:
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
        return Parts(
            taken,
            Modelfile(HERE),
            describe_weights(source),
            _resolved(source, tokenizer, digests),
            base.origin.time_s,
            left_out=left_out,
        )

    def _converted(self, source: Source, tokenizer: Located | None) -> Parts:
        """Return the parts of `source` with its weights and config converted; its bytes are hashed before."""
        assert self._convert is not None, "the caller can convert when it asks for it"
        # The new weights lie on the disk twice while they are taken into the store.
        require_space(self._store.layout.blobs, int(2 * _SHARE[self._request.quantization] * source.size_bytes))
        progress = Progress(self._places.report, "hashing", source.size_bytes)
        before = [_stamp(file) for file in source.files]
        digests = {file.filepath: hash_source(file, progress) for file in source.files}
        with scratch_directory(self._store.layout.temporary, self._store.layout.sweeping) as scratch:
            given, made = scratch / "source", scratch / "target"
            with disk_errors(given):
                given.mkdir()
                made.mkdir()
                for file in source.files:
                    (given / file.filepath).parent.mkdir(exist_ok=True)
                    (given / file.filepath).symlink_to(file.path)
            tools = self._convert.convert(given, made, self._request.quantization)
            for file, then in zip(source.files, before, strict=True):
                if _stamp(file) != then:
                    raise SourceInvalid(file.filepath, "changed while it was converted")
            kept = {
                file.filepath: FileAt(file.path, digests[file.filepath].digest)
                for file in source.files
                if file.media_type != WEIGHT and file.filepath not in (CONFIG, INDEX)
            }
            result = read_files({**kept, **list_directory(made)}, source.origin, made)
            taken = self._take(result)
        sources = _resolved(source, tokenizer, digests)
        return Parts(taken, Modelfile(HERE), describe_weights(result), sources, source.origin.time_s, tools)

    def _tokenizer(self) -> Located | None:
        if self._request.tokenizer is None:
            return None
        found = self._places.locate(self._request.tokenizer, Wanted.TOKENIZER)
        if isinstance(found, StoredModel):
            found = located_layers(self._store, found, found.layers)
        files = {name: at for name, at in found.files.items() if name in TOKENIZER_FILES}
        if not any(name in files for name in TOKENIZERS):
            raise SourceMissing(found.place, TOKENIZERS[0])
        return replace(found, files=files)

    def _take(self, source: Source) -> tuple[StoredLayer, ...]:
        progress = Progress(self._places.report, "storing", source.size_bytes)
        return tuple(store_file(self._store, self._lease, file, progress) for file in source.files)


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


def _stamp(file: SourceFile) -> tuple[int, int, int]:
    """Return what changes when another program replaces a file or writes into it."""
    with disk_errors(file.path):
        status = file.path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


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
