"""What the disk and the data directory answer.

StoreError
├── HomeLocked
├── DiskFull
├── DiskFailed
└── FileTooLarge
"""

from pathlib import Path

from store.errors.base import StoreError


class HomeLocked(StoreError):
    """Another node holds this data directory."""

    def __init__(self, home: Path, pid: int | None) -> None:
        super().__init__(f"data directory {home}: in use by {f'process {pid}' if pid else 'another process'}")
        self.home = home
        self.pid = pid
        self.hint = "talk to the running node (tilenode status), stop it (tilenode stop), or set another TILENODE_HOME"


class DiskFull(StoreError):
    """There is no room for what was to be written; nothing that was there before is lost."""

    def __init__(self, place: Path, missing_bytes: int, free_bytes: int) -> None:
        super().__init__(f"disk full at {place}: {missing_bytes} bytes more are needed, {free_bytes} are free")
        self.place = place
        self.missing_bytes = missing_bytes
        self.free_bytes = free_bytes
        self.hint = f"free at least {max(1, missing_bytes >> 20)} MiB there and try again; finished chunks are kept"


class DiskFailed(StoreError):
    """The operating system could not read or write a file of the store."""

    def __init__(self, place: Path, error: OSError) -> None:
        super().__init__(f"{place}: {(error.strerror or type(error).__name__).lower()}")
        self.place = place
        self.errno = error.errno
        self.hint = "check the disk and the rights on that path"


class FileTooLarge(StoreError):
    """The file system of the target holds no file of that size; nothing was copied."""

    hint = "format the disk as exFAT or ext4, which have no such limit, or take another disk"

    def __init__(self, place: Path, size: int) -> None:
        super().__init__(f"{place}: its file system takes no file of {size} bytes (FAT32 ends at 4 GiB)")
        self.place = place
        self.size = size
