"""Where workers keep what they read of prompts between restarts: a directory for each model, sealed with its own key.

What lies there is made of what people wrote to the model, so it goes with the model, and nobody without this device's
keys can read it (specs/0028-prefix-cache). Blocking; the worker does everything inside a directory.
"""

import hashlib
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Final

from node.events import Events
from node.threads import Threads
from protocol.digest import Digest, parse_digest
from protocol.errors import DigestInvalid
from protocol.prefix_file import VERSION
from protocol.worker.messages import DiskCache
from store.disk import make_directories
from store.leftovers import disk_bytes

PURPOSE: Final = "prefix cache"
# So many models have a directory, each an equal part of what prefixes may take on the disk.
MAX_MODELS: Final = 4
_USERS: Final = "models"
# What is told when models may have gone, and when it is not known what was told.
_LEAVING: Final = frozenset({"removed", "collected", "lost"})


class PrefixPlaces:
    """The directories of all models below `root`, at most `max_bytes` in all.

    `subkey` derives a key of 32 bytes from the device's secrets, for a purpose and a subject.
    """

    def __init__(self, root: Path, subkey: Callable[[str, str], bytes], max_bytes: int) -> None:
        self._root = root
        self._subkey = subkey
        self._max_bytes = max_bytes

    def place(self, weights: str, manifest: Digest, kv_bits: int) -> DiskCache | None:
        """Return where a worker with `weights` keeps prefixes for the model of `manifest`; None for nowhere.

        What another version of the engine had left there is removed, and so are the directories of the models that
        were longest unused, if there are more than four.
        """
        if not self._max_bytes:
            return None
        name = _name(weights)
        directory = self._root / name / _engine(kv_bits)
        try:
            make_directories(directory)
            users = self._root / name / _USERS
            make_directories(users)
            (users / parse_digest(manifest)).touch(mode=0o600)
            os.utime(users)
            for other in (self._root / name).iterdir():
                if other not in (directory, users):
                    _remove(other)
            self._forget_oldest(name)
        except (OSError, DigestInvalid):
            return None  # prompts are read anew then
        key = self._subkey(PURPOSE, f"{name}/{directory.name}")
        return DiskCache(str(directory), key, self._max_bytes // MAX_MODELS)

    def keep_only(self, is_there: Callable[[Digest], bool]) -> int:
        """Remove the directories of models that are no longer there, or all where nothing is kept; return how many."""
        if not self._max_bytes:
            removed = len(self._places())
            _remove(self._root)
            return removed
        removed = 0
        for place in self._places():
            users = [path for path in _entries(place / _USERS) if not _is_gone(path, is_there)]
            if not users:
                _remove(place)
                removed += 1
        return removed

    def used_bytes(self) -> int:
        """Return what all of it takes on the disk."""
        return disk_bytes(self._root) if self._root.is_dir() else 0

    def _places(self) -> list[Path]:
        return [path for path in _entries(self._root) if path.is_dir() and not path.is_symlink()]

    def _forget_oldest(self, newest: str) -> None:
        places = [path for path in self._places() if path.name != newest]
        places.sort(key=lambda path: (path / _USERS).stat().st_mtime if (path / _USERS).exists() else 0.0)
        for place in places[: max(0, len(places) + 1 - MAX_MODELS)]:
            _remove(place)


async def forget_gone_models(
    places: PrefixPlaces, events: Events, threads: Threads, is_there: Callable[[Digest], bool]
) -> None:
    """Remove what belongs to models that are no longer there: now, and whenever one goes; runs until cancelled."""
    async with events.listen() as channel:
        await threads.store(places.keep_only, is_there)
        async for event in channel:
            if event["event"] in _LEAVING:
                await threads.store(places.keep_only, is_there)


def _name(weights: str) -> str:
    return hashlib.blake2b(weights.encode(), digest_size=16, person=b"prefix place").hexdigest()


def _engine(kv_bits: int) -> str:
    """Return what tells arrays of this engine from others, which nobody can go on from."""
    return f"{VERSION}-mlx-{version('mlx')}-{version('mlx-lm')}-kv{kv_bits}"


def _is_gone(user: Path, is_there: Callable[[Digest], bool]) -> bool:
    try:
        if is_there(parse_digest(user.name)):
            return False
    except DigestInvalid:
        pass
    _remove(user)
    return True


def _entries(directory: Path) -> list[Path]:
    try:
        return sorted(directory.iterdir())
    except OSError:
        return []


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
        return
    with suppress(OSError):
        path.unlink(missing_ok=True)
