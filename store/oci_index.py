"""`index.json` and `indexes/tags.json`: the names as other programs read them, derived from the refs (specs/0006)."""

import threading
from collections.abc import Callable, Iterable
from typing import Final

from protocol.canonical_json import Json, decode_json, encode_json
from protocol.digest import Digest, format_oci_digest
from protocol.errors import JsonInvalid
from protocol.manifest import ARTIFACT_TYPE, MANIFEST_MEDIA_TYPE
from protocol.model_name import ModelName, format_model_name, format_tag
from store.disk import disk_errors, open_regular, replace_file
from store.layout import Layout

TAGS_VERSION: Final = 1
MAX_INDEX_BYTES: Final = 16 << 20
REF_NAME: Final = "org.opencontainers.image.ref.name"
OWN_REF: Final = "io.tilenode.ref"

Entries = list[dict[str, Json]]
Stat = tuple[int, int, int]


class OciIndex:
    """The derived view. A name that moved costs one rewrite and no look at the others, while nobody else writes."""

    def __init__(self, layout: Layout, size_of: Callable[[Digest], int]) -> None:
        self._layout: Final = layout
        self._size_of = size_of
        self._lock = threading.Lock()
        self._own: dict[str, dict[str, Json]] = {}
        self._foreign: Entries = []
        self._as_written: tuple[Stat, Stat] | None = None

    def write(self, names: Iterable[tuple[ModelName, Digest]]) -> None:
        """Derive both files anew from all `names`; entries of other programs are kept.

        Raises:
            DiskFull, DiskFailed: a file stands as it was.
        """
        with self._lock, disk_errors(self._layout.index):
            foreign = self.read_foreign()
            if foreign is None:
                self._layout.index.replace(self._layout.quarantine / self._layout.index.name)
            self._foreign = foreign or []
            self._own = {_full_name(name): self._entry(name, digest) for name, digest in names}
            self._flush()

    def change(self, name: ModelName, digest: Digest | None) -> bool:
        """Write down that `name` moved to `digest`, or went; return False where that needs `write`.

        It does when another process or program has written one of the files meanwhile. Raises as `write`.
        """
        with self._lock, disk_errors(self._layout.index):
            if self._as_written is None or self._as_written != self._stats():
                return False
            if digest is None:
                self._own.pop(_full_name(name), None)
            else:
                self._own[_full_name(name)] = self._entry(name, digest)
            self._flush()
        return True

    def drop_foreign(self, digest: Digest) -> None:
        """Remove the entries of other programs for one manifest. Raises as `write`, which MUST have come before."""
        with self._lock, disk_errors(self._layout.index):
            kept = self.read_foreign() or []
            self._foreign = [entry for entry in kept if entry.get("digest") != format_oci_digest(digest)]
            self._flush()

    def read_foreign(self) -> Entries | None:
        """Return the entries of other programs as they stand, None where `index.json` is there and is no index."""
        try:
            with open_regular(self._layout.index) as file:
                document = decode_json(file.read(MAX_INDEX_BYTES + 1), MAX_INDEX_BYTES, "index.json")
            entries = document["manifests"] if isinstance(document, dict) else None
            if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
                return None
            encode_json(entries)
        except FileNotFoundError:
            return []
        except (OSError, JsonInvalid, KeyError, UnicodeEncodeError):  # the last: half a surrogate pair in a name
            return None
        return [entry for entry in entries if not _is_own(entry)]

    def _flush(self) -> None:
        self._as_written = None
        own = [self._own[name] for name in sorted(self._own)]
        index: dict[str, Json] = {"schemaVersion": 2, "manifests": [*own, *self._foreign]}
        _replace_when_different(self._layout, encode_json(index), encode_json(self._tags()))
        self._as_written = self._stats()

    def _tags(self) -> dict[str, Json]:
        return {"version": TAGS_VERSION, "tags": {name: entry["digest"] for name, entry in self._own.items()}}

    def _entry(self, name: ModelName, digest: Digest) -> dict[str, Json]:
        return index_entry(name, digest, self._size_of(digest))

    def _stats(self) -> tuple[Stat, Stat] | None:
        try:
            index, tags = (path.stat() for path in (self._layout.index, self._layout.tags))
        except FileNotFoundError:
            return None
        return (index.st_ino, index.st_size, index.st_mtime_ns), (tags.st_ino, tags.st_size, tags.st_mtime_ns)


def index_entry(name: ModelName, digest: Digest, size: int) -> dict[str, Json]:
    """Return what `index.json` says of a name that stands for a manifest of `size` bytes."""
    # No colon in a ref.name: some tools split there. The number of parts keeps the names apart.
    spelling = format_model_name(name).replace(":", "/")
    return {
        "mediaType": MANIFEST_MEDIA_TYPE,
        "artifactType": ARTIFACT_TYPE,
        "digest": format_oci_digest(digest),
        "size": size,
        "annotations": {REF_NAME: spelling, OWN_REF: _full_name(name)},
    }


def _full_name(name: ModelName) -> str:
    return f"{name.host}/{name.namespace}/{name.name}:{format_tag(name)}"


def _is_own(entry: dict[str, object]) -> bool:
    annotations = entry.get("annotations")
    return isinstance(annotations, dict) and OWN_REF in annotations


def _replace_when_different(layout: Layout, index: bytes, tags: bytes) -> None:
    for path, content in ((layout.index, index), (layout.tags, tags)):
        if not path.exists() or path.stat().st_size != len(content) or path.read_bytes() != content:
            replace_file(layout.temporary, path, content)
