"""The cache of the hub's own library on this machine: files that need not be downloaded again.

<cache>/models--owner--name/refs/<revision>               the commit that a branch or tag stood for
<cache>/models--owner--name/snapshots/<commit>/<path>     a link to the file below
<cache>/models--owner--name/blobs/<sha256 or git id>      the file, or a link to <cache>/blobs/xx/<Xet hash>

It belongs to another program and is only read: names are followed as that program follows them, never out of the
cache, and no byte is believed before it was hashed. Source: specs/0021-builds.md §Caches.
"""

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from protocol.digest import Digest, parse_digest
from protocol.errors import DigestInvalid
from store.disk import disk_errors, open_regular
from store.embedding_files import is_step_config
from store.hub_listing import MAX_FILES, HubFile, Snapshot, is_commit
from store.sources import CONFIG

_GIT_OID: Final = re.compile(r"[0-9a-f]{40}", re.ASCII)
_MAX_REF_BYTES: Final = 128


class HubCache:
    """One cache directory; it need not be there."""

    title: Final = "the Hugging Face cache"

    def __init__(self, root: Path) -> None:
        self._root = root

    def find(self, snapshot: Snapshot, file: HubFile) -> Path | None:
        """Return where the file lies, if one of its size lies there under its name; its bytes are not hashed yet."""
        folder = self._folder(snapshot.repo)
        places = [folder / "blobs" / name for name in (file.sha256, file.git_oid) if name]
        for place in (*places, folder / "snapshots" / snapshot.commit / file.path):
            path = self._inside(place)
            if path is not None and path.stat().st_size == file.size:
                return path
        return None

    def snapshot(self, repo: str, revision: str | None) -> Snapshot | None:
        """Return the files that the cache has of `repo`, None where it does not know that revision.

        The commit's time is not in a cache. What the library has not fetched is missing.
        """
        folder = self._folder(repo)
        commit = revision if revision is not None and is_commit(revision) else self._ref(folder, revision or "main")
        if commit is None:
            return None
        with disk_errors(folder):
            files = tuple(self._files(folder / "snapshots" / commit))
        return Snapshot(repo, commit, 0, files) if files else None

    def _folder(self, repo: str) -> Path:
        return self._root / "--".join(["models", *repo.split("/")])

    def _ref(self, folder: Path, revision: str) -> str | None:
        try:
            with open_regular(folder / "refs" / revision) as file:
                commit = file.read(_MAX_REF_BYTES).decode("ascii", "replace").strip()
        except OSError:
            return None
        return commit if is_commit(commit) else None

    def _files(self, directory: Path) -> Iterator[HubFile]:
        """Yield the files at the top of a snapshot, and the configs of an embedding's steps in folders there.

        They come under the digests that the names of their blobs promise.
        """
        if not directory.is_dir():
            return
        for number, entry in enumerate(os.scandir(directory)):
            step = f"{entry.name}/{CONFIG}"
            name = step if is_step_config(step) and entry.is_dir(follow_symlinks=False) else entry.name
            place = directory / name
            path = self._inside(place)
            if path is None or number >= MAX_FILES:
                continue
            blob = place.readlink().name if place.is_symlink() else ""
            oid = blob if _GIT_OID.fullmatch(blob) else None
            yield HubFile(name, path.stat().st_size, _digest(blob), oid)

    def _inside(self, place: Path) -> Path | None:
        """Return the regular file that `place` leads to, None where there is none or it lies out of the cache."""
        try:
            path = place.resolve(strict=True)
            regular = stat.S_ISREG(path.stat().st_mode)
        except (OSError, RuntimeError):  # not there, or links in a circle
            return None
        return path if regular and path.is_relative_to(self._root.resolve()) else None


def _digest(name: str) -> Digest | None:
    try:
        return parse_digest(name)
    except DigestInvalid:
        return None
