"""What was read of prompts, kept on the disk between two lives of the worker (specs/0028-prefix-cache).

One thread looks through the directory at the start and writes afterwards; MLX is touched by the caller's thread alone.
A file appears under its name at once and whole, and what does not open with the key counts for nothing: whenever the
process ends, the next one is none the worse for it.
"""

import io
import os
import queue
import re
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nacl.utils import random as random_bytes

from protocol.errors import PrefixFileInvalid
from protocol.prefix_file import (
    FIXED_BYTES,
    NAME_BYTES,
    NONCE_BYTES,
    TAG_BYTES,
    PrefixHeader,
    PrefixKeys,
    Tensor,
    header_length,
    open_body,
    open_header,
    seal_prefix,
)
from protocol.worker.messages import DiskCache
from store.disk import open_regular

SUFFIX: Final = ".prefix"
MAX_FILES: Final = 16_384
# What nobody came back to for so long is let go: it is made of what people wrote.
MAX_AGE_S: Final = 7 * 24 * 3600.0
# So long a file waits for a moment in which nobody is being answered.
PATIENCE_S: Final = 2.0
READERS: Final = 4
# The newest files are opened ahead, while the model loads: the first question then finds them ready.
AHEAD_BYTES: Final = 64 * 1024 * 1024
_NAME: Final = re.compile(rf"[0-9a-f]{{{2 * NAME_BYTES}}}", re.ASCII)


@dataclass(frozen=True)
class Found:
    """A file that was there at the start and opens with the key; `used_s` is Unix time."""

    name: bytes
    header: PrefixHeader
    used_s: float


class PrefixDisk:
    """The files of one directory. Its methods are for one thread, the one that owns MLX."""

    def __init__(self, place: DiskCache, now_s: Callable[[], float] = time.time) -> None:
        """Begin to look through the directory of `place`; it is made where it is missing."""
        self.keys = PrefixKeys.of(place.key)
        self.max_bytes = place.max_bytes
        self._directory = Path(place.directory)
        self._now_s = now_s
        self._found: list[Found] = []
        self._newest: list[tuple[bytes, tuple[Tensor, ...]]] = []
        self._ahead: dict[bytes, bytes] = {}
        # What is on its way into a file; it may be wanted back before it is there.
        self._pending: dict[bytes, Sequence[memoryview]] = {}
        self._looked = threading.Event()
        self._wanted = threading.Event()
        self._quiet = threading.Event()
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._failed: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._readers = ThreadPoolExecutor(READERS, "prefix-reader")
        self._thread = threading.Thread(target=self._run, name="prefixes", daemon=True)
        self._thread.start()

    def found(self) -> Sequence[Found]:
        """Return what was there at the start, waiting until all is looked through."""
        self._looked.wait()
        found, self._found = self._found, []
        return found

    def read(self, files: Sequence[tuple[bytes, tuple[Tensor, ...]]]) -> list[bytes | None]:
        """Return the arrays of each of `files`, a name and what it must hold; None for one that is gone or damaged."""
        self._wanted.set()
        return list(self._readers.map(lambda file: self._read(*file), files))

    def write(self, header: PrefixHeader, views: Sequence[memoryview], instead_of: Sequence[bytes]) -> None:
        """Keep `views`, the arrays of `header`, in a file, soon; the files `instead_of` then go."""

        name = self.keys.name(header.kind, header.parent, header.tokens)

        def job() -> None:
            self._quiet.wait(PATIENCE_S)
            self._write(name, header, views)
            if self._pending.get(name) is views:
                del self._pending[name]
            for old in instead_of:
                self._unlink(old)

        self._pending[name] = views
        self._jobs.put(job)

    @property
    def pending(self) -> int:
        """How many files are to be written."""
        return len(self._pending)

    def touch(self, names: Sequence[bytes]) -> None:
        """Note that these files were of use now."""
        self._jobs.put(lambda: self._touch(names))

    def remove(self, name: bytes) -> None:
        """Remove a file, after what was to be written before."""
        self._jobs.put(lambda: self._unlink(name))

    def failed(self) -> list[bytes]:
        """Return the files that could not be written since the last call."""
        names = []
        with suppress(queue.Empty):
            while True:
                names.append(self._failed.get_nowait())
        return names

    def set_quiet(self, quiet: bool) -> None:
        """Say whether nobody is being answered: files are written then."""
        if quiet:
            self._quiet.set()
        else:
            self._quiet.clear()

    def close(self) -> None:
        """Write what was to be written, and end."""
        self._quiet.set()
        self._jobs.put(None)
        self._thread.join()
        self._readers.shutdown()

    def _run(self) -> None:
        try:
            self._look_through()
        finally:
            self._looked.set()
        self._read_ahead()
        while (job := self._jobs.get()) is not None:
            job()

    def _look_through(self) -> None:
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            entries = sorted(os.scandir(self._directory), key=lambda entry: entry.name)
        except OSError:
            return  # nothing is found, and every write will fail and be told
        for entry in entries:
            found = self._look_at(entry)
            if found is not None:
                self._found.append(found)
                continue
            with suppress(OSError):
                Path(entry.path).unlink()
        self._found.sort(key=lambda found: found.used_s)
        left = AHEAD_BYTES
        for found in reversed(self._found):
            left -= found.header.body_bytes
            if left >= 0:
                self._newest.append((found.name, found.header.tensors))

    def _read_ahead(self) -> None:
        for name, tensors in self._newest:
            if self._wanted.is_set():
                return
            try:
                body = self._read_file(name, tensors)
            except MemoryError:  # bounded while a template is rendered; it is read when it is wanted
                return
            if body is not None:
                self._ahead[name] = body

    def _look_at(self, entry: "os.DirEntry[str]") -> Found | None:
        """Return what a directory entry is good for; None for what has to go."""
        stem, suffix = os.path.splitext(entry.name)  # noqa: PTH122 - no path, only a name
        if suffix != SUFFIX or not _NAME.fullmatch(stem) or len(self._found) >= MAX_FILES:
            return None
        name = bytes.fromhex(stem)
        try:
            with open_regular(Path(entry.path)) as file:
                status = os.fstat(file.fileno())
                used_s = min(status.st_mtime, self._now_s())
                header, _ = self._read_header(name, file)
                if status.st_size != file.tell() + header.body_bytes + TAG_BYTES:
                    return None
        except (OSError, PrefixFileInvalid):
            return None
        return Found(name, header, used_s) if self._now_s() - used_s <= MAX_AGE_S else None

    def _read_header(self, name: bytes, file: io.FileIO) -> tuple[PrefixHeader, bytes]:
        opening = file.read(FIXED_BYTES)
        return open_header(self.keys, name, opening, file.read(header_length(opening)))

    def _read(self, name: bytes, tensors: tuple[Tensor, ...]) -> bytes | None:
        if (views := self._pending.get(name)) is not None:
            return b"".join(views)
        ahead = self._ahead.pop(name, b"")
        # Under the name that was read ahead another file may lie by now, without the arrays of windows or with them.
        is_it = ahead and len(ahead) == sum(tensor.nbytes for tensor in tensors)
        return ahead if is_it else self._read_file(name, tensors)

    def _read_file(self, name: bytes, tensors: tuple[Tensor, ...]) -> bytes | None:
        try:
            with open_regular(self._path(name)) as file:
                header, nonce = self._read_header(name, file)
                if header.tensors != tensors:
                    raise PrefixFileInvalid("header", "not the one that was there before")
                # One byte more than there may be, so that a file that is too long is noticed.
                return open_body(self.keys, name, header, nonce, file.read(header.body_bytes + TAG_BYTES + 1))
        except (OSError, PrefixFileInvalid):
            self._unlink(name)
            return None

    def _write(self, name: bytes, header: PrefixHeader, views: Sequence[memoryview]) -> None:
        nonces = random_bytes(NONCE_BYTES), random_bytes(NONCE_BYTES)
        path = self._path(name)
        # A name of this process's own: for a moment two workers may know the directory.
        temporary = path.with_suffix(f".{os.getpid()}")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            with open(os.open(temporary, flags, 0o600), "wb") as file:  # noqa: PTH123 - by descriptor, for its mode
                for part in seal_prefix(self.keys, header, b"".join(views), *nonces):
                    file.write(part)
            # Not flushed to the medium: what a power cut tears does not open, and is computed again.
            temporary.replace(path)
        except (OSError, MemoryError):  # memory is bounded while a template is rendered
            self._failed.put(name)
            with suppress(OSError):
                temporary.unlink(missing_ok=True)

    def _touch(self, names: Sequence[bytes]) -> None:
        now_s = self._now_s()
        for name in names:
            with suppress(OSError):
                os.utime(self._path(name), (now_s, now_s))

    def _unlink(self, name: bytes) -> None:
        with suppress(OSError):
            self._path(name).unlink(missing_ok=True)

    def _path(self, name: bytes) -> Path:
        return self._directory / f"{name.hex()}{SUFFIX}"
