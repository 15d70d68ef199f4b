"""A download that goes on where a killed one stopped: its bytes in order, hashed as they come, published when whole."""

import hashlib
import io
import os
from pathlib import Path
from types import TracebackType

from protocol.digest import Digest, parse_digest
from store.blobs import BLOCK_BYTES, Blobs
from store.disk import READ_ONLY, disk_errors, flush_directory, flush_file
from store.errors import LayerCorrupt
from store.partial import open_locked


class Download(io.RawIOBase):
    """The file `<digest>.download`, written in order from `position` on; a file object for whoever fetches.

    What an earlier run has left is hashed again and counted. `finish` is the only way into the store; without it the
    file stays for the next run. After `position` reaches `size` every further byte is refused.
    """

    def __init__(self, blobs: Blobs, digest: Digest, size: int) -> None:
        """Open or make it.

        Raises:
            PartialBusy: somebody else is downloading this blob.
            DiskFailed: it cannot be opened.
        """
        super().__init__()
        self.size = size
        self.position = 0
        self._blobs = blobs
        self._digest = digest
        self._path: Path = blobs.layout.downloads / f"{parse_digest(digest)}.download"
        self._hash = hashlib.sha256()
        with blobs.layout.sweeping.shared(), disk_errors(self._path):  # who sweeps locks it for a moment, to look
            self._file = open_locked(self._path, digest)
        try:
            with disk_errors(self._path):
                self._take_up()
        except BaseException:
            self._file.close()
            raise
        self.resumed_bytes = self.position

    def _take_up(self) -> None:
        if os.fstat(self._file.fileno()).st_size > self.size:
            self.restart()
        block = memoryview(bytearray(BLOCK_BYTES))
        while count := self._file.readinto(block):
            self._hash.update(block[:count])
            self.position += count

    def restart(self) -> None:
        """Forget what is there and begin with the first byte."""
        with disk_errors(self._path):
            self._file.truncate(0)
            self._file.seek(0)
        self._hash = hashlib.sha256()
        self.position = 0

    def pulse(self) -> None:
        """Be told that more is asked for; may raise to stop."""

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]  # the one caller writes bytes
        """Append `data`.

        Raises:
            LayerCorrupt: more bytes than the blob has.
            DiskFull, DiskFailed: what was written before stays.
        """
        if self.position + len(data) > self.size:
            raise LayerCorrupt(self._digest, None, f"more than its {self.size} bytes")
        rest = memoryview(data)
        with disk_errors(self._path, self.size - self.position):
            while rest:
                rest = rest[os.write(self._file.fileno(), rest) :]
        self._hash.update(data)
        self.position += len(data)
        return len(data)

    def tell(self) -> int:
        """Return where the next byte goes."""
        return self.position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to the first byte, which is all that is supported: a server that sends everything again was met."""
        if offset != 0 or whence != os.SEEK_SET:
            raise io.UnsupportedOperation("only to the beginning")
        self.restart()
        return 0

    def truncate(self, size: int | None = None) -> int:
        """Accept: `seek` has already cut the file."""
        return self.position

    def finish(self) -> Digest:
        """Publish the blob, durable, and return its digest.

        Raises:
            LayerCorrupt: the bytes are not those of the digest; they are gone.
            DiskFull, DiskFailed: they stay for the next time.
        """
        found = Digest(self._hash.hexdigest())
        if found != self._digest:
            self._path.unlink(missing_ok=True)
            raise LayerCorrupt(self._digest, found)
        target = self._blobs.layout.blob_path(self._digest)
        with disk_errors(self._path):
            os.fchmod(self._file.fileno(), READ_ONLY)
            flush_file(self._file.fileno())
            self._path.replace(target)
            flush_directory(target.parent)
        return found

    def close(self) -> None:
        """Let go of the file; what is there stays."""
        self._file.close()
        super().close()

    def __enter__(self) -> "Download":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
