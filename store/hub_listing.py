"""What a model hub lists of a repository, and which of it is fetched: a stranger's names, sizes and digests."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from urllib.parse import quote

from protocol.canonical_json import decode_json
from protocol.digest import Digest, parse_digest
from protocol.errors import DigestInvalid, JsonInvalid, LayerPathInvalid
from protocol.layer_path import check_layer_paths
from store.errors import HubAnswerInvalid, RepositoryNameInvalid
from store.fetched import Wanted
from store.lora import CONFIG as ADAPTER_CONFIG
from store.lora import WEIGHTS as ADAPTER_WEIGHTS
from store.sources import CONFIG, INDEX, MAX_CONFIG_BYTES, MAX_INDEX_BYTES, TOKENIZER_FILES, wanted_of_repository

PREFIX: Final = "hf:"
MAX_LISTING_BYTES: Final = 32 << 20
MAX_FILES: Final = 20_000
MAX_TAKEN_FILES: Final = 1_000
MAX_FILE_BYTES: Final = 1 << 43  # 8 TiB
MAX_TEXT_FILE_BYTES: Final = 256 << 20
MAX_REVISION_CHARS: Final = 200

_OWNER: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9])?", re.ASCII)
_REVISION: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/+-]*", re.ASCII)
_COMMIT: Final = re.compile(r"[0-9a-f]{40}", re.ASCII)


_SETS: Final[Mapping[Wanted, frozenset[str]]] = {
    Wanted.TOKENIZER: TOKENIZER_FILES,
    Wanted.ADAPTER: frozenset({ADAPTER_CONFIG, ADAPTER_WEIGHTS}),
}


@dataclass(frozen=True)
class RepositoryName:
    """`owner/name`, case as written, and the revision that was asked for: a branch, tag or commit, or None."""

    repo: str
    revision: str | None

    def __str__(self) -> str:
        return f"{PREFIX}{self.repo}" + (f"@{self.revision}" if self.revision else "")


@dataclass(frozen=True)
class HubFile:
    """A file as the hub lists it: its size, the SHA-256 of a large file, the git object id of a small one."""

    path: str
    size: int
    sha256: Digest | None
    git_oid: str | None = None


@dataclass(frozen=True)
class Snapshot:
    """A repository at one commit (40 hex), whose files never change any more; `commit_time_s` 0 is not known."""

    repo: str
    commit: str
    commit_time_s: int
    files: tuple[HubFile, ...]

    def file(self, path: str) -> HubFile | None:
        """Return the file of that name."""
        return next((file for file in self.files if file.path == path), None)


def parse_repository(text: str) -> RepositoryName:
    """Return the repository that `[hf:]owner/name[@revision]` names; case counts.

    Raises:
        RepositoryNameInvalid: anything else.
    """
    repo, at, revision = text.removeprefix(PREFIX).partition("@")
    parts = repo.split("/")
    if len(parts) != 2 or not all(_OWNER.fullmatch(part) and ".." not in part and "--" not in part for part in parts):
        raise RepositoryNameInvalid(text)
    if at and (len(revision) > MAX_REVISION_CHARS or not _REVISION.fullmatch(revision) or ".." in revision):
        raise RepositoryNameInvalid(text)
    return RepositoryName(repo, revision or None)


def api_path(repo: str, *parts: str) -> str:
    """Return the path of the hub's API about `repo`."""
    return "/".join(["/api/models", repo, *(quote(part, safe="") for part in parts)])


def is_commit(text: str | None) -> bool:
    """Return whether `text` is a whole commit id, which no hub can move."""
    return text is not None and _COMMIT.fullmatch(text) is not None


def git_oid(content: bytes) -> str:
    """Return the id that git gives to a file with this content: how a hub names the small files that it lists."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def parse_listing(repo: str, revision: str | None, data: bytes) -> tuple[str, tuple[HubFile, ...]]:
    """Return the commit and the files that the hub's answer lists; `revision` is what was asked for.

    Raises:
        HubAnswerInvalid: no listing, another commit than was asked for, or sizes, digests, names that cannot be.
    """
    document = _object(repo, data)
    commit = document.get("sha")
    if not isinstance(commit, str) or not is_commit(commit):
        raise HubAnswerInvalid(repo, "names no commit")
    if is_commit(revision) and commit != revision:
        raise HubAnswerInvalid(repo, f"is of commit {commit}, not of the one that was asked for")
    siblings = document.get("siblings")
    if not isinstance(siblings, list):
        raise HubAnswerInvalid(repo, "lists no files")
    if len(siblings) > MAX_FILES:
        raise HubAnswerInvalid(repo, f"lists {len(siblings)} files, at most {MAX_FILES} are allowed")
    return commit, tuple(_file(repo, sibling) for sibling in siblings)


def parse_commit_time(repo: str, commit: str, data: bytes) -> int:
    """Return when `commit` was made, in seconds since 1970, from the hub's list of commits; 0 where it is not in it.

    Raises:
        HubAnswerInvalid: no list of commits, or a date that is none.
    """
    document = _decode(repo, data)
    if not isinstance(document, list):
        raise HubAnswerInvalid(repo, "is no list of commits")
    for entry in document:
        if isinstance(entry, dict) and entry.get("id") == commit:
            return _time_s(repo, entry.get("date"))
    return 0


def choose(snapshot: Snapshot, wanted: Wanted = Wanted.MODEL) -> tuple[HubFile, ...]:
    """Return the files that are wanted: at the top of the repository, and nothing that runs.

    Raises:
        FormatUnsupported: its weights are GGUF or pickled only.
        HubAnswerInvalid: more or larger files than a model has, or names that cannot stand beside each other.
    """
    names = _SETS.get(wanted) or frozenset(wanted_of_repository(file.path for file in snapshot.files))
    return _checked(snapshot, [file for file in snapshot.files if file.path in names])


def with_index(snapshot: Snapshot, chosen: tuple[HubFile, ...], index: bytes) -> tuple[HubFile, ...]:
    """Return `chosen` with the weight files that the weight index names, and no others.

    Raises:
        HubAnswerInvalid: the index is none, or names what the repository does not have.
    """
    document = _decode(snapshot.repo, index, MAX_INDEX_BYTES)
    shards = document.get("weight_map") if isinstance(document, dict) else None
    if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
        raise HubAnswerInvalid(snapshot.repo, f"has a {INDEX} whose weight_map names no file for each tensor")
    named = frozenset(shards.values())
    weights = [file for file in snapshot.files if file.path in named and _is_weight(file.path)]
    if missing := sorted(named - {file.path for file in weights}):
        raise HubAnswerInvalid(snapshot.repo, f"has a {INDEX} that names {missing[0][:80]!a}, which is not there")
    return _checked(snapshot, [*(file for file in chosen if not _is_weight(file.path)), *weights])


def _is_weight(path: str) -> bool:
    return path.endswith(".safetensors") and "/" not in path


def _checked(snapshot: Snapshot, files: list[HubFile]) -> tuple[HubFile, ...]:
    _check(snapshot, files)
    return tuple(sorted(files, key=lambda file: file.path))


def _check(snapshot: Snapshot, files: list[HubFile]) -> None:
    if len(files) > MAX_TAKEN_FILES:
        raise HubAnswerInvalid(snapshot.repo, f"has {len(files)} files, a model has at most {MAX_TAKEN_FILES}")
    caps: Mapping[str, int] = {CONFIG: MAX_CONFIG_BYTES, INDEX: MAX_INDEX_BYTES}
    for file in files:
        cap = MAX_FILE_BYTES if file.path.endswith(".safetensors") else caps.get(file.path, MAX_TEXT_FILE_BYTES)
        if file.size > cap:
            raise HubAnswerInvalid(snapshot.repo, f"says that {file.path} has {file.size} bytes, at most {cap} can be")
    try:
        check_layer_paths(file.path for file in files)
    except LayerPathInvalid as error:
        raise HubAnswerInvalid(snapshot.repo, f"has a file whose name is refused: {error}") from None


def _file(repo: str, sibling: object) -> HubFile:
    if not isinstance(sibling, dict) or not isinstance(sibling.get("rfilename"), str):
        raise HubAnswerInvalid(repo, "lists a file without a name")
    path, lfs = sibling["rfilename"], sibling.get("lfs")
    shown = ascii(path[:80])
    if lfs is not None and not isinstance(lfs, dict):
        raise HubAnswerInvalid(repo, f"describes {shown} in a way that is not known")
    size = lfs.get("size") if lfs else sibling.get("size")
    if type(size) is not int or not 0 <= size <= MAX_FILE_BYTES:
        raise HubAnswerInvalid(repo, f"gives {shown} no size that a file can have")
    oid = sibling.get("blobId")
    object_id = oid if isinstance(oid, str) and is_commit(oid) and not lfs else None
    return HubFile(path, size, _sha256(repo, shown, lfs.get("sha256")) if lfs else None, object_id)


def _sha256(repo: str, shown: str, text: object) -> Digest:
    try:
        return parse_digest(text if isinstance(text, str) else "")
    except DigestInvalid:
        raise HubAnswerInvalid(repo, f"gives {shown} no SHA-256") from None


def _time_s(repo: str, text: object) -> int:
    try:
        moment = datetime.fromisoformat(text if isinstance(text, str) else "")
        seconds = int(moment.timestamp())
    except (ValueError, OverflowError):
        raise HubAnswerInvalid(repo, "dates a commit with what is no date") from None
    return max(0, seconds)


def _object(repo: str, data: bytes) -> dict[str, object]:
    document = _decode(repo, data)
    if not isinstance(document, dict):
        raise HubAnswerInvalid(repo, "is no JSON object")
    return document


def _decode(repo: str, data: bytes, max_bytes: int = MAX_LISTING_BYTES) -> object:
    try:
        return decode_json(data, max_bytes, "the hub's answer")
    except JsonInvalid as error:
        raise HubAnswerInvalid(repo, f"cannot be read: {error.reason[:200]}") from None
