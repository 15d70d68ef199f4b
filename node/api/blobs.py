"""`/api/blobs/DIGEST` of the native API: files for `create`, sent piece by piece and kept only if they hash to it."""

from collections.abc import AsyncIterator
from typing import Final

import trio
from fastapi import APIRouter, Request
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from node.api.errors import BodyInvalid, BodyTooLarge
from node.api.guard import FILE_ROUTE, MAX_FILE_BYTES
from node.api.own_programs import IsOwn, is_own_program, require_own
from node.threads import Threads
from protocol.digest import Digest, format_oci_digest, parse_digest
from protocol.errors import DigestInvalid
from store.blobs import Blobs
from store.errors import LayerCorrupt

# Large enough that the turn to a thread costs nothing beside the writing.
BLOCK_BYTES: Final = 4 << 20


class BlobRoutes:
    """The two routes, over the store's blobs; for this account's own programs only."""

    def __init__(self, blobs: Blobs, threads: Threads, is_own: IsOwn = is_own_program) -> None:
        self._blobs = blobs
        self._threads = threads
        self._is_own = is_own

    def router(self) -> APIRouter:
        """Return the routes for mounting."""
        router = APIRouter()
        router.add_api_route(f"{FILE_ROUTE}{{digest}}", self.has, methods=["HEAD"], response_model=None)
        router.add_api_route(f"{FILE_ROUTE}{{digest}}", self.put, methods=["POST"], response_model=None)
        return router

    async def has(self, request: Request, digest: str) -> Response:
        """Say whether a blob is here."""
        await require_own(request, self._is_own)
        there = await self._threads.store(self._blobs.has, _digest(digest))
        return Response(status_code=200 if there else 404)

    async def put(self, request: Request, digest: str) -> Response:
        """Keep the body if its SHA-256 is the one in the path: 201 where it is new, 200 where it was here already."""
        await require_own(request, self._is_own)
        expected = _digest(digest)
        if await self._threads.store(self._blobs.has, expected):
            # Read all the same: a client that is still sending would not see the answer.
            async for _ in _blocks(request):
                continue
            return Response(status_code=200)
        await self._take(request, expected)
        return Response(status_code=201)

    async def _take(self, request: Request, expected: Digest) -> None:
        length = int(request.headers.get("content-length", "0"))
        writer = await self._threads.store(self._blobs.writer, length)
        try:
            async for block in _blocks(request):
                await self._threads.store(writer.write, block)
            await self._threads.store(writer.commit, expected)
        except LayerCorrupt:
            told = f"digest mismatch: expected {format_oci_digest(expected)}, got {format_oci_digest(writer.digest)}"
            raise BodyInvalid(told, "digest") from None
        finally:
            with trio.CancelScope(shield=True):  # what was not committed goes, whoever left
                await self._threads.store(writer.__exit__, None, None, None)


def _digest(text: str) -> Digest:
    try:
        return parse_digest(text.replace("sha256-", "sha256:", 1))
    except DigestInvalid:
        raise BodyInvalid(f"invalid digest format: {text[:80]!r}", "digest") from None


async def _blocks(request: Request) -> AsyncIterator[bytes]:
    """Yield the body in blocks of 4 MiB, the last one smaller.

    Raises:
        BodyTooLarge: it is larger than any file of a model.
        BodyInvalid: the client left before the end.
    """
    pieces: list[bytes] = []
    held = total = 0
    try:
        async for piece in request.stream():
            pieces.append(piece)
            held += len(piece)
            total += len(piece)
            if total > MAX_FILE_BYTES:
                raise BodyTooLarge(MAX_FILE_BYTES)
            if held >= BLOCK_BYTES:
                yield b"".join(pieces)
                pieces.clear()
                held = 0
    except ClientDisconnect:
        raise BodyInvalid("the client left before its request was complete") from None
    if held:
        yield b"".join(pieces)
