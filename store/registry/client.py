"""What an OCI registry can be asked: manifests, blobs, referrers; every answer capped, and checked by its digest."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from protocol.digest import Digest, digest_of, format_oci_digest, parse_digest
from protocol.errors import DigestInvalid
from protocol.manifest import MANIFEST_MEDIA_TYPE, MAX_MANIFEST_BYTES
from protocol.referrer import INDEX_MEDIA_TYPE, MAX_INDEX_BYTES, Part, parse_index, referrers_tag
from protocol.registry import Reference, follow, parse_content_range, parse_next_link
from store.registry.credentials import Login
from store.registry.errors import AnswerMismatch, RegistryRefused, RegistryUnknown
from store.registry.network import Caller
from store.registry.session import Answer, Pace, Session

MAX_PAGES: Final = 16
# What registries say where they do not know the referrers API.
_NO_REFERRERS_API: Final = frozenset({400, 404, 405, 501})
_MANIFESTS: Final = f"{MANIFEST_MEDIA_TYPE}, {INDEX_MEDIA_TYPE}"


@dataclass(frozen=True)
class FetchedManifest:
    """A manifest or index as the registry gave it; `digest` is that of its bytes."""

    data: bytes
    digest: Digest
    media_type: str


class RegistryClient:
    """Asks one registry about one repository; for several threads at once. Closed at the end of its block."""

    def __init__(
        self,
        reference: Reference,
        *,
        login: Login | None = None,
        pace: Pace | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """Take what is asked about, the login kept for the host, and `check`, which raises when nobody waits any more.

        `check` is called in the thread that makes this client, several times a second while it waits.
        """
        self.reference = reference
        self.caller = Caller(reference.host, check)
        self.session = Session(reference, login, self.caller, pace or Pace())

    def __enter__(self) -> "RegistryClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.caller.leave()
        self.session.close()

    @property
    def pull_scope(self) -> tuple[str, ...]:
        """What a token must allow for reading."""
        return (f"repository:{self.reference.repository}:pull",)

    @property
    def push_scope(self) -> tuple[str, ...]:
        """What a token must allow for writing."""
        return (f"repository:{self.reference.repository}:pull,push",)

    def check_login(self) -> bool:
        """Return whether the registry asked for the login; when this returns, it does not refuse it.

        Raises:
            RegistryLoginRefused: it does not.
            RegistryUnknown, RegistryRefused: there is no registry at this address.
        """
        url = f"{self.reference.origin}/v2/"
        with self.session.request("GET", url, "anything", scopes=(), expected={200}):
            return self.session.is_known

    def manifest(self, key: str) -> FetchedManifest:
        """Return the manifest or index under a tag or a `sha256:…` digest; at most 4 MiB.

        Raises:
            RegistryUnknown: there is none.
            AnswerTooLarge: more than 4 MiB.
            AnswerMismatch: its bytes are not those of the digest that was asked for, or that the registry says.
            RegistryError, RegistryAnswerInvalid: as `Session.request`.
        """
        what = f"manifest {self.reference.repository}{'@' if key.startswith('sha256:') else ':'}{key}"
        with self.session.request(
            "GET",
            self.session.url(f"manifests/{key}"),
            what,
            scopes=self.pull_scope,
            expected={200},
            headers={"Accept": _MANIFESTS},
        ) as answer:
            data = answer.read(MAX_MANIFEST_BYTES, what)
        digest = digest_of(data)
        for promised in (key if key.startswith("sha256:") else "", answer.headers.get("docker-content-digest", "")):
            if promised.startswith("sha256:") and promised != format_oci_digest(digest):
                raise AnswerMismatch(answer.host, what, f"it hashes to {digest[:12]}")
        media_type = answer.headers.get("content-type", "").partition(";")[0].strip()
        return FetchedManifest(data, digest, media_type)

    def manifest_digest(self, key: str) -> Digest | None:
        """Return the digest that the registry says a tag has; None where there is no such tag, or it does not say."""
        with self.session.request(
            "HEAD",
            self.session.url(f"manifests/{key}"),
            f"manifest {self.reference.repository}:{key}",
            scopes=self.pull_scope,
            expected={200, 404},
            headers={"Accept": _MANIFESTS},
        ) as answer:
            said = answer.headers.get("docker-content-digest", "") if answer.status == 200 else ""
        try:
            return parse_digest(said)
        except DigestInvalid:
            return None

    def put_manifest(self, key: str, data: bytes, media_type: str = MANIFEST_MEDIA_TYPE) -> bool:
        """Store a manifest under a tag or digest; return whether the registry will list it as a referrer itself.

        Raises:
            RegistryRefused: the registry does not take it.
        """
        what = f"manifest {self.reference.repository}:{key}"
        with self.session.request(
            "PUT",
            self.session.url(f"manifests/{key}"),
            what,
            scopes=self.push_scope,
            expected={200, 201, 202},
            headers={"Content-Type": media_type},
            body=data,
            repeatable=True,
        ) as answer:
            return "oci-subject" in answer.headers

    def blob_size(self, digest: Digest) -> int | None:
        """Return the bytes of a blob in the repository; None where it is not there, -1 where they are not said."""
        with self.session.request(
            "HEAD",
            self.session.url(f"blobs/{format_oci_digest(digest)}"),
            f"blob {digest[:12]}",
            scopes=self.pull_scope,
            expected={200, 404},
        ) as answer:
            if answer.status == 404:
                return None
            return -1 if answer.length is None else answer.length

    def read_blob(self, digest: Digest, size: int) -> bytes:
        """Return a whole small blob, which is held in memory.

        Raises:
            RegistryUnknown: the registry does not have it.
            AnswerTooLarge, AnswerMismatch: it is not `size` bytes, or they are not those of `digest`.
        """
        what = f"blob {digest[:12]}"
        with self.blob(digest, 0, size) as (_, answer):
            content = answer.read(size, what)
        if len(content) != size or hashlib.sha256(content).hexdigest() != digest:
            raise AnswerMismatch(self.reference.host, what, f"{len(content)} bytes with another digest")
        return content

    @contextmanager
    def blob(self, digest: Digest, start: int, end: int, size: int | None = None) -> Iterator[tuple[int, Answer]]:
        """Give the blob's bytes from `start` to `end` (exclusive) of `size`, the whole where no `size` is given.

        With the answer stands the offset of its first byte: `start`, or 0 where the registry ignores ranges.

        Raises:
            RegistryUnknown: the registry does not have it.
            AnswerMismatch: another range, or another size.
        """
        what = f"blob {digest[:12]}"
        part = size is not None and (start, end) != (0, size)
        with self.session.request(
            "GET",
            self.session.url(f"blobs/{format_oci_digest(digest)}"),
            what,
            scopes=self.pull_scope,
            expected={200, 206} if part else {200},
            headers={"Range": f"bytes={start}-{end - 1}"} if part else {},
        ) as answer:
            begin, length = 0, end if size is None else size
            if answer.status == 206:
                begin, length = self._ranged(answer, what, start, end, size)
            if answer.length not in (None, length):
                raise AnswerMismatch(self.reference.host, what, f"{answer.length} bytes, not {length}")
            yield begin, answer

    def referrers(self, subject: Digest, artifact_type: str = "") -> list[Part]:
        """Return what refers to a manifest, from the referrers API, else from the tag that stands in for it.

        Raises:
            ArtifactInvalid: the list is no index, or not within the limits.
            RegistryError: as `Session.request`.
        """
        found = self._listed(subject)
        entries = self.tagged_referrers(subject) if found is None else found
        return [entry for entry in entries if artifact_type in ("", entry.artifact_type)]

    def tagged_referrers(self, subject: Digest) -> list[Part]:
        """Return what the referrers tag of a manifest lists; nothing where there is no such tag."""
        try:
            return list(parse_index(self.manifest(referrers_tag(subject)).data))
        except RegistryUnknown:
            return []

    def _listed(self, subject: Digest) -> list[Part] | None:
        """Return what the referrers API lists; None where the registry does not know it."""
        url: str | None = self.session.url(f"referrers/{format_oci_digest(subject)}")
        entries: list[Part] = []
        for _ in range(MAX_PAGES):
            if url is None:
                break
            try:
                page, url = self._page(url)
            except RegistryUnknown:
                return None
            except RegistryRefused as refusal:
                if refusal.status in _NO_REFERRERS_API:
                    return None
                raise
            entries += page
        return entries

    def _page(self, url: str) -> tuple[list[Part], str | None]:
        with self.session.request(
            "GET", url, "referrers", scopes=self.pull_scope, expected={200}, headers={"Accept": INDEX_MEDIA_TYPE}
        ) as answer:
            data = answer.read(MAX_INDEX_BYTES, "referrers")
            following = parse_next_link(answer.headers.get("link", ""))
        return list(parse_index(data)), follow(url, following, "Link") if following else None

    def _ranged(self, answer: Answer, what: str, start: int, end: int, size: int | None) -> tuple[int, int]:
        got = parse_content_range(answer.headers.get("content-range", ""))
        if (got.start, got.end) != (start, end) or got.total not in (None, size):
            reason = f"bytes {got.start} to {got.end} of {got.total}, not {start} to {end} of {size}"
            raise AnswerMismatch(self.reference.host, what, reason)
        return start, end - start
