"""Which blobs are needed, and by what: the one marking that removing, discarding and collecting share (specs/0022)."""

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol

from protocol.canonical_json import decode_json
from protocol.digest import Digest, parse_digest
from protocol.errors import DigestInvalid, JsonInvalid, ProtocolError
from protocol.manifest import MAX_MANIFEST_BYTES, Manifest, parse_manifest
from protocol.model_name import ModelName, format_model_name
from store.blobs import Blobs
from store.disk import disk_errors
from store.errors import BlobMissing, CollectRefused, StoreError
from store.layout import Layout
from store.leases import Leases
from store.leftovers import is_locked
from store.refs import Refs

_DIGEST: Final = re.compile(rb"sha256:([0-9a-f]{64})")
_NO_VERSIONS: Final[Mapping[ModelName, frozenset[int]]] = {}


class ReachStore(Protocol):
    """What marking needs of the model store."""

    @property
    def layout(self) -> Layout:
        """Where files lie."""

    @property
    def blobs(self) -> Blobs:
        """What may be needed."""

    @property
    def refs(self) -> Refs:
        """What people need."""

    @property
    def leases(self) -> Leases:
        """What running work needs."""


def closure(blobs: Blobs, manifest: Digest) -> tuple[Digest, ...]:
    """Return the manifest and every blob that it names; the manifest alone where it cannot be read."""
    parsed = read_manifest(blobs, manifest)
    return (manifest, *(blob.digest for blob in parsed.blobs())) if parsed else (manifest,)


def read_manifest(blobs: Blobs, digest: Digest) -> Manifest | None:
    """Return a stored manifest, None where it is not there or is none."""
    try:
        return parse_manifest(blobs.read(digest, MAX_MANIFEST_BYTES))
    except (StoreError, ProtocolError):
        return None


def needed_blobs(
    store: ReachStore, without: Mapping[ModelName, frozenset[int]] = _NO_VERSIONS, *, sweeping: bool = False
) -> frozenset[Digest]:
    """Return every blob that must stay; `without` are versions of names that count as forgotten already.

    With `sweeping` the store's lock of that name is held, and layers that are arriving count as well: to see whether
    one is, its file is locked for a moment, which must not stand in the way of a pull that is just beginning.

    Roots are every version of every name, the leases of every living process, entries of other programs in
    `index.json`, and layers that are arriving. From manifests the way leads over config, layers and chunk maps; from
    anything else over every digest that stands in a document.

    Leases are read first: what a lease lets go because a name has it now is found under the name.

    Raises:
        CollectRefused: a ref, the manifest of a version or `index.json` cannot be read, so what it needs is unknown.
        LeaseCorrupt: what another process keeps cannot be read.
        DiskFailed: the disk says no.
    """
    others = {*store.leases.held(), *(_arriving(store.layout) if sweeping else ())}
    named = _named_blobs(store, without)
    return frozenset(named | _led_to(store.blobs, (others | _foreign(store)) - named))


def used_blobs(store: ReachStore, since_s: float) -> frozenset[Digest]:
    """Return the blobs of models whose files were handed out since then: somebody may be reading them.

    Raises:
        DiskFailed: the disk says no.
    """
    return frozenset(_led_to(store.blobs, _used(store.layout, since_s)))


def subject_of(blobs: Blobs, digest: Digest) -> Digest | None:
    """Return the manifest to which the document `digest` says that it belongs (its `subject`); None for others."""
    with suppress(BlobMissing, JsonInvalid, DigestInvalid, KeyError, TypeError):
        document = decode_json(_document(blobs, digest), MAX_MANIFEST_BYTES, "document")
        if isinstance(document, dict):
            return parse_digest(str(document["subject"]["digest"]))
    return None


def documents_closure(blobs: Blobs, digest: Digest) -> set[Digest]:
    """Return a document and everything to which its digests lead."""
    return _led_to(blobs, {digest})


def _named_blobs(store: ReachStore, without: Mapping[ModelName, frozenset[int]]) -> set[Digest]:
    entries, unreadable = store.refs.scan()
    if unreadable:
        what = str(unreadable[0].path.relative_to(store.layout.root))
        raise CollectRefused(what, unreadable[0].reason, unreadable[0].hint)
    needed: set[Digest] = set()
    for entry in entries:
        gone = without.get(entry.name, frozenset())
        for version in entry.history:
            if version.number in gone or version.digest in needed:
                continue
            try:
                manifest = parse_manifest(store.blobs.read(version.digest, MAX_MANIFEST_BYTES))
            except (StoreError, ProtocolError) as error:
                name = format_model_name(entry.name)
                hint = f"forget it: tilenode rm {name} --version {version.number}"
                if version is entry.history[-1]:
                    hint = f"repair it: tilenode verify {name} --repair; or: tilenode rm {name}"
                raise CollectRefused(f"version {version.number} of {name}", str(error), hint) from error
            needed.add(version.digest)
            needed.update(blob.digest for blob in manifest.blobs())
    return needed


def _foreign(store: ReachStore) -> set[Digest]:
    entries = store.refs.foreign_entries()
    if entries is None:
        hint = "wait until the other program is done; if there is none, start the node anew, which sets the file aside"
        raise CollectRefused(store.layout.index.name, "it is no index", hint)
    return {digest for entry in entries for digest in _digests(str(entry).encode())}


def _led_to(blobs: Blobs, roots: Iterable[Digest]) -> set[Digest]:
    """Return the roots and what they lead to, in any form: every digest that stands in a document counts."""
    needed: set[Digest] = set()
    waiting = list(roots)
    while waiting:
        digest = waiting.pop()
        if digest not in needed:
            needed.add(digest)
            with suppress(BlobMissing):
                waiting += _digests(_document(blobs, digest))
    return needed


def _document(blobs: Blobs, digest: Digest) -> bytes:
    """Return a blob that may be JSON, as it lies on the disk; nothing of one that is too large or cannot be."""
    if blobs.size(digest) > MAX_MANIFEST_BYTES:
        return b""
    with blobs.open(digest) as file, disk_errors(blobs.layout.blob_path(digest)):
        start: bytes = file.read(64)
        return start + file.read(MAX_MANIFEST_BYTES) if start.lstrip().startswith(b"{") else b""


def _digests(content: bytes) -> list[Digest]:
    return [Digest(match.decode()) for match in _DIGEST.findall(content)]


def _arriving(layout: Layout) -> set[Digest]:
    """Return the layers that somebody is fetching now: their files are locked."""
    with disk_errors(layout.downloads):
        paths = [path for path in layout.downloads.iterdir() if is_locked(path)]
    return {digest for path in paths if (digest := _digest_of(path)) is not None}


def _used(layout: Layout, since_s: float) -> set[Digest]:
    used: set[Digest] = set()
    with disk_errors(layout.materialized):
        for path in layout.materialized.glob("*.json"):
            digest = _digest_of(path)
            with suppress(FileNotFoundError):
                if digest is not None and path.lstat().st_mtime >= since_s:
                    used.add(digest)
    return used


def _digest_of(path: Path) -> Digest | None:
    try:
        return parse_digest(path.name.partition(".")[0])
    except DigestInvalid:
        return None
