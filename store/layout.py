"""The store's directories: a valid OCI image layout and the store's own tree at one root (specs/0006)."""

import threading
from pathlib import Path
from typing import Final

from protocol.canonical_json import encode_json
from protocol.digest import Digest, parse_digest
from protocol.errors import ModelNameInvalid
from protocol.model_name import ModelName, format_model_name, parse_model_name
from store.disk import Temporary, disk_errors, make_directories, replace_file
from store.lock import FileLock
from store.ref_file import ref_path

OCI_LAYOUT: Final = encode_json({"imageLayoutVersion": "1.0.0"})


class Layout:
    """Where everything lies below `root`; makes the tree when it is not there.

    `lock` is held by whoever changes refs or removes blobs, so that a ref never appears while its blobs go. Between
    processes that is `naming` for refs, and `sweeping`: shared to write a ref or a lease, exclusive to remove blobs.
    They are taken in this order.

    Raises:
        DiskFull, DiskFailed: the tree cannot be made.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.lock = threading.RLock()
        self.materializing = threading.Lock()  # one at a time; not `lock`, because hashing a model takes seconds
        self.blobs = root / "blobs" / "sha256"
        self.manifests = root / "manifests"
        self.indexes = root / "indexes"
        self.downloads = root / "cache" / "downloads"
        self.materialized = root / "cache" / "models"
        self.temporary = root / "cache" / "tmp"
        self.quarantine = root / "quarantine"
        self.provenance = root / "provenance"
        self.index = root / "index.json"
        self.tags = self.indexes / "tags.json"
        self.chunks = self.indexes / "chunks.sqlite"
        self.facts = self.indexes / "models.sqlite"
        self.leases = root / "leases"
        self.naming = FileLock(root / "refs.lock")
        self.sweeping = FileLock(root / "gc.lock")
        self._make()

    def blob_path(self, digest: Digest) -> Path:
        """Return where the blob lies or would lie."""
        return self.blobs / parse_digest(digest)

    def partial_path(self, digest: Digest) -> Path:
        """Return the file into which a layer is being fetched."""
        return self.downloads / f"{parse_digest(digest)}.partial"

    def bitmap_path(self, digest: Digest) -> Path:
        """Return the file that says which chunks of a partial layer are on the disk."""
        return self.downloads / f"{parse_digest(digest)}.bitmap"

    def materialized_path(self, manifest: Digest) -> Path:
        """Return the directory in which the model's files have their own names."""
        return self.materialized / parse_digest(manifest)

    def stamp_path(self, manifest: Digest) -> Path:
        """Return the file that says which files of a materialised model were verified."""
        return self.materialized / f"{parse_digest(manifest)}.json"

    def quarantine_path(self, digest: Digest) -> Path:
        """Return where a blob goes whose bytes are not the ones that its digest names."""
        return self.quarantine / parse_digest(digest)

    def ref_path(self, name: ModelName) -> Path:
        """Return the file that says which manifest `name` stands for.

        Raises:
            ModelNameInvalid: a name that was put together by hand and is none.
        """
        if parse_model_name(format_model_name(name)) != name:
            raise ModelNameInvalid(str(name), "not in its canonical form")
        return ref_path(self.manifests, name)

    def new_temporary(self) -> Temporary:
        """Return a new file on the store's file system, gone after its block unless it was renamed."""
        return Temporary(self.temporary)

    def _make(self) -> None:
        with disk_errors(self.root):
            for directory in (
                self.blobs,
                self.manifests,
                self.indexes,
                self.downloads,
                self.materialized,
                self.temporary,
                self.quarantine,
                self.leases,
                self.root / "logs",
            ):
                make_directories(directory)
        for path, content in (
            (self.root / "oci-layout", OCI_LAYOUT),
            (self.index, encode_json({"schemaVersion": 2, "manifests": []})),
        ):
            if not path.exists():
                replace_file(self.temporary, path, content)
