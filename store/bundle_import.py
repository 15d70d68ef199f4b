"""Importing: a bundle that was carried here, checked whole before anything of it is kept (specs/0026).

Nothing in a bundle names a path: files are opened below the directory by their digests, links are never followed.
"""

import errno
import io
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final

from identity.did import DeviceId
from protocol.bundle import (
    MAX_INDEX_BYTES,
    MAX_LOG_BYTES,
    MAX_SIGNATURE_BYTES,
    BundledFile,
    BundledModel,
    BundledPart,
    BundleIndex,
    CarriedLog,
    decode_log,
    open_index,
)
from protocol.digest import Digest, digest_of
from protocol.errors import BundleInvalid, ProvenanceInvalid
from protocol.manifest import MAX_MANIFEST_BYTES, Manifest, parse_manifest
from protocol.model_name import ModelName, parse_model_name
from protocol.provenance import MAX_PROVENANCE_BYTES, Provenance, decode_and_verify_provenance
from store.bundle import INDEX_FILE, SIGNATURE_FILE, UNFINISHED
from store.carried_logs import check_log
from store.errors import (
    BundleBaseMissing,
    BundleDamaged,
    BundleMissing,
    DiskFailed,
)
from store.models import ModelStore

SYNC_BYTES: Final = 64 << 20
MAX_DERIVED_BYTES: Final = 16 << 20
_NUMBER_BYTES: Final = 4

Report = Callable[[Mapping[str, object]], None]


@dataclass(frozen=True)
class CarriedModel:
    """A model of the bundle: the name that it gets here, and the proofs that come with it, verified.

    The name is the one that the publisher signed; where nobody signed, the one that the exporting device used.
    """

    name: ModelName
    digest: Digest
    manifest: Manifest
    manifest_bytes: bytes
    provenance: Provenance | None
    bundles: tuple[bytes, ...]


class Bundle:
    """A bundle whose index, signature, proofs and manifests were verified; the blobs are, when they are taken.

    Closed at the end of its block.
    """

    def __init__(self, directory: Path) -> None:
        """Open the bundle in `directory`.

        Raises:
            BundleMissing: there is none, or its export was not finished.
            BundleInvalid: the index is none, or was not signed by the device that it names.
            BundleDamaged: a file is missing, of another size, or hashes to something else.
            ProvenanceInvalid, ManifestInvalid: a model's proof does not hold, or its manifest is not acceptable.
            DiskFailed: the disk says no.
        """
        self.directory = directory
        self._root = _open_root(directory)
        try:
            self.index = self._open_index()
            self._read_listed(("oci-layout",), self.index.layout, MAX_DERIVED_BYTES)
            self._read_listed(("index.json",), self.index.index, MAX_DERIVED_BYTES)
            self._sizes = {blob.digest: blob.size for blob in (*self.index.blobs, *self.index.absent)}
            self._carried = {blob.digest: blob for blob in self.index.blobs}
            self._parts = {part.blob: part for part in self.index.parts}
            self.logs = self._read_logs()
            proofs = self._read_provenance()
            self.models = tuple(self._model(model, proofs) for model in self.index.models)
        except BaseException:
            os.close(self._root)
            raise

    def __enter__(self) -> "Bundle":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        os.close(self._root)

    @property
    def signers(self) -> tuple[DeviceId, ...]:
        """The devices that have to be known or accepted: the publishers, and the exporter where nobody signed."""
        return tuple(
            dict.fromkeys(
                model.provenance.publisher if model.provenance else self.index.exporter for model in self.models
            )
        )

    def checkpoints(self) -> list[tuple[DeviceId, bytes]]:
        """Return every checkpoint that the bundle shows, to be compared with what was seen: those of logs last."""
        shown = [
            (provenance.publisher, provenance.checkpoint)
            for model in self.models
            for provenance in map(decode_and_verify_provenance, model.bundles)
        ]
        return list(dict.fromkeys(shown + [(log.origin, log.checkpoint) for log in self.logs.values()]))

    def missing(self, store: ModelStore) -> list[Digest]:
        """Return the blobs that the bundle neither carries nor makes, and that are not here either."""
        return [
            blob.digest
            for blob in self.index.absent
            if not store.blobs.has(blob.digest) and not self._can_make(store, blob.digest)
        ]

    def require_bases(self, store: ModelStore) -> None:
        """Accept when everything that was left out is here.

        Raises:
            BundleBaseMissing: it names the manifests that have it.
        """
        missing = self.missing(store)
        if missing:
            raise BundleBaseMissing(self.index.bases, len(missing), sum(self._sizes[digest] for digest in missing))

    def older(self, store: ModelStore) -> dict[ModelName, tuple[int, int]]:
        """Return the names that would go back to what their publisher signed earlier: log entry here, and carried."""
        found = {}
        for model in self.models:
            here = _signed_here(store, model)
            if here is not None and model.provenance is not None and here > model.provenance.sign.index:
                found[model.name] = (here, model.provenance.sign.index)
        return found

    def taken(self, store: ModelStore) -> dict[ModelName, DeviceId]:
        """Return the names that stand here for what somebody else signed, and who that is: they would be taken away."""
        found = {}
        for model in self.models:
            signer = _signed_by_another(store, model)
            if signer is not None:
                found[model.name] = signer
        return found

    def part(self, digest: Digest) -> BundledPart | None:
        """Return how a blob that is not carried is made."""
        return self._parts.get(digest)

    def carried(self, digest: Digest) -> BundledFile | None:
        """Return the file of a blob that is carried."""
        return self._carried.get(digest)

    def carried_models(self) -> Sequence[Manifest]:
        """Return the manifests of all models."""
        return [model.manifest for model in self.models]

    @contextmanager
    def open_blob(self, file: BundledFile) -> Iterator[io.FileIO]:
        """Give a carried blob's file, not verified but for its size.

        Raises:
            BundleDamaged: it is not there, no regular file, or of another size.
        """
        with self._open(("blobs", "sha256", file.digest), file.size) as opened:
            yield opened

    def _can_make(self, store: ModelStore, digest: Digest) -> bool:
        part = self._parts.get(digest)
        return part is not None and store.blobs.has(part.base)

    def _open_index(self) -> BundleIndex:
        try:
            index = self._read((INDEX_FILE,), MAX_INDEX_BYTES)
            signature = self._read((SIGNATURE_FILE,), MAX_SIGNATURE_BYTES)
        except BundleDamaged:
            raise BundleMissing(self.directory, self._exists(UNFINISHED)) from None
        return open_index(index, signature)

    def _exists(self, name: str) -> bool:
        try:
            os.stat(name, dir_fd=self._root, follow_symlinks=False)
        except OSError:
            return False
        return True

    def _read_logs(self) -> dict[DeviceId, CarriedLog]:
        logs = {}
        for file in self.index.logs:
            log = decode_log(self._read_listed(("logs", file.digest), file, MAX_LOG_BYTES))
            check_log(log)
            logs[log.origin] = log
        return logs

    def _read_provenance(self) -> dict[Digest, tuple[bytes, Provenance]]:
        found = {}
        for file in self.index.provenance:
            content = self._read_listed(("provenance", file.digest), file, MAX_PROVENANCE_BYTES)
            found[file.digest] = (content, decode_and_verify_provenance(content))
        return found

    def _model(self, model: BundledModel, proofs: Mapping[Digest, tuple[bytes, Provenance]]) -> CarriedModel:
        file = self._carried[model.manifest]
        content = self._read_listed(("blobs", "sha256", file.digest), file, MAX_MANIFEST_BYTES)
        manifest = parse_manifest(content)
        for blob in manifest.blobs():
            if self._sizes.get(blob.digest) != blob.size:
                raise BundleInvalid(str(model.name), f"needs {blob.digest[:12]}, which is not listed with that size")
        found = [proofs[digest] for digest in model.provenance]
        if any(provenance.manifest_digest != model.manifest for _, provenance in found):
            raise ProvenanceInvalid("bundle", f"is of another model than {model.name}")
        # The one under the name that the exporter uses; of several names that were signed the first one otherwise.
        found.sort(key=lambda item: parse_model_name(item[1].name) != model.name)
        provenance = found[0][1] if found else None
        name = parse_model_name(provenance.name) if provenance else model.name
        return CarriedModel(name, model.manifest, manifest, content, provenance, tuple(each for each, _ in found))

    def _read_listed(self, parts: tuple[str, ...], file: BundledFile, max_bytes: int) -> bytes:
        if file.size > max_bytes:
            raise BundleInvalid("/".join(parts), f"{file.size} bytes, at most {max_bytes} are read")
        content = self._read(parts, file.size, file.size)
        if digest_of(content) != file.digest:
            raise BundleDamaged("/".join(parts), "is not the file that was signed")
        return content

    def _read(self, parts: tuple[str, ...], max_bytes: int, size: int | None = None) -> bytes:
        with self._open(parts, size) as file, reading(parts):
            content = bytearray()
            while len(content) <= max_bytes and (piece := file.read(max_bytes + 1 - len(content))):
                content += piece
        if len(content) > max_bytes:
            raise BundleDamaged("/".join(parts), f"more than {max_bytes} bytes")
        return bytes(content)

    @contextmanager
    def _open(self, parts: tuple[str, ...], size: int | None) -> Iterator[io.FileIO]:
        """Give a regular file below the directory; no part of its path may be a link."""
        with reading(parts):
            descriptor = _open_below(self._root, parts)
        with io.FileIO(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise BundleDamaged("/".join(parts), "is no regular file")
            if size is not None and status.st_size != size:
                raise BundleDamaged("/".join(parts), f"{status.st_size} bytes, {size} were signed")
            yield file


def _signed_here(store: ModelStore, model: CarriedModel) -> int | None:
    """Return the log entry by which the same publisher signed what the name stands for here; None where it did not."""
    current = store.refs.get(model.name)
    if current in (None, model.digest) or model.provenance is None:
        return None
    assert current is not None, "as above"
    bundle = store.provenance.load(current, model.provenance.publisher, model.provenance.name)
    return decode_and_verify_provenance(bundle).sign.index if bundle is not None else None


def _signed_by_another(store: ModelStore, model: CarriedModel) -> DeviceId | None:
    """Return who signed what the name stands for here; None where nobody did, or the same publisher as the bundle's."""
    current = store.refs.get(model.name)
    if current is None or current == model.digest:
        return None
    if model.provenance is not None and store.provenance.load(current, model.provenance.publisher) is not None:
        return None
    bundle = store.provenance.load(current)
    return decode_and_verify_provenance(bundle).publisher if bundle is not None else None


def _open_root(directory: Path) -> int:
    try:
        return os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            raise BundleMissing(directory, begun=False) from None
        raise DiskFailed(directory, error) from error


def _open_below(root: int, parts: tuple[str, ...]) -> int:
    """Return the file `parts` below the open directory `root`; every step refuses links."""
    at = os.dup(root)
    try:
        for part in parts[:-1]:
            inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
            os.close(at)
            at = inner
        return os.open(parts[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=at)
    finally:
        os.close(at)


@contextmanager
def reading(parts: tuple[str, ...]) -> Iterator[None]:
    """Turn what the operating system says about a file of the bundle into an error that names the file."""
    try:
        yield
    except OSError as error:
        raise BundleDamaged("/".join(parts), (error.strerror or "cannot be read").lower()) from error
