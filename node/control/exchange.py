"""What surrounds the app at every exchange of HTTP: a body that stops coming ends, and so does every answer."""

from typing import Final

import trio
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# So long the next piece of a body may take. A client that sends no more would hold its connection for ever.
BODY_PATIENCE_S: Final = 60.0
# A body of at most so many bytes is read to its end, for at most so long, also where nobody wants it.
SMALL_BODY_BYTES: Final = 65_536
SMALL_BODY_S: Final = 2.0


class Exchange:
    """Wraps an app. Pure ASGI: a client that sends no more of its body counts as one that left.

    An answer ends only after a small body was read: where one is left over the server closes the connection, on which
    the client may have sent its next request by then.

    The end of every answer is sent even while the work that led to it is being cancelled. The server tells the app
    that the client has left before it has put the connection away itself; an app that stops at that word would take
    the server along: connections stayed open, and were never counted as idle.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        arriving = True

        async def receiving() -> Message:
            nonlocal arriving
            if not arriving:
                return await receive()
            message: Message = {"type": "http.disconnect"}
            with trio.move_on_after(BODY_PATIENCE_S):
                message = await receive()
            arriving = bool(message.get("more_body"))
            return message

        async def finishing(message: Message) -> None:
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                with trio.CancelScope(shield=True):
                    if arriving and _has_small_body(scope):
                        with trio.move_on_after(SMALL_BODY_S):
                            while arriving:
                                await receiving()
                    await send(message)
            else:
                await send(message)

        await self._app(scope, receiving, finishing)


def _has_small_body(scope: Scope) -> bool:
    length: bytes = next((value for name, value in scope["headers"] if name == b"content-length"), b"")
    return length.isdigit() and int(length) <= SMALL_BODY_BYTES
