"""A model's files under their own names, for programs that read directories; bytes are shared where possible."""

import ctypes
import fcntl
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from protocol.canonical_json import Json, decode_json, encode_json
from protocol.digest import Digest
from protocol.errors import JsonInvalid
from protocol.manifest import Layer, Manifest
from store.blobs import Blobs
from store.disk import READ_ONLY, disk_errors, flush_file, make_directories, replace_file
from store.lock import held_directory

STAMP_VERSION: Final = 1
MAX_STAMP_BYTES: Final = 4 << 20
_FICLONE: Final = 0x4004_9409  # linux/fs.h


def materialize(blobs: Blobs, digest: Digest, manifest: Manifest) -> Path:
    """Return a directory that holds the model's files, every one of them verified.

    A file is a reflink of its blob, else a hard link, else a symbolic link, else a copy. What was verified once is
    not hashed again as long as size, inode and modification time of every file are the same as then.

    Raises:
        BlobMissing: a layer is not in the store.
        LayerCorrupt: a layer's bytes changed; it is in quarantine now and nothing is handed out.
        DiskFull, DiskFailed: the directory could not be made.
    """
    layout = blobs.layout
    target = layout.materialized_path(digest)
    with layout.materializing:
        if _stamped(layout.stamp_path(digest)) == _facts(target, manifest.layers):
            with disk_errors(target):
                os.utime(layout.stamp_path(digest))  # in use since now: see store.reach
            return target
        for layer in manifest.layers:
            blobs.verify(layer.digest)
        with disk_errors(target):
            _make(blobs, target, manifest.layers)
            facts = _facts(target, manifest.layers)
        replace_file(
            layout.temporary, layout.stamp_path(digest), encode_json({"version": STAMP_VERSION, "files": facts})
        )
    return target


def remove_materialized(blobs: Blobs, digest: Digest) -> None:
    """Remove the directory of a model that is no longer in the store."""
    target = blobs.layout.materialized_path(digest)
    with disk_errors(target):
        blobs.layout.stamp_path(digest).unlink(missing_ok=True)
        if target.is_dir():
            shutil.rmtree(target)


def _make(blobs: Blobs, target: Path, layers: tuple[Layer, ...]) -> None:
    blobs.layout.stamp_path(Digest(target.name)).unlink(missing_ok=True)
    if target.exists():
        shutil.rmtree(target)
    fresh = blobs.layout.temporary / f"{os.getpid()}-{target.name}"
    if fresh.exists():
        shutil.rmtree(fresh)
    with held_directory(fresh, blobs.layout.sweeping):
        for layer in layers:
            path = fresh / layer.filepath
            make_directories(path.parent)
            _place(blobs.layout.blob_path(layer.digest), path)
        fresh.replace(target)


def reflink(blob: Path, path: Path) -> None:
    """Make the new file `path`, which shares the blob's bytes until one of the two is written.

    Raises:
        OSError: not on this file system, or not between these two.
    """
    if sys.platform == "darwin":
        if ctypes.CDLL(None, use_errno=True).clonefile(os.fsencode(blob), os.fsencode(path), 0) != 0:
            raise OSError(ctypes.get_errno(), "clonefile")
    else:
        with blob.open("rb") as source, path.open("xb") as clone:
            fcntl.ioctl(clone.fileno(), _FICLONE, source.fileno())
            os.fchmod(clone.fileno(), READ_ONLY)


def _hardlink(blob: Path, path: Path) -> None:
    path.hardlink_to(blob)


def _symlink(blob: Path, path: Path) -> None:
    path.symlink_to(blob.resolve())


def _copy(blob: Path, path: Path) -> None:
    shutil.copyfile(blob, path)
    path.chmod(READ_ONLY)
    with path.open("rb") as copy:
        flush_file(copy.fileno())  # the stamp must not be on the disk before what it vouches for


# In this order: a reflink shares no byte that can be changed, a hard link does, a symbolic link can dangle.
WAYS: Final[tuple[Callable[[Path, Path], None], ...]] = (reflink, _hardlink, _symlink)


def _place(blob: Path, path: Path) -> None:
    for way in WAYS:
        try:
            way(blob, path)
            return
        except OSError:  # not on this file system: the next way
            path.unlink(missing_ok=True)
    _copy(blob, path)


def _facts(directory: Path, layers: tuple[Layer, ...]) -> dict[str, Json] | None:
    """Return what tells each file from a changed one, or None where the directory does not hold exactly the layers."""
    facts: dict[str, Json] = {}
    for layer in layers:
        try:
            status = (directory / layer.filepath).stat()
        except OSError:
            return None
        facts[layer.filepath] = [layer.digest, status.st_size, status.st_ino, status.st_mtime_ns]
    found = sum(len(files) for _, _, files in os.walk(directory))
    return facts if found == len(facts) else None


def _stamped(path: Path) -> object:
    """Return the facts that were written down when the files were verified; never equal to `_facts` when unreadable."""
    try:
        document = decode_json(path.read_bytes(), MAX_STAMP_BYTES, "stamp")
    except (OSError, JsonInvalid):
        return False
    if not isinstance(document, dict) or document.get("version") != STAMP_VERSION:
        return False
    return document.get("files", False)
