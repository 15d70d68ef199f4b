"""Refs: which manifest a name stands for, moved by one atomic rename; `index.json` and `tags.json` follow them."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from protocol.canonical_json import Json, decode_json, encode_json
from protocol.digest import Digest, format_oci_digest, parse_digest
from protocol.errors import DigestInvalid, JsonInvalid, ModelNameInvalid
from protocol.manifest import (
    ARTIFACT_TYPE,
    MANIFEST_MEDIA_TYPE,
    MAX_MANIFEST_BYTES,
    parse_manifest,
)
from protocol.model_name import ModelName, format_model_name, format_tag, parse_model_name
from store.blobs import Blobs
from store.disk import disk_errors, flush_directory, make_directories, replace_file
from store.errors import BlobMissing, DiskFailed, DiskFull, RefCorrupt
from store.layout import Layout
from store.leases import Leases

VERSION: Final = 1
MAX_REF_BYTES: Final = 4096
MAX_INDEX_BYTES: Final = 16 << 20
REF_NAME: Final = "org.opencontainers.image.ref.name"
OWN_REF: Final = "io.tilenode.ref"

Entries = list[dict[str, Json]]


@dataclass(frozen=True, order=True)
class RefEntry:
    """A name, its manifest, and when the name was last moved, in seconds since the epoch."""

    name: ModelName
    digest: Digest
    modified_s: int


class Refs:
    """The names of one store. A name is only ever moved to a manifest all of whose blobs are there."""

    def __init__(self, layout: Layout, blobs: Blobs, leases: Leases) -> None:
        self._layout = layout
        self._leases = leases
        self._blobs = blobs

    def get(self, name: ModelName) -> Digest | None:
        """Return the digest of the manifest that `name` stands for, or None.

        Raises:
            RefCorrupt: there is such a name, but its file cannot be read.
        """
        entry = self._read(name, self._layout.ref_path(name))
        return entry.digest if entry else None

    def set(self, name: ModelName, manifest: Digest) -> None:
        """Let `name` stand for `manifest`; when this returns it outlives a power cut.

        Raises:
            BlobMissing: the manifest or a blob that it names is not in the store.
            ManifestInvalid: the blob is no manifest.
            DiskFull, DiskFailed: the name stands for what it stood for before.
        """
        path = self._layout.ref_path(name)
        with self._layout.lock:
            size = self._require_complete(manifest)
            document: dict[str, Json] = {
                "version": VERSION,
                "mediaType": MANIFEST_MEDIA_TYPE,
                "digest": format_oci_digest(manifest),
                "size": size,
            }
            with disk_errors(path):
                make_directories(path.parent)
            replace_file(self._layout.temporary, path, encode_json(document))
            self._leases.named(manifest)
            self._follow()

    def delete(self, name: ModelName) -> bool:
        """Forget `name`; return whether there was such a name. The blobs stay: `ModelStore.remove` frees them."""
        path = self._layout.ref_path(name)
        with self._layout.lock, disk_errors(path):
            if not path.exists():
                return False
            path.unlink()
            flush_directory(path.parent)
            self._follow()
        return True

    def unreadable(self) -> list[RefCorrupt]:
        """Return what is wrong with each name whose file cannot be read."""
        return [entry for _, entry in self._scan() if isinstance(entry, RefCorrupt)]

    def write_indexes(self) -> None:
        """Derive `index.json` and `indexes/tags.json` from the refs; entries of other programs are kept."""
        with self._layout.lock, disk_errors(self._layout.index):
            entries, foreign = self.list(), self._read_foreign_entries()
            if foreign is None and self._layout.index.exists():
                self._layout.index.replace(self._layout.quarantine / self._layout.index.name)
            own = [_index_entry(entry, self._size_or_zero(entry.digest)) for entry in entries]
            index: dict[str, Json] = {"schemaVersion": 2, "manifests": [*own, *(foreign or [])]}
            _replace_when_different(self._layout, self._layout.index, encode_json(index))
            tags: dict[str, Json] = {_full_name(entry.name): format_oci_digest(entry.digest) for entry in entries}
            document: dict[str, Json] = {"version": VERSION, "tags": tags}
            _replace_when_different(self._layout, self._layout.tags, encode_json(document))

    def foreign_entries(self) -> Entries:
        """Return the entries of other programs in `index.json`, as they stand; none where it is unreadable."""
        return self._read_foreign_entries() or []

    def list(self) -> list[RefEntry]:
        """Return every readable name in order; `unreadable` has the others."""
        return sorted(entry for _, entry in self._scan() if isinstance(entry, RefEntry))

    def _follow(self) -> None:
        """Write the derived files. Without room for them the name still counts: `tidy` and the next move write them."""
        with suppress(DiskFull, DiskFailed):
            self.write_indexes()

    def _read_foreign_entries(self) -> Entries | None:
        """Return the entries of other programs, None where `index.json` is no index."""
        try:
            document = decode_json(self._layout.index.read_bytes(), MAX_INDEX_BYTES, "index.json")
            entries = document["manifests"] if isinstance(document, dict) else None
            if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
                return None
            encode_json(entries)
        except (OSError, JsonInvalid, KeyError, UnicodeEncodeError):  # the last: half a surrogate pair in a name
            return None
        return [entry for entry in entries if not _is_own(entry)]

    def _require_complete(self, manifest: Digest) -> int:
        data = self._blobs.read(manifest, MAX_MANIFEST_BYTES)
        for blob in parse_manifest(data).blobs():
            if not self._blobs.has(blob.digest) or self._blobs.size(blob.digest) != blob.size:
                raise BlobMissing(blob.digest)
        return len(data)

    def _size_or_zero(self, digest: Digest) -> int:
        return self._blobs.size(digest) if self._blobs.has(digest) else 0

    def _scan(self) -> Iterator[tuple[Path, RefEntry | RefCorrupt]]:
        for path in self._layout.manifests.glob("*/*/*/*.json"):
            try:
                host, namespace, name, _ = path.relative_to(self._layout.manifests).parts
                parsed = parse_model_name(f"{host}/{namespace}/{name}:{path.stem}")
                if self._layout.ref_path(parsed) != path:
                    continue  # a name in another spelling was not put here by this program
                entry = self._read(parsed, path)
            except ModelNameInvalid:
                continue
            except RefCorrupt as error:
                yield path, error
                continue
            if entry is not None:
                yield path, entry

    def _read(self, name: ModelName, path: Path) -> RefEntry | None:
        try:
            with path.open("rb") as file:
                data = file.read(MAX_REF_BYTES + 1)
                modified_s = int(path.stat().st_mtime)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise RefCorrupt(path, error.strerror or "cannot be read") from error
        return RefEntry(name, _parse_ref(path, data), modified_s)


def _parse_ref(path: Path, data: bytes) -> Digest:
    try:
        document = decode_json(data, MAX_REF_BYTES, "ref")
        if not isinstance(document, dict) or document.keys() != {"version", "mediaType", "digest", "size"}:
            raise RefCorrupt(path, "not the keys of a ref")
        if type(document["version"]) is not int or document["version"] != VERSION:
            raise RefCorrupt(path, f"version {str(document['version'])[:20]}, {VERSION} is known")
        return parse_digest(str(document["digest"]))
    except (JsonInvalid, DigestInvalid) as error:
        raise RefCorrupt(path, str(error)) from None


def _full_name(name: ModelName) -> str:
    return f"{name.host}/{name.namespace}/{name.name}:{format_tag(name)}"


def _index_entry(entry: RefEntry, size: int) -> dict[str, Json]:
    # No colon in a ref.name: some tools split there. The number of parts keeps the names apart.
    spelling = format_model_name(entry.name).replace(":", "/")
    return {
        "mediaType": MANIFEST_MEDIA_TYPE,
        "artifactType": ARTIFACT_TYPE,
        "digest": format_oci_digest(entry.digest),
        "size": size,
        "annotations": {REF_NAME: spelling, OWN_REF: _full_name(entry.name)},
    }


def _is_own(entry: dict[str, object]) -> bool:
    annotations = entry.get("annotations")
    return isinstance(annotations, dict) and OWN_REF in annotations


def _replace_when_different(layout: Layout, path: Path, content: bytes) -> None:
    if not path.exists() or path.read_bytes() != content:
        replace_file(layout.temporary, path, content)
