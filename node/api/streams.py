"""Answers that are cancelled the moment the client leaves, whether they stream or come whole."""

from collections.abc import Awaitable, Callable
from typing import Any, Final

import trio
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from identity.errors import IdentityError
from node.api.json_text import compact
from node.errors import NodeError
from protocol.errors import ProtocolError
from store.errors import StoreError

SEND_CHUNK: Final = "tilenode.send_chunk"
"""The ASGI extension of a connection of HTTP/1.1 on which a stream sends its pieces itself, all but the first.

Its function takes a piece that is not empty, makes a chunk of it and sends that. Between the app and the connection lie
ten functions, each of which does something only as an answer begins or ends, and the words of an answer come by the
hundred in a second.
"""
NAMED_ERRORS = (NodeError, StoreError, ProtocolError, IdentityError)

Emit = Callable[[bytes], Awaitable[None]]
Produce = Callable[[Emit], Awaitable[None]]
WordError = Callable[[Exception], Response]


class Streamed(Response):
    """A stream that `produce` writes. An error before its first piece is an answer with a status of its own."""

    def __init__(self, produce: Produce, media_type: str, word_error: WordError, last_words: Callable[[bytes], bytes]):
        """Take the writer, the type, and how errors are said: as a whole answer, or as the stream's last piece."""
        super().__init__(media_type=media_type, headers={"cache-control": "no-store"})
        # The length is not known yet; the server cuts the stream into chunks.
        del self.headers["content-length"]
        self._produce = produce
        self._word_error = word_error
        self._last_words = last_words

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream."""
        await until_left(receive, lambda: self._send(scope, receive, send))

    async def _send(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False
        send_chunk: Emit | None = scope.get("extensions", {}).get(SEND_CHUNK)

        async def emit(piece: bytes) -> None:
            nonlocal started
            if started and send_chunk is not None and piece:
                await send_chunk(piece)
                return
            if not started:
                await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                started = True
            await send({"type": "http.response.body", "body": piece, "more_body": True})

        try:
            await self._produce(emit)
        except NAMED_ERRORS as error:
            told = self._word_error(error)
            if not started:
                await told(scope, receive, send)
                return
            await emit(self._last_words(bytes(told.body)))
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class Whole(Response):
    """A JSON answer that `compute` returns in one piece."""

    def __init__(self, compute: Callable[[], Awaitable[dict[str, Any]]], word_error: WordError) -> None:
        super().__init__()
        self._compute = compute
        self._word_error = word_error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer."""

        async def work() -> None:
            try:
                answer: Response = JSONResponse(await self._compute())
            except NAMED_ERRORS as error:
                answer = self._word_error(error)
            await answer(scope, receive, send)

        await until_left(receive, work)


def to_json(value: object) -> bytes:
    """Return `value` as compact JSON in UTF-8."""
    return compact(value).encode()


async def until_left(receive: Receive, work: Callable[[], Awaitable[None]]) -> None:
    """Do `work`; it is cancelled when the client leaves."""
    async with trio.open_nursery() as nursery:

        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                continue
            nursery.cancel_scope.cancel()

        nursery.start_soon(watch)
        await work()
        nursery.cancel_scope.cancel()
