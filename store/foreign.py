"""Models that other programs copied into the store: seen in `index.json`, and adopted under a name (specs/0006)."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from protocol.digest import Digest, parse_digest, short_digest
from protocol.errors import DigestInvalid, ProtocolError
from protocol.manifest import MAX_MANIFEST_BYTES, Manifest, parse_manifest
from protocol.model_name import ModelName
from protocol.text import clean_text
from store.blobs import Blobs
from store.disk import READ_ONLY, disk_errors, flush_directory, flush_file, open_regular
from store.errors import BlobMissing, ForeignAmbiguous, ForeignUnknown, ForeignUnusable, StoreError
from store.leases import Lease
from store.models import ModelStore
from store.oci_index import REF_NAME
from store.refs import RefEvent
from store.repair import restore_chunk_map

MAX_LISTED: Final = 256
MIN_DIGEST_CHARS: Final = 6
MAX_REFERENCE_CHARS: Final = 128

Report = Callable[[dict[str, object]], None]


@dataclass(frozen=True)
class ForeignModel:
    """A manifest that another program wrote into `index.json`, and what that program calls it ("" for nothing).

    `problem` says why it cannot be adopted, "" where nothing speaks against it yet: no byte of it was hashed.
    """

    digest: Digest
    reference: str
    size_bytes: int
    problem: str


def foreign_models(store: ModelStore) -> list[ForeignModel]:
    """Return what other programs put into the store and no name stands for, at most 256, in the order of the index."""
    entries = store.refs.foreign_entries()
    if not entries:
        return []
    named = {version.digest for entry in store.refs.list() for version in entry.history}
    found: dict[Digest, ForeignModel] = {}
    for entry in entries[:MAX_LISTED]:
        try:
            digest = parse_digest(str(entry.get("digest")))
        except DigestInvalid:
            continue  # nothing that could be here
        if digest not in named:
            found.setdefault(digest, _look(store, digest, _reference(entry)))
    return list(found.values())


def find_foreign(store: ModelStore, text: str) -> ForeignModel:
    """Return the one that is called `text`, or whose digest begins with it (6 characters or more).

    Raises:
        ForeignUnknown, ForeignAmbiguous: there is none, or several.
    """
    models = foreign_models(store)
    beginning = text.lower().removeprefix("sha256:")
    found = [model for model in models if model.reference == text]
    if not found and len(beginning) >= MIN_DIGEST_CHARS:
        found = [model for model in models if model.digest.startswith(beginning)]
    if not found:
        raise ForeignUnknown(text)
    if len(found) > 1:
        raise ForeignAmbiguous(text, len(found))
    return found[0]


def adopt(store: ModelStore, model: ForeignModel, name: ModelName, now_s: int, report: Report) -> None:
    """Let `name` stand for a foreign model once every byte of it was hashed; its entries in `index.json` become ours.

    `report` is given a status for each blob. Nobody has signed the model.

    Raises:
        ForeignUnusable: it is no model, or something of it is missing.
        LayerCorrupt: a blob is not what its digest says; it is in quarantine now.
        ModelfileInvalid, ManifestInvalid: it has a recipe or a config that cannot be read.
        VersionTaken, HistoryFull, DiskFull, DiskFailed: no name was moved.
    """
    with store.lease([model.digest]) as lease:
        try:
            manifest = _manifest(store.blobs, model.digest)
            _verify(store, model.digest, manifest, lease, report)
        except BlobMissing as error:
            raise ForeignUnusable(model.digest, str(error)) from error
        store.require_readable(model.digest)
        source = f"another program, as {model.reference}" if model.reference else "another program"
        store.refs.set(name, model.digest, event=RefEvent.IMPORT, source=source, now_s=now_s)
        store.refs.take_over(model.digest)


def _verify(store: ModelStore, digest: Digest, manifest: Manifest, lease: Lease, report: Report) -> None:
    """Hash everything, settle it on the disk, and make the chunk maps that other programs leave behind."""
    blobs = list(manifest.blobs())
    lease.add(*(blob.digest for blob in blobs))
    maps = {pin.digest for layer in manifest.layers if (pin := layer.chunk_map)}
    for blob in blobs:
        if blob.digest not in maps:
            report({"status": f"verifying {short_digest(blob.digest)}", "digest": blob.digest, "total": blob.size})
            if store.blobs.verify(blob.digest) != blob.size:
                raise ForeignUnusable(digest, f"blob {short_digest(blob.digest)} has another size than it says")
            _settle(store.blobs, blob.digest)
    for layer in manifest.layers:
        if layer.chunk_map and not store.blobs.has(layer.chunk_map.digest) and not restore_chunk_map(store, layer):
            raise ForeignUnusable(digest, f"the chunk map of {layer.filepath} was not copied with it")
        chunk_map = store.chunk_map(layer)
        if chunk_map is not None:
            store.chunks.add(layer.digest, chunk_map)
    _settle(store.blobs, digest)


def _settle(blobs: Blobs, digest: Digest) -> None:
    """See that a blob which another program wrote outlives a power cut and is read-only, as ours are."""
    path = blobs.layout.blob_path(digest)
    with disk_errors(path), open_regular(path) as file:
        os.fchmod(file.fileno(), READ_ONLY)
        flush_file(file.fileno())
        flush_directory(path.parent)


def _look(store: ModelStore, digest: Digest, reference: str) -> ForeignModel:
    try:
        manifest = _manifest(store.blobs, digest)
    except BlobMissing:
        return ForeignModel(digest, reference, 0, "its manifest is not here")
    except (ForeignUnusable, StoreError) as error:
        return ForeignModel(digest, reference, 0, getattr(error, "reason", str(error)))
    maps = {pin.digest for layer in manifest.layers if (pin := layer.chunk_map)}
    missing = [blob for blob in manifest.blobs() if blob.digest not in maps and not store.blobs.has(blob.digest)]
    problem = f"blobs that were not copied with it: {len(missing)}" if missing else ""
    return ForeignModel(digest, reference, manifest.size_bytes, problem)


def _manifest(blobs: Blobs, digest: Digest) -> Manifest:
    try:
        return parse_manifest(blobs.read(digest, MAX_MANIFEST_BYTES))
    except ProtocolError as error:
        raise ForeignUnusable(digest, f"no model: {error}") from error


def _reference(entry: Mapping[str, object]) -> str:
    annotations = entry.get("annotations")
    reference = annotations.get(REF_NAME) if isinstance(annotations, dict) else None
    return clean_text(reference, MAX_REFERENCE_CHARS) if isinstance(reference, str) else ""
