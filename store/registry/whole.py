"""A blob without a chunk map on its way into the store: from its first byte to its last, and on after a kill."""

import hashlib
import os
from types import TracebackType
from typing import Final

from protocol.digest import Digest
from store.blobs import BLOCK_BYTES
from store.disk import READ_ONLY, disk_errors, flush_data, flush_directory, flush_file, require_space
from store.errors import LayerCorrupt
from store.partial import PartialStore, open_locked

SYNC_BYTES: Final = 64 << 20


class WholePartial:
    """The first bytes of a blob, in the file of its partial layer; what a killed run left is hashed again and kept.

    Nothing vouches for single bytes: only at the end does the whole prove right or wrong.
    """

    def __init__(self, store: PartialStore, digest: Digest, size: int) -> None:
        """Take up what there is.

        Raises:
            PartialBusy: it is open already, here or in another process.
            DiskFull: the rest does not fit on the disk.
        """
        self.digest = digest
        self.size = size
        self.received = 0
        self._unsynced = 0
        self._hash = hashlib.sha256()
        self._layout = store.layout
        self._path = store.layout.partial_path(digest)
        with store.layout.sweeping.shared(), disk_errors(self._path):  # who sweeps locks it for a moment, to look
            self._file = open_locked(self._path, digest)
        try:
            with disk_errors(self._path):
                self._take_up()
            require_space(self._path, size - self.received)
        except BaseException:
            self._file.close()
            raise

    def write(self, data: bytes) -> None:
        """Append the next bytes; on the disk every 64 MiB.

        Raises:
            LayerCorrupt: more than the blob has.
            DiskFull, DiskFailed: what was written before stays.
        """
        if self.received + len(data) > self.size:
            raise LayerCorrupt(self.digest, None, f"more than {self.size} bytes")
        rest = memoryview(data)
        with disk_errors(self._path, self.size - self.received):
            while rest:
                rest = rest[os.write(self._file.fileno(), rest) :]
            self._hash.update(data)
            self.received += len(data)
            self._unsynced += len(data)
            if self._unsynced >= SYNC_BYTES:
                flush_data(self._file.fileno())
                self._unsynced = 0

    def finish(self) -> None:
        """Publish the blob.

        Raises:
            LayerCorrupt: its bytes are others than those of its digest; they are thrown away.
            DiskFull, DiskFailed: it can be tried again.
        """
        found = Digest(self._hash.hexdigest())
        if (found, self.received) != (self.digest, self.size):
            self.discard()
            raise LayerCorrupt(self.digest, found)
        with disk_errors(self._path):
            os.fchmod(self._file.fileno(), READ_ONLY)
            flush_file(self._file.fileno())
            self._path.replace(self._layout.blob_path(self.digest))
            flush_directory(self._layout.blobs)
        self.close()

    def discard(self) -> None:
        """Throw away what has arrived."""
        with disk_errors(self._path):
            self._path.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Let go of the file; the next one takes it up again."""
        self._file.close()

    def __enter__(self) -> "WholePartial":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _take_up(self) -> None:
        """Hash what is there; what an earlier fetch by chunks has left has holes and is of no use here."""
        bitmap = self._layout.bitmap_path(self.digest)
        if bitmap.exists() or os.fstat(self._file.fileno()).st_size > self.size:
            bitmap.unlink(missing_ok=True)
            os.ftruncate(self._file.fileno(), 0)
        while block := self._file.read(BLOCK_BYTES):
            self._hash.update(block)
            self.received += len(block)
