"""Building a model again from what it says about itself, and saying what came out different."""

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from protocol.build_record import BUILD_RECORD, BuildRecord, ResolvedSource, SourceKind, parse_build_record
from protocol.digest import Digest, parse_digest, short_digest
from protocol.errors import BuildRecordInvalid
from protocol.manifest import MAX_MANIFEST_BYTES, Layer, Manifest, format_time
from protocol.model_name import ModelName, format_model_name, parse_model_name
from protocol.modelfile import MAX_MODELFILE_CHARS, parse_modelfile
from protocol.quantization import Quantization
from store.base_parts import BuildRequest, Convert, read_build_record
from store.bases import Bases, Located
from store.build import build_model
from store.build_places import recall_places
from store.drafts import FOLDER as DRAFT_FOLDER
from store.errors import BuildRecordMissing, BuildSourceGone
from store.fetched import Report, Wanted
from store.layers import layer_tensors
from store.leases import Lease
from store.lora import FOLDER, WEIGHTS
from store.models import MODELFILE, ModelStore, StoredModel
from store.sources import CONFIG, FileAt, Origin, list_directory

MAX_TENSORS_NAMED: Final = 10
_MAX_TEXT_BYTES: Final = 4 * MAX_MODELFILE_CHARS
_NONE: Final = "none"


@dataclass(frozen=True)
class Difference:
    """One thing that is not what it was: where, what is recorded, what the rebuild found."""

    where: str
    expected: str
    found: str


@dataclass(frozen=True)
class CheckReport:
    """What building a model again gave. `sources` says where the bytes were read from."""

    name: ModelName
    expected: Digest
    found: Digest
    differences: tuple[Difference, ...]
    sources: tuple[str, ...]

    @property
    def same(self) -> bool:
        """Whether the rebuild is the model, to the bit."""
        return self.expected == self.found


def check_build(
    store: ModelStore,
    name: ModelName,
    *,
    bases: Bases,
    convert: Convert | None,
    report: Report,
    source_dir: Path | None = None,
) -> CheckReport:
    """Build the model `name` again and compare; nothing that the rebuild stores stays.

    Weights that are layers as they came are read from the store, and so can be checked anywhere. Converted ones are
    read where the build read them: the directory, or `source_dir` in its place, the hub's commit, the stored base.

    Raises:
        LayerCorrupt: a stored base is not what it was; what changed is in quarantine.
        BuildRecordMissing: the model does not say how it was built.
        BuildSourceGone: a source is neither stored nor where it was.
        ModelUnknown, BuildRefused, HubError, …: see `build_model`.
    """
    model = store.resolve(name)
    record = read_build_record(store, model)
    if record is None:
        raise BuildRecordMissing(format_model_name(name))
    with store.lease([model.digest, *(blob.digest for blob in model.manifest.blobs())]) as lease:
        again = _Again(store, model, record, bases, lease, report, source_dir)
        known = again.known()
        _require_whole(store, known.values())
        request = BuildRequest(
            modelfile=parse_modelfile(record.recipe),
            name=name,
            base_dir=Path("/"),  # every name that is a path is known already
            created_s=record.created_s,
            quantization=record.quantization,
            tokenizer=record.tokenizer or None,
        )
        built = build_model(store, request, bases=bases, convert=convert, report=report, known=known)
        try:
            differences = tuple(compare_manifests(store, model.manifest, store.manifest(built.manifest)))
        finally:
            store.discard(built.lease)
    return CheckReport(name, model.digest, built.manifest, differences, tuple(again.read_from))


def _require_whole(store: ModelStore, places: Iterable[StoredModel | Located]) -> None:
    """Hash what a build takes from a stored model as it is; nothing else of the rebuild would read those bytes."""
    for place in places:
        for layer in place.layers if isinstance(place, StoredModel) else ():
            store.blobs.verify(layer.digest)


class _Again:
    """Finds the sources of a model anew."""

    def __init__(
        self,
        store: ModelStore,
        model: StoredModel,
        record: BuildRecord,
        bases: Bases,
        lease: Lease,
        report: Report,
        source_dir: Path | None,
    ) -> None:
        self._store = store
        self._model = model
        self._record = record
        self._bases = bases
        self._lease = lease
        self._report = report
        self._source_dir = source_dir
        self._places = recall_places(store.layout, model.digest)
        self.read_from: list[str] = []

    def known(self) -> dict[str, StoredModel | Located]:
        """Return what each name of the recipe stands for: base, tokenizer, adapter, draft, in the record's order.

        Raises:
            BuildRecordInvalid: the recipe names more or less than was resolved.
        """
        recipe = parse_modelfile(self._record.recipe)
        adapter = recipe.adapter.removesuffix(f"/{WEIGHTS}") if recipe.adapter else None  # its file or its directory
        names = [recipe.base, *filter(None, (self._record.tokenizer, adapter, recipe.draft))]
        if len(names) != len(self._record.sources):
            # Nothing may be left to be looked for on this machine: the record may be a stranger's.
            raise BuildRecordInvalid("sources", f"{len(self._record.sources)}, and the recipe names {len(names)}")
        found: dict[str, StoredModel | Located] = {}
        for name, source in zip(names, self._record.sources, strict=True):
            place = self._find(name, source, is_base=name == recipe.base)
            before = found.get(name)
            if isinstance(before, Located) and isinstance(place, Located):  # one place for two instructions
                place = replace(place, files={**before.files, **place.files})
            found[name] = place
        return found

    def _find(self, name: str, source: ResolvedSource, *, is_base: bool) -> StoredModel | Located:
        if source.kind is SourceKind.MODEL:
            return self._stored_base(source)
        if is_base and self._source_dir is not None:
            return self._directory(source, self._source_dir)
        place = self._places.get(source.name)
        if is_base and self._record.quantization is not Quantization.NONE and place is not None and place.is_dir():
            return self._directory(source, place)
        if all(self._store.blobs.has(file.digest) for file in source.files):
            self.read_from.append("the stored layers")
            files = {file.path: FileAt(self._store.layout.blob_path(file.digest), file.digest) for file in source.files}
            return Located(_origin(source), files, Path(source.name))
        if source.kind is SourceKind.EMBEDDED and (embedded := self._bases.find_embedded(name)):
            return self._directory(source, embedded)
        if source.kind in (SourceKind.HUB, SourceKind.CACHE):
            return self._fetch(source)
        raise self._gone(source, f"say where it lies: tilenode build --check {self._name} --source DIR")

    @property
    def _name(self) -> str:
        return format_model_name(self._model.name)

    def _gone(self, source: ResolvedSource, hint: str) -> BuildSourceGone:
        return BuildSourceGone(self._name, source.name, hint)

    def _directory(self, source: ResolvedSource, place: Path) -> Located:
        if not place.is_dir():
            raise BuildSourceGone(self._name, str(place), "give a directory that is there")
        self.read_from.append(str(place))
        wanted = {file.path.rpartition("/")[2] for file in source.files}
        files = list_directory(place)
        if source.kind is SourceKind.EMBEDDED:
            files = {path: at for path, at in files.items() if path in wanted}
        return Located(_origin(source), files, place)

    def _stored_base(self, source: ResolvedSource) -> StoredModel:
        digest = parse_digest(source.revision)
        if not self._store.blobs.has(digest):
            raise self._gone(source, f"fetch that version of it again: tilenode pull {source.name}")
        self.read_from.append(f"{source.name} ({short_digest(digest)})")
        return self._store.load(parse_model_name(source.name), digest)

    def _fetch(self, source: ResolvedSource) -> Located:
        name = f"{source.name}@{source.revision}" if source.kind is SourceKind.HUB else source.name
        for remote in self._bases.remotes:
            if remote.owns(name) or remote.may_have(name):
                fetched = remote.fetch_base(self._store, name, self._lease, self._report, _wanted(source))
                self.read_from.append(name)
                return Located(fetched.origin, fetched.files, Path(name), fetched.skipped)
        raise self._gone(source, "this node asks no model hub")


def _wanted(source: ResolvedSource) -> Wanted:
    """Return what of `source` the build had taken."""
    paths = {file.path for file in source.files}
    if any(path.startswith(f"{FOLDER}/") for path in paths):
        return Wanted.ADAPTER
    return Wanted.MODEL if paths & {CONFIG, f"{DRAFT_FOLDER}/{CONFIG}"} else Wanted.TOKENIZER


def _origin(source: ResolvedSource) -> Origin:
    return Origin(source.kind, source.name, source.revision)


def compare_manifests(store: ModelStore, expected: Manifest, found: Manifest) -> Iterator[Difference]:
    """Yield what differs: first what went in, then what came of it, tensor by tensor where there are tensors."""
    differs = False
    for difference in _compare_files(store, expected, found):
        differs = True
        yield difference
    if expected.config != found.config and not differs:  # it lists the layers, so it follows them
        yield Difference("config", short_digest(expected.config.digest), short_digest(found.config.digest))


def _compare_files(store: ModelStore, expected: Manifest, found: Manifest) -> Iterator[Difference]:
    before = {layer.filepath: layer for layer in expected.layers}
    after = {layer.filepath: layer for layer in found.layers}
    own = [BUILD_RECORD, MODELFILE]
    for filepath in own + sorted((before.keys() | after.keys()) - set(own)):
        one, other = before.get(filepath), after.get(filepath)
        if one is None or other is None:
            yield Difference(f"layer {filepath}", _shown(one), _shown(other))
        elif one != other:
            yield from _compare_layers(store, one, other)
    for key in sorted(expected.annotations.keys() | found.annotations.keys()):
        if expected.annotations.get(key) != found.annotations.get(key):
            yield Difference(key, expected.annotations.get(key, _NONE), found.annotations.get(key, _NONE))


def _shown(layer: Layer | None) -> str:
    return short_digest(layer.digest) if layer else _NONE


def _compare_layers(store: ModelStore, expected: Layer, found: Layer) -> Iterator[Difference]:
    if expected.filepath == BUILD_RECORD:
        yield from _compare_records(store, expected, found)
    elif expected.filepath == MODELFILE:
        yield from _compare_texts(store, expected, found)
    else:
        yield Difference(f"layer {expected.filepath}", _shown(expected), _shown(found))
        yield from _compare_tensors(store, expected, found)
        if expected.digest == found.digest:
            yield Difference(
                f"chunk map of {expected.filepath}",
                expected.chunk_map.digest if expected.chunk_map else _NONE,
                found.chunk_map.digest if found.chunk_map else _NONE,
            )


def _compare_tensors(store: ModelStore, expected: Layer, found: Layer) -> Iterator[Difference]:
    before = {row[0]: row for row in layer_tensors(store, expected)}
    after = {row[0]: row for row in layer_tensors(store, found)}
    changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    for name in changed[:MAX_TENSORS_NAMED]:
        one, other = (
            f"{row[1]} {list(row[2])} {row[3].hex()[:12]}" if row else _NONE
            for row in (before.get(name), after.get(name))
        )
        yield Difference(f"tensor {name}", one, other)
    if len(changed) > MAX_TENSORS_NAMED:
        yield Difference("tensors", f"{len(before)}", f"{len(changed)} of them differ")


def _compare_texts(store: ModelStore, expected: Layer, found: Layer) -> Iterator[Difference]:
    before, after = (
        store.blobs.read(layer.digest, _MAX_TEXT_BYTES).decode(errors="replace").splitlines()
        for layer in (expected, found)
    )
    for line in list(difflib.unified_diff(before, after, n=0, lineterm=""))[2:]:  # the first two name the files
        if line.startswith(("-", "+")):
            gone = line.startswith("-")
            yield Difference(MODELFILE, line[1:] if gone else _NONE, _NONE if gone else line[1:])


def _compare_records(store: ModelStore, expected: Layer, found: Layer) -> Iterator[Difference]:
    try:
        before, after = (
            _fields(parse_build_record(store.blobs.read(layer.digest, MAX_MANIFEST_BYTES)))
            for layer in (expected, found)
        )
    except BuildRecordInvalid:
        yield Difference(BUILD_RECORD, _shown(expected), _shown(found))
        return
    for key in [*before, *(key for key in after if key not in before)]:
        if before.get(key) != after.get(key):
            yield Difference(key, before.get(key, _NONE), after.get(key, _NONE))


def _fields(record: BuildRecord) -> Mapping[str, str]:
    """Return a record as one line a field, what went in before what came of it."""
    fields = {
        f"source {source.name}, {file.path}": f"{short_digest(file.digest)} ({file.size} bytes)"
        for source in record.sources
        for file in source.files
    }
    fields |= {f"revision of {source.name}": source.revision for source in record.sources}
    fields |= {f"tool {tool}": version for tool, version in sorted(record.tools.items())}
    return {
        **fields,
        "recipe": record.recipe,
        "quantization": str(record.quantization),
        "tokenizer": record.tokenizer or _NONE,
        "created": format_time(record.created_s),
        "content of all tensors": short_digest(record.content),
    }
