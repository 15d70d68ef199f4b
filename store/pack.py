"""A model as an OCI image layout in a directory of its own, for any program that reads one (specs/0023)."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from protocol.canonical_json import Json, encode_json
from protocol.digest import Digest, format_oci_digest
from protocol.manifest import ARTIFACT_TYPE, MANIFEST_MEDIA_TYPE, Descriptor
from protocol.oci_name import oci_tags
from protocol.referrer import INDEX_MEDIA_TYPE
from store.disk import READ_ONLY, disk_errors, flush_directory, flush_file
from store.errors import PackRefused
from store.layout import OCI_LAYOUT
from store.materialize import reflink
from store.models import ModelStore, StoredModel
from store.oci_index import REF_NAME
from store.referrers import ReferrerManifest, referrers_of

MODE: Final = 0o755


@dataclass(frozen=True)
class PackReport:
    """A directory that was written: the tags under which the model stands in it, and the bytes of its blobs."""

    directory: Path
    manifest: Digest
    tags: tuple[str, ...]
    blob_count: int
    size_bytes: int
    referrers: int


def pack_model(store: ModelStore, model: StoredModel, directory: Path) -> PackReport:
    """Write `model` and what refers to it into `directory`, which is new or empty; the same model gives the same bytes.

    Layers share their bytes with the store where the file system permits: a reflink, else a hard link, else a copy.
    Every one is hashed first. `index.json` is written last: without it the directory is no layout.

    Raises:
        PackRefused: the directory has something in it.
        BlobMissing, LayerCorrupt: a blob is gone or changed; the directory has no `index.json` then.
        DiskFull, DiskFailed: the disk says no.
    """
    with store.lease([model.digest, *(blob.digest for blob in model.manifest.blobs())]):
        _make(directory)
        blobs = directory / "blobs" / "sha256"
        referrers = referrers_of(store, model.digest)
        size = sum(_place_blob(store, blob, blobs) for blob in _blobs(store, model))
        written = _contents(referrers)
        for digest, content in written.items():
            _write(blobs / digest, content)
        _write(directory / "oci-layout", OCI_LAYOUT)
        with disk_errors(directory):
            flush_directory(blobs)
        _write(directory / "index.json", _index(store, model, referrers))
        with disk_errors(directory):
            flush_directory(directory)
    there = {path.name for path in blobs.iterdir()}
    total = size + sum(len(content) for content in written.values())
    return PackReport(directory, model.digest, oci_tags(model.name), len(there), total, len(referrers))


def _make(directory: Path) -> None:
    with disk_errors(directory):
        if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
            raise PackRefused(directory, "is not empty" if directory.is_dir() else "is a file")
        for made in (directory, directory / "blobs", directory / "blobs" / "sha256"):
            made.mkdir(mode=MODE, parents=True, exist_ok=True)


def _blobs(store: ModelStore, model: StoredModel) -> Iterator[Descriptor]:
    yield Descriptor(model.digest, store.blobs.size(model.digest), MANIFEST_MEDIA_TYPE)
    yield from model.manifest.blobs()


def _place_blob(store: ModelStore, blob: Descriptor, blobs: Path) -> int:
    store.blobs.verify(blob.digest)
    with disk_errors(blobs, blob.size):
        _share(store.layout.blob_path(blob.digest), blobs / blob.digest)
    return blob.size


def _share(blob: Path, path: Path) -> None:
    for way in (reflink, lambda source, target: target.hardlink_to(source)):
        try:
            way(blob, path)
            return
        except OSError:  # not on this file system: the next way
            path.unlink(missing_ok=True)
    shutil.copyfile(blob, path)
    path.chmod(READ_ONLY)
    with path.open("rb") as copy:
        flush_file(copy.fileno())


def _contents(referrers: list[ReferrerManifest]) -> dict[Digest, bytes]:
    """Return the manifests of the referrers and their blobs that are not in the store."""
    found: dict[Digest, bytes] = {}
    for referrer in referrers:
        found[referrer.descriptor.digest] = referrer.data
        found.update({digest: content for digest, content in referrer.blobs.items() if content is not None})
    return found


def _index(store: ModelStore, model: StoredModel, referrers: list[ReferrerManifest]) -> bytes:
    """Return `index.json`: the model under each of its tags, and its referrers, which have none."""
    own: dict[str, Json] = {
        "mediaType": MANIFEST_MEDIA_TYPE,
        "artifactType": ARTIFACT_TYPE,
        "digest": format_oci_digest(model.digest),
        "size": store.blobs.size(model.digest),
    }
    tagged: list[Json] = [{**own, "annotations": {REF_NAME: tag}} for tag in oci_tags(model.name)]
    beside: list[Json] = [
        {
            "mediaType": MANIFEST_MEDIA_TYPE,
            "artifactType": referrer.descriptor.artifact_type,
            "digest": format_oci_digest(referrer.descriptor.digest),
            "size": referrer.descriptor.size,
        }
        for referrer in referrers
    ]
    return encode_json({"schemaVersion": 2, "mediaType": INDEX_MEDIA_TYPE, "manifests": [*tagged, *beside]})


def _write(path: Path, content: bytes) -> None:
    with disk_errors(path, len(content)), path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fchmod(file.fileno(), READ_ONLY)
        flush_file(file.fileno())
