"""DRAFT at the build: a small model that guesses for the large one, stored beside it (specs/0009).

Guesses are tokens, so both models must have the same ones: what token 17 means to one of them it means to the other.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from protocol.build_record import BUILD_RECORD, ResolvedSource, SourceDigest
from protocol.canonical_json import decode_json
from protocol.digest import Digest
from protocol.errors import JsonInvalid
from protocol.manifest import Layer
from store.adapters import is_adapter
from store.bases import Places, located_layers
from store.disk import disk_errors, open_regular, require_space
from store.errors import BaseUnknown, DraftMismatch, DraftUnknown
from store.fetched import Report
from store.layers import Progress, StoredLayer, store_file
from store.leases import Lease
from store.models import MODELFILE, ModelStore, StoredModel
from store.sources import TOKENIZERS, FileAt, Source, read_files

FOLDER: Final = "draft"
DRAFT_HERE: Final = f"./{FOLDER}"  # what DRAFT says in a stored recipe
MAX_TOKENIZER_BYTES: Final = 64 << 20
_FAST: Final = "tokenizer.json"
_OWN_FILES: Final = (MODELFILE, BUILD_RECORD)


@dataclass(frozen=True)
class FoundDraft:
    """A small model whose files were checked, and its tokenizer's: the first kind that it has, with its bytes."""

    name: str
    source: Source
    tokenizers: Mapping[str, FileAt]


def find_draft(places: Places, name: str) -> FoundDraft:
    """Return the model that DRAFT names, found as FROM is; of a stored model neither its recipe nor its adapter counts.

    Raises:
        DraftUnknown: there is nothing of that name.
        FormatUnsupported, SourceMissing, SourceInvalid, SourceEscapes, SafetensorsInvalid, TensorMissing: it is there
            and cannot be used.
        HubError: it may be elsewhere, and that place does not give it.
    """
    try:
        found = places.locate(name)
    except BaseUnknown:
        raise DraftUnknown(name) from None
    if isinstance(found, StoredModel):
        own = [layer for layer in found.layers if layer.filepath not in _OWN_FILES]
        found = located_layers(places.store, found, [x for x in own if not is_adapter(x) and not is_draft(x)])
    # Where a model is built again, its draft's files are known by the paths that they have beside it.
    prefix = f"{FOLDER}/"
    beside = {path.removeprefix(prefix): at for path, at in found.files.items() if path.startswith(prefix)}
    files = beside or dict(found.files)
    source = read_files(files, found.origin, found.place)
    return FoundDraft(name, source, {file: files[file] for file in TOKENIZERS if file in files})


def store_draft(
    store: ModelStore, lease: Lease, found: FoundDraft, base: Iterable[Layer], report: Report
) -> tuple[tuple[StoredLayer, ...], ResolvedSource]:
    """Store the draft beside a model whose layers are `base`; return its layers and what is recorded of it.

    Raises:
        DraftMismatch: it has other tokens.
        LayerCorrupt, SourceInvalid, WeightsNotFinite: its files are not what was promised, or changed meanwhile.
        DiskFull, DiskFailed: it was not stored.
    """
    tokenizers = {layer.filepath: layer.digest for layer in base if layer.filepath in TOKENIZERS}
    _require_same_tokens(store, found, tokenizers)
    require_space(store.layout.blobs, found.source.size_bytes)
    progress = Progress(report, "storing", found.source.size_bytes)
    stored = tuple(
        store_file(store, lease, replace(file, filepath=f"{FOLDER}/{file.filepath}"), progress)
        for file in found.source.files
    )
    origin = found.source.origin
    digests = tuple(SourceDigest(x.layer.filepath, x.layer.digest, x.layer.size) for x in stored)
    return stored, ResolvedSource(origin.kind, origin.name, origin.revision, digests)


def is_draft(layer: Layer) -> bool:
    """Return whether the layer is a file of the model's draft."""
    return layer.filepath.startswith(f"{FOLDER}/")


def draft_layers(layers: Iterable[Layer]) -> list[Layer]:
    """Return the layers of a model's draft; none where it has none."""
    return [layer for layer in layers if is_draft(layer)]


def _require_same_tokens(store: ModelStore, found: FoundDraft, tokenizers: Mapping[str, Digest]) -> None:
    kind = next((file for file in TOKENIZERS if file in found.tokenizers and file in tokenizers), None)
    if kind is None:
        raise DraftMismatch(
            found.name, f"its tokenizer is {_named(found.tokenizers)}, the model's {_named(tokenizers)}"
        )
    mine = _read(FileAt(store.layout.blob_path(tokenizers[kind])), kind)
    theirs = _read(found.tokenizers[kind], kind)
    if mine == theirs:
        return
    if kind != _FAST:
        raise DraftMismatch(found.name, f"its {kind} is another one")
    ours, its = _tokens(mine, found.name), _tokens(theirs, found.name)
    if odd := next(
        (number for number in sorted(ours.keys() | its.keys()) if ours.get(number) != its.get(number)), None
    ):
        raise DraftMismatch(
            found.name, f"token {odd} is {_shown(its.get(odd))}, of the model it is {_shown(ours.get(odd))}"
        )


def _read(at: FileAt, name: str) -> bytes:
    path = at.path.resolve()
    with disk_errors(path), open_regular(path) as file:
        data = file.read(MAX_TOKENIZER_BYTES + 1)
    if len(data) > MAX_TOKENIZER_BYTES:
        raise DraftMismatch(name, f"a tokenizer of more than {MAX_TOKENIZER_BYTES} bytes")
    return data


def _tokens(data: bytes, name: str) -> dict[int, str]:
    """Return what each token id stands for, as a `tokenizer.json` says it."""
    try:
        document = decode_json(data, MAX_TOKENIZER_BYTES, _FAST)
    except JsonInvalid as error:
        raise DraftMismatch(name, f"tokenizer.json: {error.reason}") from None
    model = document.get("model") if isinstance(document, dict) else None
    words = model.get("vocab") if isinstance(model, dict) else None
    added = document.get("added_tokens") if isinstance(document, dict) else None
    found: dict[int, str] = {}
    if isinstance(words, dict):
        found |= {number: word for word, number in words.items() if type(number) is int}
    elif isinstance(words, list):  # of pieces with their scores, in the order of their ids
        found |= {at: str(piece[0]) for at, piece in enumerate(words) if isinstance(piece, list) and piece}
    for entry in added if isinstance(added, list) else ():
        if isinstance(entry, dict) and type(number := entry.get("id")) is int:
            found[number] = str(entry.get("content"))
    if not found:
        raise DraftMismatch(name, "a tokenizer.json without a vocabulary")
    return found


def _named(files: Iterable[str]) -> str:
    return next(iter(files), "none")


def _shown(word: str | None) -> str:
    return "none" if word is None else repr(word[:40])
