"""Who may speak to the API at all: exact Host, no foreign Origin, JSON bodies of bounded size. Pure ASGI.

A browser is a program on this machine that runs strangers' code: each rule here closes one of its ways in.
"""

from collections.abc import Callable, Collection
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from node.api.errors import (
    ApiRefused,
    BodyInvalid,
    BodyTooLarge,
    ContentTypeRefused,
    HostNotAllowed,
    OriginNotAllowed,
)
from protocol.registry_route import is_registry_path

MAX_BODY_BYTES: Final = 16 * 1024 * 1024
_WITH_BODY: Final = frozenset({"POST", "PUT", "PATCH", "DELETE"})
# What a browser says of a request that no other site caused.
_OWN_SITE: Final = frozenset({"none", "same-origin"})

Refuse = Callable[[Scope, ApiRefused], ASGIApp]


def loopback_hosts(port: int) -> frozenset[str]:
    """Return the Host headers under which a loopback API at `port` may be addressed."""
    return frozenset({f"127.0.0.1:{port}", f"localhost:{port}", f"[::1]:{port}"})


class Guard:
    """Lets through what may pass and answers the rest itself; the body arrives whole, in one message."""

    def __init__(self, app: ASGIApp, hosts: Callable[[], Collection[str]] | None, refuse: Refuse) -> None:
        """Take the app behind, the allowed Host headers (None: any, for a private socket), and who words refusals."""
        self._app = app
        self._hosts = hosts
        self._refuse = refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            headers = _headers(scope)
            self._check_sender(headers)
            # The registry reads no body: what is sent to it with one is refused by its method.
            if scope["method"] in _WITH_BODY and not is_registry_path(str(scope["path"])):
                receive = await _whole_body(headers, receive)
        except ApiRefused as refusal:
            await self._refuse(scope, refusal)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _check_sender(self, headers: dict[str, str]) -> None:
        host = headers.get("host", "")
        if self._hosts is not None and host not in self._hosts():
            raise HostNotAllowed(host)
        origin = headers.get("origin")
        if origin is not None or headers.get("sec-fetch-site", "none") not in _OWN_SITE:
            raise OriginNotAllowed(origin or "of another site")


def _headers(scope: Scope) -> dict[str, str]:
    headers: dict[str, str] = {}
    for name, value in scope["headers"]:
        key = name.decode("latin-1").lower()
        if key in headers and key in ("host", "origin", "content-type", "content-length"):
            raise BodyInvalid(f"header {key} given twice")
        headers[key] = value.decode("latin-1")
    return headers


async def _whole_body(headers: dict[str, str], receive: Receive) -> Receive:
    length = headers.get("content-length", "0")
    if not (length.isascii() and length.isdigit()):
        raise BodyInvalid("content-length is not a number")
    if int(length) > MAX_BODY_BYTES:
        raise BodyTooLarge(MAX_BODY_BYTES)
    body = await _read(receive)
    content_type = headers.get("content-type", "")
    if body and content_type.partition(";")[0].strip().lower() != "application/json":
        raise ContentTypeRefused(content_type)
    message: Message = {"type": "http.request", "body": body, "more_body": False}
    waiting = [message]

    async def replay() -> Message:
        return waiting.pop() if waiting else await receive()

    return replay


async def _read(receive: Receive) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise BodyInvalid("the client left before its request was complete")
        body += message.get("body", b"")
        if len(body) > MAX_BODY_BYTES:
            raise BodyTooLarge(MAX_BODY_BYTES)
        if not message.get("more_body", False):
            return bytes(body)
