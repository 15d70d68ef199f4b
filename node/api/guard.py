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
# The one route whose body is a file: it goes to the disk as it comes.
FILE_ROUTE: Final = "/api/blobs/"
MAX_FILE_BYTES: Final = 1 << 40
# What a refused request may still send so that its sender, who reads only then, sees the answer.
_MAX_UNREAD_BYTES: Final = 1 << 30
# What a form of a web page can send without asking.
_FORM_TYPES: Final = frozenset({"application/x-www-form-urlencoded", "multipart/form-data", "text/plain"})
_WITH_BODY: Final = frozenset({"POST", "PUT", "PATCH", "DELETE"})
# What a browser says of a request that no other site caused.
_OWN_SITE: Final = frozenset({"none", "same-origin"})

Refuse = Callable[[Scope, ApiRefused], ASGIApp]


def loopback_hosts(port: int) -> frozenset[str]:
    """Return the Host headers under which a loopback API at `port` may be addressed."""
    return frozenset({f"127.0.0.1:{port}", f"localhost:{port}", f"[::1]:{port}"})


class Guard:
    """Lets through what may pass and answers the rest itself.

    The body arrives whole, in one message; that of `FILE_ROUTE` as it comes.
    """

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
        incoming = _Incoming(receive)
        try:
            headers = _headers(scope)
            self._check_sender(headers)
            # The registry reads no body: what is sent to it with one is refused by its method.
            if scope["method"] in _WITH_BODY and not is_registry_path(str(scope["path"])):
                receive = await self._body(scope, headers, incoming)
        except ApiRefused as refusal:
            await self._refuse(scope, refusal)(scope, receive, send)
            if isinstance(refusal, BodyTooLarge):
                await incoming.throw_away()
            return
        await self._app(scope, receive, send)

    async def _body(self, scope: Scope, headers: dict[str, str], receive: Receive) -> Receive:
        if str(scope["path"]).startswith(FILE_ROUTE):
            _check_length(headers, MAX_FILE_BYTES)
            if _media_type(headers) in _FORM_TYPES:
                raise ContentTypeRefused(headers["content-type"], "application/octet-stream")
            return receive
        _check_length(headers, MAX_BODY_BYTES)
        return await _whole_body(headers, receive)

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


def _media_type(headers: dict[str, str]) -> str:
    return headers.get("content-type", "").partition(";")[0].strip().lower()


def _check_length(headers: dict[str, str], max_bytes: int) -> None:
    length = headers.get("content-length", "0")
    if not (length.isascii() and length.isdigit()):
        raise BodyInvalid("content-length is not a number")
    if int(length) > max_bytes:
        raise BodyTooLarge(max_bytes)


class _Incoming:
    """A request as it comes in, which knows whether its end was read."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._ended = False

    async def __call__(self) -> Message:
        message = await self._receive()
        self._ended = message["type"] == "http.disconnect" or not message.get("more_body", False)
        return message

    async def throw_away(self) -> None:
        """Read on to the end, up to a bound, and keep nothing: a client that is still sending sees no answer before."""
        unread = 0
        while not self._ended and unread < _MAX_UNREAD_BYTES:
            unread += len((await self()).get("body", b""))


async def _whole_body(headers: dict[str, str], receive: Receive) -> Receive:
    body = await _read(receive)
    if body and _media_type(headers) != "application/json":
        raise ContentTypeRefused(headers.get("content-type", ""))
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
