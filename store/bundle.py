"""Exporting: models in a directory that is carried by hand, an OCI image layout with a signed index (0026).

DIR/oci-layout, index.json, blobs/sha256/<hex>   a valid OCI image layout, where nothing was left out
DIR/provenance/<hex>, logs/<hex>                 provenance bundles, and this device's log as the other side checks it
DIR/bundle.json, bundle.dsse                     the index of all of it and the signature over that; written last
DIR/unfinished                                   there while an export runs, and after one that was killed
"""

import errno
import hashlib
import io
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from identity.keys import DeviceKey
from protocol.bundle import (
    MAX_LEAVES,
    PATCH_MAGIC,
    BundledFile,
    BundledModel,
    BundledPart,
    BundleIndex,
    CarriedLog,
    How,
    encode_index,
    encode_log,
    sign_index,
)
from protocol.canonical_json import Json, encode_json
from protocol.chunkmap import ChunkMap
from protocol.digest import Digest, digest_of
from protocol.errors import ProvenanceInvalid
from protocol.manifest import Descriptor, Layer, Manifest
from protocol.model_name import ModelName, format_model_name
from protocol.provenance import decode_and_verify_provenance
from protocol.text import clean_text
from store.blobs import BLOCK_BYTES
from store.delta import delta_limit, make_delta
from store.disk import disk_errors, flush_directory, flush_file, free_bytes, open_regular
from store.errors import BlobMissing, BundleTargetUsed, DiskFull, LayerCorrupt
from store.layout import OCI_LAYOUT
from store.leases import Lease
from store.log import Log
from store.models import ModelStore
from store.oci_index import index_entry
from store.probe import require_file_size

UNFINISHED: Final = "unfinished"
INDEX_FILE: Final = "bundle.json"
SIGNATURE_FILE: Final = "bundle.dsse"
MARGIN_BYTES: Final = 1 << 20
MAX_SHOWN_CHARS: Final = 80
# Everybody may read what lies on a stick: the other device's person has another number there.
_FILE_MODE: Final = 0o644
_DIRECTORY_MODE: Final = 0o755
# A part pays where the other side lacks at most so much of a layer.
_PATCH_WORTH: Final = 0.9
_DELTA_FROM: Final = 0.5

Report = Callable[[Mapping[str, object]], None]


@dataclass
class ExportReport:
    """What lies in the directory now; bytes of blobs, `left_out_bytes` are with the other side already."""

    directory: Path
    models: list[tuple[ModelName, Digest]]
    carried_bytes: int = 0
    copied_bytes: int = 0
    left_out_bytes: int = 0


def export_bundle(
    store: ModelStore,
    log: Log,
    key: DeviceKey,
    names: Sequence[ModelName],
    directory: Path,
    *,
    bases: Sequence[Digest] = (),
    now_s: int,
    report: Report,
) -> ExportReport:
    """Write `names` into `directory`, or go on with an export that was killed; what `bases` have is left out.

    When this returns, everything is on the disk and the index is signed.

    Raises:
        ModelUnknown, BlobMissing, LayerCorrupt: a model is not here, or not as it should be.
        BundleTargetUsed: the directory holds something else.
        FileTooLarge, DiskFull: it does not fit there; nothing was copied.
        DiskFailed: the disk says no; running it again goes on.
    """
    lease = store.lease(bases)
    try:
        plan = _Plan(store, lease, bases)
        for name in sorted(set(names), key=format_model_name):
            report({"status": f"looking at {format_model_name(name)}"})
            plan.add(name)
        return _Writer(store, directory, report).write(plan, log, key, now_s)
    finally:
        store.discard(lease)  # patches and deltas were made for this bundle alone


@dataclass
class _Plan:
    """What goes into the bundle."""

    store: ModelStore
    lease: Lease
    bases: Sequence[Digest]
    models: list[BundledModel] = field(default_factory=list)
    blobs: dict[Digest, int] = field(default_factory=dict)
    absent: dict[Digest, int] = field(default_factory=dict)
    parts: dict[Digest, BundledPart] = field(default_factory=dict)
    patches: dict[Digest, tuple[ChunkMap, frozenset[bytes]]] = field(default_factory=dict)
    provenance: dict[Digest, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        manifests = [self.store.manifest(base) for base in self.bases]
        self._known = {blob.digest for manifest in manifests for blob in manifest.blobs()}
        self._layers = [layer for manifest in manifests for layer in manifest.layers]
        self.lease.add(*self._known)

    def add(self, name: ModelName) -> None:
        model = self.store.resolve(name)
        self.lease.add(model.digest, *(blob.digest for blob in model.manifest.blobs()))
        self.blobs[model.digest] = self.store.blobs.size(model.digest)
        proofs = []
        for content in self.store.provenance.all(model.digest):
            if _is_genuine(content):
                self.provenance[digest_of(content)] = content
                proofs.append(digest_of(content))
        self.models.append(BundledModel(name, model.digest, tuple(sorted(set(proofs)))))
        for blob in model.manifest.blobs():
            self._place(blob, model.manifest)

    def _place(self, blob: Descriptor, manifest: Manifest) -> None:
        if not self.store.blobs.has(blob.digest):
            raise BlobMissing(blob.digest)
        if blob.digest in self._known:
            self.absent[blob.digest] = blob.size
        elif blob.digest not in self.blobs and blob.digest not in self.absent:
            layer = next((layer for layer in manifest.layers if layer.digest == blob.digest), None)
            part = self._part(layer) if layer is not None else None
            if part is None:
                self.blobs[blob.digest] = blob.size
            else:
                self.absent[blob.digest] = blob.size
                self.parts[blob.digest] = part

    def _part(self, layer: Layer) -> BundledPart | None:
        """Return how a layer is made on the other side from what it has; None where it is carried whole."""
        target = self.store.chunk_map(layer)
        near = [base for base in self._layers if base.filepath == layer.filepath and base.chunk_map is not None]
        if target is None or not near:
            return None
        base_map = self.store.chunk_map(near[0])
        assert base_map is not None, "only layers with a chunk map are near"
        lacking = _lacking(base_map, target)
        if lacking >= layer.size * _DELTA_FROM:
            limit = delta_limit(base_map, target)
            delta = make_delta(self.store, near[0].digest, layer.digest, self.lease, limit)
            if delta is not None:
                self.blobs[delta] = self.store.blobs.size(delta)
                return BundledPart(layer.digest, How.DELTA, near[0].digest, delta)
        if lacking > layer.size * _PATCH_WORTH:
            return None
        return self._patch(near[0], base_map, target)

    def _patch(self, base: Layer, base_map: ChunkMap, target: ChunkMap) -> BundledPart:
        """Write the chunks that the base lacks into a blob of their own; it goes with the lease."""
        known = {chunk.blake3 for chunk in base_map}
        with self.store.blobs.open(target.blob) as source, self.store.blobs.writer(target.size) as writer:
            writer.write(PATCH_MAGIC)
            for chunk in target:
                if chunk.blake3 not in known:
                    known.add(chunk.blake3)
                    writer.write(chunk.index.to_bytes(4, "big"))
                    writer.write(os.pread(source.fileno(), chunk.length, chunk.offset))
            self.lease.add(writer.digest)
            file = writer.commit()
        self.blobs[file] = self.store.blobs.size(file)
        return BundledPart(target.blob, How.PATCH, base.digest, file)


def _lacking(base: ChunkMap, target: ChunkMap) -> int:
    known = {chunk.blake3 for chunk in base}
    return sum({chunk.blake3: chunk.length for chunk in target if chunk.blake3 not in known}.values())


def _is_genuine(content: bytes) -> bool:
    try:
        decode_and_verify_provenance(content)
    except ProvenanceInvalid:
        return False  # damaged here: the other side would refuse the whole bundle for it
    return True


class _Writer:
    """Fills the directory: blobs first, then what proves them, then the index and its signature."""

    def __init__(self, store: ModelStore, directory: Path, report: Report) -> None:
        self._store = store
        self._root = directory
        self._report = report
        self._copied = self._done = self._total = 0

    def write(self, plan: _Plan, log: Log, key: DeviceKey, now_s: int) -> ExportReport:
        self._total = sum(plan.blobs.values())
        with disk_errors(self._root):
            self._begin(max(plan.blobs.values()))
        self._require_space(plan.blobs)
        for digest, size in sorted(plan.blobs.items(), key=lambda item: item[1]):
            self._copy_blob(digest, size)
        index = encode_index(self._index(plan, log, key, now_s))
        self._put(INDEX_FILE, index)
        self._put(SIGNATURE_FILE, sign_index(key, index))
        with disk_errors(self._root):
            (self._root / UNFINISHED).unlink()
            flush_directory(self._root)
        names = [(model.name, model.manifest) for model in plan.models]
        return ExportReport(self._root, names, self._total, self._copied, sum(plan.absent.values()))

    def _begin(self, largest: int) -> None:
        """Accept a new or empty directory, or one that an export has marked, and mark it."""
        if self._root.exists() and not self._root.is_dir():
            raise BundleTargetUsed(self._root, "is not a directory")
        if not self._root.parent.is_dir():
            raise BundleTargetUsed(self._root, f"there is no directory {self._root.parent}; is its disk mounted?")
        found = sorted(path.name for path in self._root.iterdir()) if self._root.exists() else []
        if found and UNFINISHED not in found:
            named = clean_text(found[0], MAX_SHOWN_CHARS)
            what = "holds a finished bundle already" if SIGNATURE_FILE in found else f"is not empty: {named}"
            raise BundleTargetUsed(self._root, what)
        if link := next((path for path in self._root.rglob("*") if path.is_symlink()), None):
            # Whoever prepared the stick must not choose which files of this person are written over.
            raise BundleTargetUsed(self._root, f"holds a link: {clean_text(link.name, MAX_SHOWN_CHARS)}")
        _make(self._root)
        (self._root / UNFINISHED).touch()  # before anything else: what a kill leaves is known by it
        flush_directory(self._root)
        require_file_size(self._root, largest)
        for name in ("blobs", "blobs/sha256", "provenance", "logs"):
            _make(self._root / name)
        # An index of before is of other files; it must not be taken for that of these.
        (self._root / SIGNATURE_FILE).unlink(missing_ok=True)

    def _require_space(self, blobs: Mapping[Digest, int]) -> None:
        missing = sum(size for digest, size in blobs.items() if _size(self._blob_path(digest)) != size)
        free = free_bytes(self._root)
        if free < missing + MARGIN_BYTES:
            raise DiskFull(self._root, missing + MARGIN_BYTES - free, free)

    def _copy_blob(self, digest: Digest, size: int) -> None:
        """Copy one blob, hashed on the way; one that lies there whole from an earlier attempt is only hashed."""
        path = self._blob_path(digest)
        if _size(path) == size and self._hash(path, digest) == digest:
            return
        temporary = path.with_name(f"{digest}.part")
        state = hashlib.sha256()
        with self._store.blobs.open(digest) as source, disk_errors(path, size), temporary.open("wb") as target:
            while block := source.read(BLOCK_BYTES):
                target.write(block)
                state.update(block)
                self._tell(digest, len(block))
                self._copied += len(block)
            _finish(target)
        if state.hexdigest() != digest:
            temporary.unlink()
            self._store.blobs.quarantine(digest)
            raise LayerCorrupt(digest, Digest(state.hexdigest()))
        with disk_errors(path):
            temporary.replace(path)
            flush_directory(path.parent)

    def _hash(self, path: Path, digest: Digest) -> str:
        state = hashlib.sha256()
        with disk_errors(path), open_regular(path) as file:
            while block := file.read(BLOCK_BYTES):
                state.update(block)
                self._tell(digest, len(block))
        return state.hexdigest()

    def _index(self, plan: _Plan, log: Log, key: DeviceKey, now_s: int) -> BundleIndex:
        carried = _carried_logs(plan, log)
        entries: list[Json] = [
            index_entry(model.name, model.manifest, plan.blobs[model.manifest]) for model in plan.models
        ]
        return BundleIndex(
            exporter=key.did,
            created_s=now_s,
            models=tuple(plan.models),
            blobs=_listed(plan.blobs),
            absent=_listed(plan.absent),
            bases=tuple(sorted(set(plan.bases))) if plan.absent else (),
            parts=tuple(plan.parts[digest] for digest in sorted(plan.parts)),
            provenance=self._put_all("provenance", plan.provenance.values()),
            logs=self._put_all("logs", carried),
            layout=self._put("oci-layout", OCI_LAYOUT),
            index=self._put("index.json", encode_json({"schemaVersion": 2, "manifests": entries})),
        )

    def _put_all(self, place: str, contents: Iterable[bytes]) -> tuple[BundledFile, ...]:
        return tuple(sorted(self._put(f"{place}/{digest_of(content)}", content) for content in contents))

    def _put(self, name: str, content: bytes) -> BundledFile:
        path = self._root / name
        temporary = path.with_name(f"{path.name}.part")
        with disk_errors(path, len(content)):
            with temporary.open("wb") as file:
                file.write(content)
                _finish(file)
            temporary.replace(path)
            flush_directory(path.parent)
        return BundledFile(digest_of(content), len(content))

    def _tell(self, digest: Digest, count: int) -> None:
        self._done += count
        self._report(
            {"status": "exporting", "digest": digest, "completed": min(self._done, self._total), "total": self._total}
        )

    def _blob_path(self, digest: Digest) -> Path:
        return self._root / "blobs" / "sha256" / digest


def _carried_logs(plan: _Plan, log: Log) -> list[bytes]:
    """Return this device's own log where it is a publisher: no other log can be proven from here."""
    publishers = {decode_and_verify_provenance(content).publisher for content in plan.provenance.values()}
    if log.origin not in publishers or log.size > MAX_LEAVES:
        return []
    note, leaves = log.leaves()
    return [encode_log(CarriedLog(log.origin, note, tuple(leaves)))]


def _listed(files: Mapping[Digest, int]) -> tuple[BundledFile, ...]:
    return tuple(BundledFile(digest, files[digest]) for digest in sorted(files))


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:
        return -1


def _finish(file: io.BufferedWriter) -> None:
    """Give the file its mode, where the disk has modes, and return when it is on the disk."""
    file.flush()
    try:
        os.fchmod(file.fileno(), _FILE_MODE)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP):
            raise
    flush_file(file.fileno())


def _make(directory: Path) -> None:
    """Make a directory that everybody may read, where the disk has rights, and return when it is on the disk."""
    if directory.exists():
        return
    directory.mkdir()
    try:
        directory.chmod(_DIRECTORY_MODE)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP):
            raise
    flush_directory(directory.parent)
