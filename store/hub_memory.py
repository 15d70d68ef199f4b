"""What the hub once listed of a commit, kept so that a commit is asked for once: a commit never changes.

<store>/cache/hub/<64 hex>.json    the digest of `owner/name@commit`; may be deleted at any time
"""

from pathlib import Path
from typing import Final

from protocol.canonical_json import Json, decode_json, encode_json
from protocol.digest import Digest, digest_of, parse_digest
from protocol.errors import DigestInvalid, JsonInvalid
from store.disk import make_directories, open_regular, replace_file
from store.errors import DiskFailed, DiskFull
from store.hub_listing import MAX_FILE_BYTES, MAX_LISTING_BYTES, HubFile, Snapshot, is_commit
from store.layout import Layout

VERSION: Final = 1


class HubMemory:
    """The commits that were fetched whole, with the SHA-256 of every file that was taken."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._directory = layout.root / "cache" / "hub"

    def recall(self, repo: str, revision: str | None) -> Snapshot | None:
        """Return what is known of a whole commit id; None for a branch or tag, which may have moved."""
        if revision is None or not is_commit(revision):
            return None
        try:
            with open_regular(self._path(repo, revision)) as file:
                data = file.read(MAX_LISTING_BYTES + 1)
            return decode_snapshot(repo, revision, data)
        except (OSError, JsonInvalid, DigestInvalid, ValueError):
            return None  # not there, or not readable any more: the hub is asked again

    def remember(self, snapshot: Snapshot) -> None:
        """Keep what is known; a disk that has no room for it is no reason to fail."""
        path = self._path(snapshot.repo, snapshot.commit)
        try:
            make_directories(self._directory)
            replace_file(self._layout.temporary, path, _encode(snapshot))
        except (OSError, DiskFull, DiskFailed):
            return

    def _path(self, repo: str, commit: str) -> Path:
        return self._directory / f"{digest_of(f'{repo}@{commit}'.encode())}.json"


def _encode(snapshot: Snapshot) -> bytes:
    files: list[Json] = [[file.path, file.size, file.sha256, file.git_oid] for file in snapshot.files]
    return encode_json(
        {
            "version": VERSION,
            "repo": snapshot.repo,
            "commit": snapshot.commit,
            "time_s": snapshot.commit_time_s,
            "files": files,
        }
    )


def decode_snapshot(repo: str, commit: str, data: bytes) -> Snapshot:
    """Return what was remembered of `repo` at `commit`.

    Raises:
        JsonInvalid, DigestInvalid, ValueError: it cannot be read, or is about something else.
    """
    document = decode_json(data, MAX_LISTING_BYTES, "remembered commit")
    if not isinstance(document, dict) or document.get("version") != VERSION:
        raise ValueError("another version")
    time_s, files = document.get("time_s"), document.get("files")
    if (document.get("repo"), document.get("commit")) != (repo, commit):
        raise ValueError("another commit")
    if type(time_s) is not int or time_s < 0 or not isinstance(files, list):
        raise ValueError("no time or files")
    return Snapshot(repo, commit, time_s, tuple(_file(row) for row in files))


def _file(row: object) -> HubFile:
    if not isinstance(row, list) or len(row) != 4:
        raise ValueError("no file")
    path, size, sha256, git_oid = row
    if not isinstance(path, str) or type(size) is not int or not 0 <= size <= MAX_FILE_BYTES:
        raise ValueError("no file")
    if not (sha256 is None or isinstance(sha256, str)) or not (git_oid is None or isinstance(git_oid, str)):
        raise ValueError("no digest")
    digest: Digest | None = parse_digest(sha256) if sha256 is not None else None
    return HubFile(path, size, digest, git_oid)
