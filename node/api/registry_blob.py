"""Sending blobs: verified as they leave, a MiB at a time, safe from `gc` meanwhile, ended when nobody listens."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import trio
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from node.api.errors import RegistryRefused
from node.api.registry_answers import VERSION_HEADER, answer_error, content_headers, is_known
from node.api.streams import until_left
from node.failures import first_cause, is_named
from node.peer.shelf import ServedBlob
from node.threads import Threads
from protocol.digest import Digest
from protocol.errors import ProtocolError
from protocol.registry_route import ByteRange, parse_range
from store.errors import BlobMissing, DiskFailed, DiskFull, StoreError
from store.leases import Lease
from store.models import ModelStore
from store.verified import VerifiedBlob, open_verified

MAX_DOWNLOADS: Final = 24
# Larger pieces of memory are given back to the system each time and cost four times the processor time.
PIECE_BYTES: Final = 1 << 20
# Read in one go: fewer changes between threads. Two such batches are in memory for each download.
BATCH_PIECES: Final = 3

_log = logging.getLogger("tilenode.registry")


@dataclass(frozen=True)
class Conditions:
    """The method, and the headers Range, If-Range and If-None-Match, of a request for a blob."""

    method: str
    range: str | None = None
    if_range: str | None = None
    if_none_match: str | None = None

    def wanted(self, digest: Digest, size: int) -> ByteRange | None:
        """Return the range that is asked for, None for the whole blob. Raises as `parse_range`."""
        if self.if_range is not None and not is_known(digest, self.if_range):
            return None
        return parse_range(self.range, size)


class Downloads:
    """The downloads that run; beyond `MAX_DOWNLOADS` at a time the next is asked to come again."""

    def __init__(self, store: ModelStore, threads: Threads) -> None:
        self._store: Final = store
        self._threads = threads
        self._running = 0

    @asynccontextmanager
    async def one(self, digest: Digest, found: ServedBlob) -> AsyncIterator[VerifiedBlob]:
        """Give a blob for reading; it stays in the store during the block.

        Raises:
            RegistryRefused: too many run already.
            BlobMissing, LayerCorrupt, ChunkMapInvalid: it is not here, or not as it should be.
        """
        if self._running >= MAX_DOWNLOADS:
            raise RegistryRefused(429, "TOOMANYREQUESTS", f"{MAX_DOWNLOADS} downloads run already")
        self._running += 1
        try:
            lease = await self._threads.store(self._lease, digest)  # before looking whether it is there
            try:
                yield await self._threads.store(open_verified, self._store.blobs, digest, found.size, found.chunk_map)
            finally:
                if lease is not None:
                    with trio.CancelScope(shield=True):
                        await self._threads.store(lease.release)
        finally:
            self._running -= 1

    def _lease(self, digest: Digest) -> Lease | None:
        try:
            return self._store.lease([digest])
        except (DiskFull, DiskFailed):
            return None  # a full disk is no reason not to read: at worst the blob goes, and the connection with it

    async def require(self, digest: Digest) -> None:
        """Accept a blob that is in the store. Raises BlobMissing."""
        if not await self._threads.store(self._store.blobs.has, digest):
            raise BlobMissing(digest)

    async def read(self, blob: VerifiedBlob, first: int, end: int) -> list[bytes]:
        """Return the next pieces of verified bytes from `first` on, about 3 MiB. Raises as `VerifiedBlob.run`."""
        return await self._threads.store(_read, blob, first, end)


def _read(blob: VerifiedBlob, first: int, end: int) -> list[bytes]:
    pieces: list[bytes] = []
    while first < end and len(pieces) < BATCH_PIECES:
        pieces.append(blob.run(first, end, PIECE_BYTES))
        first += len(pieces[-1])
    return pieces


class BlobAnswer(Response):
    """A blob, or a range of it. A failure before the first byte is an error answer, a later one a cut connection."""

    def __init__(self, downloads: Downloads, digest: Digest, found: ServedBlob | bytes, asked: Conditions) -> None:
        """`found` says where the blob is; a small one that is not in the store comes as its bytes."""
        super().__init__()
        self._downloads = downloads
        self._digest = digest
        self._found = found
        self._asked = asked
        self._begun = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the blob (ASGI)."""
        try:
            await until_left(receive, lambda: self._send(send))
        except BaseExceptionGroup as group:  # what the nursery around the sending made of an error
            if not is_named(group):
                raise
            await self._fail(first_cause(group), scope, receive, send)

    async def _fail(self, cause: BaseException, scope: Scope, receive: Receive, send: Send) -> None:
        level = logging.WARNING if isinstance(cause, StoreError | ProtocolError) else logging.DEBUG  # else: who left
        _log.log(level, "blob_not_served", extra={"blob": self._digest, "error": type(cause).__name__})
        # Once the length was announced, only a connection that ends too early can say that this is not all: the
        # server ends it when this returns with less than was announced.
        if not self._begun:
            await answer_error(cause)(scope, receive, send)

    async def _send(self, send: Send) -> None:
        size = len(self._found) if isinstance(self._found, bytes) else self._found.size
        if is_known(self._digest, self._asked.if_none_match):
            await self._head(send, 304, None, size)
            await self._end(send)
        elif self._asked.method == "HEAD":
            if not isinstance(self._found, bytes):
                await self._downloads.require(self._digest)
            await self._head(send, 200, None, size)
            await self._end(send)
        elif isinstance(self._found, bytes):
            await self._send_small(send, self._found)
        else:
            wanted = self._asked.wanted(self._digest, size)
            async with self._downloads.one(self._digest, self._found) as blob:
                await self._send_runs(send, blob, wanted)

    async def _send_small(self, send: Send, content: bytes) -> None:
        wanted = self._asked.wanted(self._digest, len(content))
        part = wanted or ByteRange(0, len(content))
        await self._head(send, 206 if wanted else 200, wanted, len(content))
        await self._end(send, content[part.first : part.first + part.length])

    async def _send_runs(self, send: Send, blob: VerifiedBlob, wanted: ByteRange | None) -> None:
        position, end = (wanted.first, wanted.first + wanted.length) if wanted else (0, blob.size)
        # The first pieces are read before anything is said: what is damaged at once is an error with a status.
        pieces = await self._downloads.read(blob, position, end)
        await self._head(send, 206 if wanted else 200, wanted, blob.size)
        while (position := position + sum(map(len, pieces))) < end:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_send_pieces, send, pieces)
                pieces = await self._downloads.read(blob, position, end)  # while the last ones are on their way
        await _send_pieces(send, pieces)
        await self._end(send)

    async def _head(self, send: Send, status: int, wanted: ByteRange | None, size: int) -> None:
        headers = {
            **VERSION_HEADER,
            **content_headers(self._digest),
            "accept-ranges": "bytes",
            "content-type": "application/octet-stream",
            "cache-control": "max-age=31536000, immutable, no-transform",
        }
        if status != 304:
            headers["content-length"] = str(wanted.length if wanted else size)
        if wanted:
            headers["content-range"] = f"bytes {wanted.first}-{wanted.first + wanted.length - 1}/{size}"
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": status, "headers": raw})
        self._begun = True

    async def _end(self, send: Send, body: bytes = b"") -> None:
        await send({"type": "http.response.body", "body": body, "more_body": False})


async def _send_pieces(send: Send, pieces: list[bytes]) -> None:
    for piece in pieces:
        await send({"type": "http.response.body", "body": piece, "more_body": True})
