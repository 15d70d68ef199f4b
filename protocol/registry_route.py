"""What a request to a registry asks for: its path, its byte range and its page, parsed (specs/0024).

Source: OCI distribution specification 1.1, and RFC 9110 §14 for ranges.
"""

import re
from dataclasses import dataclass
from typing import Final

from protocol.digest import Digest, parse_digest
from protocol.errors import DigestInvalid, OciNameInvalid, RangeUnsatisfiable, RouteInvalid
from protocol.oci_name import check_repository, check_tag

PREFIX: Final = "/v2"
MAX_PATH_CHARS: Final = 1024
MAX_RANGE_CHARS: Final = 128
MAX_PAGE: Final = 1000

_RANGE: Final = re.compile(r"bytes=[ \t]*([0-9]{0,19})-([0-9]{0,19})[ \t]*", re.ASCII)
_NUMBER: Final = re.compile(r"[0-9]{1,9}", re.ASCII)


@dataclass(frozen=True)
class Root:
    """`/v2/`: whether this is a registry."""


@dataclass(frozen=True)
class Catalog:
    """`/v2/_catalog`: the repositories."""


@dataclass(frozen=True)
class Tags:
    """`/v2/REPOSITORY/tags/list`."""

    repository: str


@dataclass(frozen=True)
class ManifestByTag:
    """`/v2/REPOSITORY/manifests/TAG`."""

    repository: str
    tag: str


@dataclass(frozen=True)
class ManifestByDigest:
    """`/v2/REPOSITORY/manifests/sha256:…`."""

    repository: str
    digest: Digest


@dataclass(frozen=True)
class Blob:
    """`/v2/REPOSITORY/blobs/sha256:…`."""

    repository: str
    digest: Digest


@dataclass(frozen=True)
class Referrers:
    """`/v2/REPOSITORY/referrers/sha256:…`: what points at this manifest."""

    repository: str
    digest: Digest


Route = Root | Catalog | Tags | ManifestByTag | ManifestByDigest | Blob | Referrers


@dataclass(frozen=True)
class ByteRange:
    """A run of a blob's bytes, never empty."""

    first: int
    length: int


@dataclass(frozen=True)
class Page:
    """At most `count` names that come after `last`."""

    count: int
    last: str


def is_registry_path(path: str) -> bool:
    """Return whether `path` is the registry's at all."""
    return path == PREFIX or path.startswith(f"{PREFIX}/")


def parse_route(path: str) -> Route:
    """Return what a request for `path`, already percent-decoded, asks for.

    Raises:
        RouteInvalid: no route of the pull side, or a repository, tag or digest that is none; its `code` says which.
    """
    if len(path) > MAX_PATH_CHARS:
        raise RouteInvalid("NAME_INVALID", f"a path of {len(path)} characters, at most {MAX_PATH_CHARS} are allowed")
    if path in (PREFIX, f"{PREFIX}/"):
        return Root()
    if path == f"{PREFIX}/_catalog":
        return Catalog()
    parts = path.removeprefix(f"{PREFIX}/").rsplit("/", 2)
    if not is_registry_path(path) or len(parts) < 3 or parts[1] not in ("tags", "manifests", "blobs", "referrers"):
        raise RouteInvalid("UNSUPPORTED", "no such route")
    repository, kind, reference = parts
    try:
        check_repository(repository)
    except OciNameInvalid as error:
        raise RouteInvalid("NAME_INVALID", str(error)) from None
    return _route(repository, kind, reference)


def _route(repository: str, kind: str, reference: str) -> Route:
    if kind == "tags":
        if reference != "list":
            raise RouteInvalid("UNSUPPORTED", "no such route")
        return Tags(repository)
    if kind == "manifests" and ":" not in reference:
        try:
            return ManifestByTag(repository, check_tag(reference))
        except OciNameInvalid as error:
            raise RouteInvalid("MANIFEST_UNKNOWN", str(error)) from None
    digest = _digest(reference)
    if kind == "manifests":
        return ManifestByDigest(repository, digest)
    return Blob(repository, digest) if kind == "blobs" else Referrers(repository, digest)


def _digest(reference: str) -> Digest:
    if not reference.startswith("sha256:"):
        raise RouteInvalid("DIGEST_INVALID", f"{reference[:80]!r}: expected sha256: and 64 hex characters")
    try:
        return parse_digest(reference)
    except DigestInvalid as error:
        raise RouteInvalid("DIGEST_INVALID", str(error)) from None


def parse_range(header: str | None, size: int) -> ByteRange | None:
    """Return the one range of a blob of `size` bytes that `header` asks for; None asks for the whole of it.

    Several ranges, another unit and what is no range are ignored, as RFC 9110 §14.2 allows.

    Raises:
        RangeUnsatisfiable: it begins behind the end.
    """
    found = _RANGE.fullmatch(header) if header is not None and len(header) <= MAX_RANGE_CHARS else None
    if found is None or not (found[1] or found[2]):
        return None
    if not found[1]:
        length = min(int(found[2]), size)
        if not length:
            raise RangeUnsatisfiable(size)
        return ByteRange(size - length, length)
    first, last = int(found[1]), int(found[2]) if found[2] else size - 1
    if found[2] and last < first:
        return None
    if first >= size:
        raise RangeUnsatisfiable(size)
    return ByteRange(first, min(last, size - 1) - first + 1)


def parse_page(count: str | None, last: str | None) -> Page:
    """Return the page that the parameters `n` and `last` ask for, of at most 1,000 names.

    Raises:
        RouteInvalid: `n` is no number, or `last` is longer than any name.
    """
    if count is not None and not _NUMBER.fullmatch(count):
        raise RouteInvalid("PAGINATION_NUMBER_INVALID", f"n is {count[:20]!r}: expected a number")
    if last is not None and len(last) > MAX_PATH_CHARS:
        raise RouteInvalid("PAGINATION_NUMBER_INVALID", f"last is of {len(last)} characters")
    return Page(MAX_PAGE if count is None else min(int(count), MAX_PAGE), last or "")
