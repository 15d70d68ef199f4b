"""One blob on its way to a registry: not sent where it is there, in pieces where it is large, on after a lost line."""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from typing import Final

from protocol.digest import Digest, format_oci_digest, short_digest
from protocol.errors import RegistryAnswerInvalid
from protocol.registry import follow, parse_uploaded, with_query
from store.blobs import Blobs
from store.disk import disk_errors
from store.registry.client import RegistryClient
from store.registry.errors import AnswerMismatch, RegistryRefused, RegistryUnknown, RegistryUnreachable
from store.registry.session import Answer, Body

PIECE_BYTES: Final = 64 << 20
MAX_PIECE_BYTES: Final = 1 << 30
READ_BYTES: Final = 1 << 20
MAX_BEGUN: Final = 5
_BYTES: Final = "application/octet-stream"

Progress = Callable[[int], None]


class Way(StrEnum):
    """How a blob came to be in the repository."""

    THERE = "there"
    MOUNTED = "mounted"
    SENT = "sent"


class Content:
    """The bytes of a blob, from memory or from the store, any part of them as often as needed."""

    def __init__(self, digest: Digest, size: int, source: bytes | Blobs) -> None:
        """Take the bytes themselves, or the store in which they lie."""
        self.digest = digest
        self.size = size
        self._source = source

    def part(self, start: int, end: int, progress: Progress = lambda _: None) -> Iterator[bytes]:
        """Yield the bytes from `start` to `end` (exclusive); `progress` is told the offset that was reached.

        Raises:
            BlobMissing: it is not in the store.
        """
        if isinstance(self._source, bytes):
            yield self._source[start:end]
            progress(end)
            return
        with self._source.open(self.digest) as file, disk_errors(self._source.layout.blob_path(self.digest)):
            file.seek(start)
            while start < end and (block := file.read(min(READ_BYTES, end - start))):
                yield block
                start += len(block)
                progress(start)


def push_blob(
    client: RegistryClient, content: Content, *, mount_from: str = "", progress: Progress = lambda _: None
) -> Way:
    """See that a blob is in the client's repository, and return how it came there.

    `mount_from` names a repository of the same registry that may have it. `progress` is told how many bytes the
    registry has been sent, which goes back when a part has to be sent again.

    Raises:
        RegistryError, RegistryAnswerInvalid: the registry cannot be reached, or does not take it.
        BlobMissing, DiskFailed: it cannot be read here.
    """
    if client.blob_size(content.digest) is not None:
        return Way.THERE
    return _Upload(client, content, progress).run(mount_from)


class _Upload:
    def __init__(self, client: RegistryClient, content: Content, progress: Progress) -> None:
        self._client = client
        self._content = content
        self._progress = progress
        self._what = f"blob {short_digest(content.digest)}"
        self._location = ""
        self._piece = PIECE_BYTES

    def run(self, mount_from: str) -> Way:
        if mount_from:
            mount = {"mount": format_oci_digest(self._content.digest), "from": mount_from}
            if self._begin(mount, mount_from):
                return Way.MOUNTED
        for begun in range(1, MAX_BEGUN + 1):
            try:
                if not self._location:
                    self._begin({})
                self._send()
                return Way.SENT
            except RegistryUnreachable:
                if begun == MAX_BEGUN or self._is_there():
                    raise
            except (RegistryUnknown, RegistryRefused) as error:
                # An upload that the registry has forgotten begins anew.
                if begun == MAX_BEGUN or not (isinstance(error, RegistryUnknown) or error.status == 404):
                    raise
            self._location = ""
        raise RegistryUnreachable(self._client.reference.host, "the upload was lost again and again")

    def _begin(self, query: dict[str, str], mounted_from: str = "") -> bool:
        """Begin an upload; return whether there is nothing to send because the blob was mounted."""
        scopes = self._client.push_scope + ((f"repository:{mounted_from}:pull",) if mounted_from else ())
        with self._request("POST", with_query(self._client.session.url("blobs/uploads/"), **query), {201, 202}, scopes):
            pass
        return not self._location

    def _send(self) -> None:
        """Send what the registry does not have yet, then close the upload."""
        size, offset = self._content.size, 0
        if size <= self._piece:
            self._finish(lambda: self._content.part(0, size, self._progress), size)
            return
        broken = 0
        while offset < size:
            end = min(offset + self._piece, size)
            try:
                offset = self._patch(offset, end)
                broken = 0
            except (RegistryUnreachable, RegistryRefused) as error:
                broken += 1
                if broken == self._client.session.pace.attempts or _is_final(error):
                    raise
                self._client.caller.pause(self._client.session.pace.first_pause_s * 2 ** (broken - 1))
                offset = self._reached()
                self._progress(offset)
        self._finish(b"", 0)

    def _patch(self, start: int, end: int) -> int:
        """Send one piece; return how much the registry has then: more than before, or it would be asked for ever.

        Raises:
            AnswerMismatch: it says that it has none of the piece, or more than it was sent.
        """
        headers = {"Content-Type": _BYTES, "Content-Range": f"{start}-{end - 1}"}
        with self._request(
            "PATCH",
            self._location,
            {202, 204},
            headers=headers,
            body=lambda: self._content.part(start, end, self._progress),
            length=end - start,
        ) as answer:
            said = answer.headers.get("range", "")
        reached = parse_uploaded(said) if said else end
        if not start < reached <= end:
            raise AnswerMismatch(self._client.reference.host, self._what, f"{reached} bytes of {end} that were sent")
        return reached

    def _reached(self) -> int:
        """Return how much of the upload the registry has."""
        with self._request("GET", self._location, {204, 200, 202}) as answer:
            return parse_uploaded(answer.headers.get("range", "0-0"))

    def _finish(self, body: Body, length: int) -> None:
        """Close the upload, with its last bytes, under its digest."""
        url = with_query(self._location, digest=format_oci_digest(self._content.digest))
        with self._request(
            "PUT", url, {201, 204}, headers={"Content-Type": _BYTES}, body=body, length=length, is_commit=True
        ):
            pass
        self._progress(self._content.size)

    def _is_there(self) -> bool:
        return self._client.blob_size(self._content.digest) is not None

    @contextmanager
    def _request(
        self,
        method: str,
        url: str,
        expected: Collection[int],
        scopes: tuple[str, ...] = (),
        *,
        headers: Mapping[str, str] | None = None,
        body: Body = b"",
        length: int | None = None,
        is_commit: bool = False,
    ) -> Iterator[Answer]:
        session = self._client.session
        with session.request(
            method,
            url,
            self._what,
            scopes=scopes or self._client.push_scope,
            expected=expected,
            headers=headers,
            body=body,
            length=length,
            answer_s=session.pace.commit_s if is_commit else None,
            repeatable=method in ("GET", "POST"),
        ) as answer:
            self._note(answer)
            yield answer

    def _note(self, answer: Answer) -> None:
        """Note where the upload goes on: each answer may give it another location."""
        if answer.status == 201:
            self._location = ""
            return
        if location := answer.headers.get("location", ""):
            self._location = follow(answer.url, location, "Location")
        if not self._location:
            raise RegistryAnswerInvalid("Location", "missing from an upload")
        least = answer.headers.get("oci-chunk-min-length", "")
        if least.isascii() and least.isdigit() and len(least) < 11:
            self._piece = min(max(self._piece, int(least)), MAX_PIECE_BYTES)


def _is_final(error: RegistryUnreachable | RegistryRefused) -> bool:
    """Return whether sending again changes nothing: everything but a lost line and a range that does not fit."""
    return isinstance(error, RegistryRefused) and error.status != 416
