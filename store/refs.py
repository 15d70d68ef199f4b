"""Refs: which manifests a name stood for and stands for now, moved by one atomic rename (specs/0006, specs/0022)."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace

from protocol.digest import Digest, digest_of
from protocol.manifest import MAX_MANIFEST_BYTES, parse_manifest
from protocol.model_name import ModelName, format_model_name
from store.blobs import Blobs
from store.disk import disk_errors, flush_directory, make_directories, replace_file
from store.errors import (
    BlobMissing,
    DiskFailed,
    DiskFull,
    HistoryFull,
    RefCorrupt,
    VersionCurrent,
    VersionPinned,
    VersionTaken,
    VersionUnknown,
)
from store.layout import Layout
from store.leases import Leases
from store.oci_index import Entries, OciIndex
from store.ref_file import (
    MAX_VERSIONS,
    SUFFIX,
    RefEvent,
    Version,
    clean_source,
    encode_ref,
    parse_ref_name,
    read_ref,
    ref_paths,
)

__all__ = ["RefEntry", "RefEvent", "Refs", "Version"]

Moves = list[tuple[ModelName, Digest | None]]


@dataclass(frozen=True, order=True)
class RefEntry:
    """A name, its manifest, when the name was last moved (seconds since the epoch), and all its versions."""

    name: ModelName
    digest: Digest
    modified_s: int
    history: tuple[Version, ...] = field(default=(), compare=False)


class Refs:
    """The names of one store. A name is only ever moved to a manifest all of whose blobs are there.

    A name with a version (`demo:latest@1.0`) is a release: it is set once. All others move, and remember where they
    stood: at most 256 versions, of which the oldest that is not pinned makes room.
    """

    def __init__(self, layout: Layout, blobs: Blobs, leases: Leases) -> None:
        self._layout = layout
        self._leases = leases
        self._blobs = blobs
        self._index = OciIndex(layout, self._size_or_zero)
        self._batch = threading.local()

    def get(self, name: ModelName) -> Digest | None:
        """Return the digest of the manifest that `name` stands for, or None.

        Raises:
            RefCorrupt: there is such a name, but its file cannot be read.
        """
        history = self.history(name)
        return history[-1].digest if history else None

    def has(self, name: ModelName) -> bool:
        """Return whether there is such a name, readable or not."""
        return self._layout.ref_path(name).exists()

    def history(self, name: ModelName) -> tuple[Version, ...]:
        """Return every version of `name`, the oldest first and last the one it stands for; empty without such a name.

        Raises:
            RefCorrupt: there is such a name, but its file cannot be read.
        """
        return read_ref(self._layout.ref_path(name)) or ()

    def entry(self, name: ModelName) -> RefEntry | None:
        """Return `name` with what it stands for, or None. Raises as `get`."""
        history = self.history(name)
        return _entry(name, history) if history else None

    def set(
        self,
        name: ModelName,
        manifest: Digest,
        *,
        event: RefEvent = RefEvent.CREATE,
        source: str = "",
        now_s: int | None = None,
    ) -> None:
        """Let `name` stand for `manifest`; when this returns it outlives a power cut.

        That is a new version, unless `name` stands for it already. A release is set once, and moves its tag as well,
        unless the tag had that version before. `source` says where the model came from, for people; `now_s` is now
        where it is not given.

        Raises:
            BlobMissing: the manifest or a blob that it names is not in the store.
            ManifestInvalid: the blob is no manifest.
            VersionTaken: the release stands for another manifest.
            HistoryFull: all the versions that a name can have are pinned.
            DiskFull, DiskFailed: the name stands for what it stood for before.
        """
        moved = Version(1, manifest, int(time.time()) if now_s is None else now_s, event, clean_source(source))
        with self._changing():
            with self._layout.sweeping.shared():
                self._require_complete(manifest)
                changed = self._release(name, moved) if name.version else self._append(name, moved)
            self._leases.named(manifest)
            self._follow(changed)

    def pin(self, name: ModelName, number: int | None, pinned: bool) -> Version:
        """Pin or unpin a version, the one that `name` stands for where `number` is None; return it as it is now.

        Raises:
            VersionUnknown: there is no such name or version.
            RefCorrupt, DiskFull, DiskFailed: nothing was changed.
        """
        with self._changing():
            history = self.history(name)
            version = _find(name, history, number)
            changed = replace(version, pinned=pinned)
            if changed != version:
                self._write(name, tuple(changed if each is version else each for each in history))
        return changed

    def forget_version(self, name: ModelName, number: int) -> Version:
        """Forget one version of `name` and return it. The blobs stay: `ModelStore.remove_version` frees them.

        Raises:
            VersionUnknown: there is no such name or version.
            VersionCurrent: it is what the name stands for.
            VersionPinned: it is pinned.
            RefCorrupt, DiskFull, DiskFailed: nothing was changed.
        """
        with self._changing():
            history = self.history(name)
            version = _find(name, history, number)
            if version is history[-1]:
                raise VersionCurrent(format_model_name(name), number)
            if version.pinned:
                raise VersionPinned(format_model_name(name), number)
            self._write(name, tuple(each for each in history if each is not version))
        return version

    def delete(self, name: ModelName) -> bool:
        """Forget `name` with all its versions; return whether there was such a name.

        Pinned or not: who asks a person before is the caller. The blobs stay: `ModelStore.remove` frees them.
        """
        path = self._layout.ref_path(name)
        with self._changing(), disk_errors(path):
            with self._layout.sweeping.shared():
                if not path.exists():
                    return False
                path.unlink()
                flush_directory(path.parent)
            self._follow([(name, None)])
        return True

    def releases(self, name: ModelName) -> dict[str, Digest]:
        """Return the releases of a tag and what each stands for; those that cannot be read are left out."""
        folder = self._layout.ref_path(name.moving).parent
        found = {}
        for path in sorted(folder.glob(f"{name.tag}@*{SUFFIX}")):
            parsed = parse_ref_name(f"{name.host}/{name.namespace}/{name.name}:", path.name)
            with suppress(RefCorrupt):
                if parsed is not None and (history := read_ref(path)):
                    found[parsed[0].version] = history[-1].digest
        return found

    def unreadable(self) -> list[RefCorrupt]:
        """Return what is wrong with each name whose file cannot be read."""
        return [entry for entry in self._scan() if isinstance(entry, RefCorrupt)]

    def scan(self) -> tuple[list[RefEntry], list[RefCorrupt]]:
        """Return `list` and `unreadable` from one look at the disk."""
        found = list(self._scan())
        entries = sorted(entry for entry in found if isinstance(entry, RefEntry))
        return entries, [entry for entry in found if isinstance(entry, RefCorrupt)]

    def list(self) -> list[RefEntry]:
        """Return every readable name in order; `unreadable` has the others."""
        return sorted(entry for entry in self._scan() if isinstance(entry, RefEntry))

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Write the derived files once, at the end of the block, for all the names that this thread moves in it."""
        self._batch.waiting = True
        try:
            yield
        finally:
            self._batch.waiting = False
            with self._layout.lock:
                self._follow(None)

    def write_indexes(self) -> None:
        """Derive `index.json` and `indexes/tags.json` from the refs; entries of other programs are kept.

        Raises:
            DiskFull, DiskFailed: they are not written.
        """
        with self._layout.lock:
            self._index.write((entry.name, entry.digest) for entry in self.list())

    def foreign_entries(self) -> Entries | None:
        """Return the entries of other programs in `index.json`, as they stand; None where it is unreadable."""
        return self._index.read_foreign()

    def take_over(self, digest: Digest) -> None:
        """Remove the entries of other programs for a manifest that has a name of ours now.

        Raises:
            DiskFull, DiskFailed: they stay.
        """
        with self._layout.lock:
            self.write_indexes()
            self._index.drop_foreign(digest)

    @contextmanager
    def _changing(self) -> Iterator[None]:
        with self._layout.lock, self._layout.naming.exclusive():
            yield

    def _follow(self, changed: Moves | None) -> None:
        """Write the derived files. Without room for them the name still counts: `tidy` and the next move write them."""
        if getattr(self._batch, "waiting", False):
            return
        with suppress(DiskFull, DiskFailed):
            if changed is None or not all(self._index.change(name, digest) for name, digest in changed):
                self.write_indexes()

    def _release(self, name: ModelName, moved: Version) -> Moves:
        """Set a release, then its tag: a kill in between leaves a release, and setting it again moves the tag."""
        changed: Moves = []
        held = self.get(name)
        if held is not None and held != moved.digest:
            raise VersionTaken(format_model_name(name), held, moved.digest)
        if held is None:
            changed += self._append(name, moved)
        if all(version.digest != moved.digest for version in self._readable_history(name.moving)):
            changed += self._append(name.moving, moved)
        return changed

    def _append(self, name: ModelName, moved: Version) -> Moves:
        history = self._readable_history(name)
        if history and history[-1].digest == moved.digest:
            return []
        number = history[-1].number + 1 if history else 1
        self._write(name, (*_with_room(name, history), replace(moved, number=number)))
        return [(name, moved.digest)]

    def _readable_history(self, name: ModelName) -> tuple[Version, ...]:
        """Return the versions of `name`; a file that cannot be read is kept aside, and the name begins anew."""
        try:
            return self.history(name)
        except RefCorrupt as error:
            aside = self._layout.quarantine / f"ref-{digest_of(str(error.path).encode())[:16]}{SUFFIX}"
            with disk_errors(error.path):
                error.path.replace(aside)
            return ()

    def _write(self, name: ModelName, history: tuple[Version, ...]) -> None:
        path = self._layout.ref_path(name)
        with disk_errors(path):
            make_directories(path.parent)
        replace_file(self._layout.temporary, path, encode_ref(history))

    def _require_complete(self, manifest: Digest) -> None:
        for blob in parse_manifest(self._blobs.read(manifest, MAX_MANIFEST_BYTES)).blobs():
            if not self._blobs.has(blob.digest) or self._blobs.size(blob.digest) != blob.size:
                raise BlobMissing(blob.digest)

    def _size_or_zero(self, digest: Digest) -> int:
        return self._blobs.size(digest) if self._blobs.has(digest) else 0

    def _scan(self) -> Iterator[RefEntry | RefCorrupt]:
        for name, path in ref_paths(self._layout.manifests):
            try:
                history = read_ref(path)
            except RefCorrupt as error:
                yield error
                continue
            if history is not None:
                yield _entry(name, history)


def _entry(name: ModelName, history: tuple[Version, ...]) -> RefEntry:
    return RefEntry(name, history[-1].digest, history[-1].time_s, history)


def _find(name: ModelName, history: tuple[Version, ...], number: int | None) -> Version:
    for version in reversed(history):
        if number in (None, version.number):
            return version
    raise VersionUnknown(format_model_name(name), "" if number is None else str(number))


def _with_room(name: ModelName, history: tuple[Version, ...]) -> tuple[Version, ...]:
    """Return the versions that stay when one more comes: of 256 the oldest that is not pinned goes."""
    if len(history) < MAX_VERSIONS:
        return history
    for version in history:
        if not version.pinned:
            return tuple(each for each in history if each is not version)
    raise HistoryFull(format_model_name(name), len(history))
