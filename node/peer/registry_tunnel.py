"""A linked peer's registry as a server on this machine, so that any OCI client can read it (specs/0024).

The port is on loopback, where other users of the machine can reach it too: every request needs the login that was made
for it. Only reading passes, and only what a registry says comes back; the login stays on this side.
"""

import base64
import hmac
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Final

import h11
import trio
from starlette.types import Receive, Scope, Send

from identity.did import DeviceId
from node.api.errors import RegistryRefused
from node.api.registry_answers import answer_error
from node.api.streams import until_left
from node.errors import PeerNotLinked, PeerUnreachable, RemoteRefused, StreamClosed
from node.failures import first_cause, is_named
from node.net.streams import MAX_REFUSAL_BYTES, PeerStream
from node.net.transport import Transport
from node.peer.registry import IDLE_S, MAX_HEAD_BYTES, REGISTRY_PROTOCOL
from protocol.refusal import RefusalCode
from protocol.registry_route import is_registry_path

USER: Final = "tilenode"
PASSED_ON: Final = frozenset({b"accept", b"range", b"if-range", b"if-none-match"})
PASSED_BACK: Final = frozenset(
    {
        b"accept-ranges",
        b"content-length",
        b"content-range",
        b"content-type",
        b"docker-content-digest",
        b"docker-distribution-api-version",
        b"etag",
        b"link",
        b"oci-filters-applied",
    }
)
Headers = list[tuple[bytes, bytes]]
OpenStream = Callable[[], AbstractAsyncContextManager[PeerStream]]

_log = logging.getLogger("tilenode.registry")


@dataclass(frozen=True)
class Answer:
    """What the peer answered; `pieces` reads the body."""

    status: int
    headers: Headers
    pieces: AsyncIterator[bytes]


@asynccontextmanager
async def open_registry(transport: Transport, peer: DeviceId, addresses: Sequence[str]) -> AsyncIterator[PeerStream]:
    """Give a stream to the registry of a linked peer; connects where there is no connection.

    Raises:
        PeerNotLinked, OriginStopped, PeerUnreachable: as `Transport.dial` and `Transport.open`.
    """
    async with AsyncExitStack() as stack:
        await transport.dial(peer, addresses)
        try:
            stream = await stack.enter_async_context(transport.open(peer, REGISTRY_PROTOCOL))
        except PeerUnreachable:
            # The connection was lost just now, as when both sides have dialled at once and one of the two is given up.
            await transport.dial(peer, addresses)
            stream = await stack.enter_async_context(transport.open(peer, REGISTRY_PROTOCOL))
        yield stream


@asynccontextmanager
async def ask(stream: PeerStream, method: str, target: bytes, headers: Headers) -> AsyncIterator[Answer]:
    """Give the peer's answer to one request over a stream of its own.

    Raises:
        RemoteRefused: the peer does not let us.
        StreamClosed: the stream ended, or what came is no HTTP.
    """
    http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD_BYTES)
    request = h11.Request(method=method, target=target, headers=[(b"host", b"tilenode"), *headers])
    await stream.send_raw((http.send(request) or b"") + (http.send(h11.EndOfMessage()) or b""))
    await _require_http(stream)
    event = await _next(http, stream)
    if not isinstance(event, h11.Response):
        raise StreamClosed(stream.peer, "the device answered with something else than HTTP")
    kept = [(bytes(name), bytes(value)) for name, value in event.headers if bytes(name) in PASSED_BACK]
    yield Answer(event.status_code, kept, _pieces(http, stream))


async def _require_http(stream: PeerStream) -> None:
    """Accept a stream on which HTTP comes. Raises RemoteRefused where a refusal comes instead."""
    with trio.fail_after(IDLE_S):
        begin = await stream.receive_exactly(4)
        stream.put_back(begin)
        if begin != b"HTTP":
            await stream.receive(MAX_REFUSAL_BYTES)
            raise StreamClosed(stream.peer, "the device answered with something else than HTTP")


async def _pieces(http: h11.Connection, stream: PeerStream) -> AsyncIterator[bytes]:
    while isinstance(event := await _next(http, stream), h11.Data):
        yield bytes(event.data)


async def _next(http: h11.Connection, stream: PeerStream) -> object:
    """Return the next event of the answer. Raises StreamClosed where the answer breaks off."""
    try:
        while (event := http.next_event()) is h11.NEED_DATA:
            with trio.fail_after(IDLE_S):
                http.receive_data(await stream.receive_some())
    except h11.RemoteProtocolError as error:
        raise StreamClosed(stream.peer, "the device answered with something else than HTTP") from error
    return event


class Tunnel:
    """The peer's registry as an ASGI application that asks for a login."""

    def __init__(self, open_stream: OpenStream, password: str) -> None:
        """`open_stream()` gives a new stream of the registry protocol to the peer."""
        self._open_stream = open_stream
        self._login: Final = b"Basic " + base64.b64encode(f"{USER}:{password}".encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on (ASGI)."""
        if scope["type"] == "lifespan":
            await _live(receive, send)
            return
        try:
            self._require_allowed(scope)
        except RegistryRefused as error:
            await answer_error(error)(scope, receive, send)
            return
        passage = _Passage(scope, send)
        try:
            await until_left(receive, lambda: self._pass(scope, passage))
        except BaseExceptionGroup as group:
            if not is_named(group):
                raise
            _log.info("tunnel_failed", extra={"error": type(first_cause(group)).__name__})
            if not passage.begun:
                await answer_error(_word(first_cause(group)))(scope, receive, send)

    def _require_allowed(self, scope: Scope) -> None:
        logins = [value for name, value in scope["headers"] if name.lower() == b"authorization"]
        if not any(hmac.compare_digest(login, self._login) for login in logins):
            raise RegistryRefused(401, "UNAUTHORIZED", "this port needs the login that `registry connect` showed")
        if scope["method"] not in ("GET", "HEAD"):
            raise RegistryRefused(405, "UNSUPPORTED", "this registry can only be read")
        if not is_registry_path(str(scope["path"])):
            raise RegistryRefused(404, "UNSUPPORTED", "no such route")

    async def _pass(self, scope: Scope, passage: "_Passage") -> None:
        query = bytes(scope["query_string"])
        target = bytes(scope["raw_path"]) + (b"?" + query if query else b"")
        headers = [(name.lower(), value) for name, value in scope["headers"] if name.lower() in PASSED_ON]
        async with self._open_stream() as stream, ask(stream, scope["method"], target, headers) as answer:
            await passage.give(answer)


class _Passage:
    """The way back of one answer."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self._head_only = scope["method"] == "HEAD"
        self._send = send
        self.begun = False

    async def give(self, answer: Answer) -> None:
        await self._send({"type": "http.response.start", "status": answer.status, "headers": answer.headers})
        self.begun = True
        if not self._head_only:
            async for piece in answer.pieces:
                await self._send({"type": "http.response.body", "body": piece, "more_body": True})
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})


async def _live(receive: Receive, send: Send) -> None:
    """Follow the server's start and stop, at which there is nothing to do."""
    kind = ""
    while kind != "lifespan.shutdown":
        kind = (await receive())["type"]
        await send({"type": f"{kind}.complete"})


def _word(error: BaseException) -> RegistryRefused:
    match error:
        case RegistryRefused():
            return error
        case RemoteRefused() if error.code == RefusalCode.BUSY:
            return RegistryRefused(429, "TOOMANYREQUESTS", str(error))
        case PeerNotLinked() | RemoteRefused():
            return RegistryRefused(403, "DENIED", str(error))
        case _:
            return RegistryRefused(503, "UNAVAILABLE", str(error) or "the device does not answer")
