"""The file behind a name: every version that it stood for, the last one being what it is now (specs/0022)."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from pathlib import Path
from typing import Final

from protocol.canonical_json import Json, decode_json, encode_json
from protocol.digest import Digest, format_oci_digest, parse_digest
from protocol.errors import DigestInvalid, JsonInvalid, ModelNameInvalid
from protocol.manifest import MANIFEST_MEDIA_TYPE
from protocol.model_name import ModelName, format_tag, parse_model_name
from protocol.text import clean_text
from store.errors import RefCorrupt

VERSION: Final = 2
SUFFIX: Final = ".json"
MAX_REF_BYTES: Final = 256 << 10
MAX_VERSIONS: Final = 256
MAX_SOURCE_CHARS: Final = 120
MAX_NUMBER: Final = 2**31
MAX_TIME_S: Final = 2**33
_KEYS: Final = frozenset({"number", "digest", "time", "event", "source", "pinned"})


class RefEvent(StrEnum):
    """How a name came to stand for a version."""

    CREATE = "create"
    PULL = "pull"
    IMPORT = "import"
    COPY = "copy"
    TAG = "tag"
    ROLLBACK = "rollback"


@dataclass(frozen=True)
class Version:
    """One manifest that a name stood for, since when (seconds since the epoch), and how it came to that.

    `number` counts from 1 and is never used twice for one name. `source` is where it came from, "" for this device.
    A pinned version is not forgotten unless somebody says so.
    """

    number: int
    digest: Digest
    time_s: int
    event: RefEvent
    source: str = ""
    pinned: bool = False


def clean_source(text: str) -> str:
    """Return `text` as the source of a version: one line of at most 120 characters, none of them a control."""
    return clean_text(text, MAX_SOURCE_CHARS).strip()


def encode_ref(versions: Iterable[Version]) -> bytes:
    """Return the file of a name with these versions, the oldest first."""
    history: list[Json] = [
        {
            "number": version.number,
            "digest": format_oci_digest(version.digest),
            "time": version.time_s,
            "event": version.event.value,
            "source": version.source,
            "pinned": version.pinned,
        }
        for version in versions
    ]
    return encode_json({"version": VERSION, "mediaType": MANIFEST_MEDIA_TYPE, "history": history})


def parse_ref(path: Path, data: bytes) -> tuple[Version, ...]:
    """Return the versions in the ref file `path` with these bytes, the oldest first; there is at least one.

    Raises:
        RefCorrupt: it is none, over 256 KiB, of another version, or its numbers do not ascend.
    """
    try:
        document = decode_json(data, MAX_REF_BYTES, "ref")
        if not isinstance(document, dict) or document.keys() != {"version", "mediaType", "history"}:
            raise RefCorrupt(path, "not the keys of a ref")
        if type(document["version"]) is not int or document["version"] != VERSION:
            raise RefCorrupt(path, f"version {str(document['version'])[:20]}, {VERSION} is known")
        if document["mediaType"] != MANIFEST_MEDIA_TYPE:
            raise RefCorrupt(path, "mediaType: not that of a manifest")
        return _parse_history(path, document["history"])
    except (JsonInvalid, DigestInvalid) as error:
        raise RefCorrupt(path, str(error)) from None


def _parse_history(path: Path, history: object) -> tuple[Version, ...]:
    if not isinstance(history, list) or not 1 <= len(history) <= MAX_VERSIONS:
        raise RefCorrupt(path, f"history: no list of 1 to {MAX_VERSIONS} versions")
    versions = tuple(_parse_version(path, index, item) for index, item in enumerate(history))
    for index, (before, after) in enumerate(pairwise(versions), 1):
        if after.number <= before.number:
            raise RefCorrupt(path, f"history[{index}].number: {after.number} after {before.number}")
    return versions


def _parse_version(path: Path, index: int, item: object) -> Version:
    where = f"history[{index}]"
    if not isinstance(item, dict) or item.keys() != _KEYS:
        raise RefCorrupt(path, f"{where}: not the keys of a version")
    number, time_s, source, pinned = item["number"], item["time"], item["source"], item["pinned"]
    if type(number) is not int or not 1 <= number <= MAX_NUMBER:
        raise RefCorrupt(path, f"{where}.number: not from 1 to {MAX_NUMBER}")
    if type(time_s) is not int or not 0 <= time_s <= MAX_TIME_S:
        raise RefCorrupt(path, f"{where}.time: not from 0 to {MAX_TIME_S}")
    if item["event"] not in list(RefEvent):
        raise RefCorrupt(path, f"{where}.event: {str(item['event'])[:20]!r} is unknown")
    if not isinstance(source, str) or clean_source(source) != source:
        raise RefCorrupt(path, f"{where}.source: no clean line of at most {MAX_SOURCE_CHARS} characters")
    if type(pinned) is not bool:
        raise RefCorrupt(path, f"{where}.pinned: neither true nor false")
    return Version(number, parse_digest(str(item["digest"])), time_s, RefEvent(item["event"]), source, pinned)


def read_ref(path: Path) -> tuple[Version, ...] | None:
    """Return the versions of the name whose file is `path`; None without such a file.

    Raises:
        RefCorrupt: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_REF_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RefCorrupt(path, error.strerror or "cannot be read") from error
    return parse_ref(path, data)


def ref_path(manifests: Path, name: ModelName) -> Path:
    """Return the file of `name` below the directory of refs."""
    return manifests / name.host / name.namespace / name.name / f"{format_tag(name)}{SUFFIX}"


def ref_paths(manifests: Path) -> Iterator[tuple[ModelName, Path]]:
    """Yield every name in order with its file; files in another spelling were not put there by this program.

    One folder is read at a time, so that the first name of a thousand is there at once.
    """
    for host in _folders(manifests):
        for namespace in _folders(host.path):
            for folder in _folders(namespace.path):
                prefix = f"{host.name}/{namespace.name}/{folder.name}:"
                found = (parse_ref_name(prefix, file) for file in _names(folder.path))
                for name, file in sorted(each for each in found if each is not None):
                    yield name, Path(folder.path, file)


def parse_ref_name(prefix: str, file: str) -> tuple[ModelName, str] | None:
    """Return the name that `prefix` (`host/namespace/name:`) and a file's name spell, if that is how it is spelt."""
    try:
        name = parse_model_name(prefix + file.removesuffix(SUFFIX))
    except ModelNameInvalid:
        return None
    spelt = f"{name.host}/{name.namespace}/{name.name}:{format_tag(name)}{SUFFIX}"
    return (name, file) if spelt == prefix + file else None


def _folders(directory: Path | str) -> "list[os.DirEntry[str]]":
    try:
        with os.scandir(directory) as found:
            return sorted((entry for entry in found if entry.is_dir()), key=lambda entry: entry.name)
    except FileNotFoundError:  # removed meanwhile
        return []


def _names(directory: Path | str) -> list[str]:
    try:
        with os.scandir(directory) as found:
            return [entry.name for entry in found if entry.name.endswith(SUFFIX)]
    except FileNotFoundError:  # removed meanwhile
        return []
