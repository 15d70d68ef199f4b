"""The registry for linked peers: HTTP/1.1 over a stream of the protocol `/tilenode/registry/1` (specs/0024).

One request a stream. Nothing but the registry can be reached through it, whatever the request says, and who may ask is
decided by the key that the connection proved, again at every piece that is sent.
"""

import logging
from typing import Final
from urllib.parse import unquote

import h11
import trio
from starlette.types import ASGIApp, Message, Scope

from node.errors import StreamClosed
from node.net.access import Access
from node.net.stream_slots import StreamSlots
from node.net.streams import PeerStream
from node.net.transport import Transport

REGISTRY_PROTOCOL: Final = "/tilenode/registry/1"
MAX_HEAD_BYTES: Final = 16 * 1024
# Each stream may hold two batches of 3 MiB in memory.
MAX_STREAMS_PER_PEER: Final = 8
MAX_STREAMS: Final = 24
REQUEST_S: Final = 30.0
# How long a peer may take to read one piece before it is given up.
IDLE_S: Final = 120.0
WRITE_BYTES: Final = 1024 * 1024

_log = logging.getLogger("tilenode.registry")


class RegistryStreams:
    """Serves the registry to linked peers. Construct it before the transport runs."""

    def __init__(self, transport: Transport, registry: ASGIApp) -> None:
        self._registry = registry
        self._slots = StreamSlots(MAX_STREAMS_PER_PEER, MAX_STREAMS)
        transport.handle(REGISTRY_PROTOCOL, self._serve, access=Access.LINKED)

    async def _serve(self, stream: PeerStream) -> None:
        async with self._slots.one(stream) as admitted:
            if admitted:
                await Exchange(stream, self._registry).run()


class Exchange:
    """One request and its answer."""

    def __init__(self, stream: PeerStream, registry: ASGIApp) -> None:
        self._stream = stream
        self._registry = registry
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
        self._head_only = False

    async def run(self) -> None:
        """Serve the request, or say what is wrong with it."""
        try:
            with trio.fail_after(REQUEST_S):
                request = await self._request()
        except h11.RemoteProtocolError as error:
            await self._refuse(error.error_status_hint)
            return
        self._head_only = request.method == b"HEAD"
        await self._registry(_scope(request), trio.sleep_forever, self._send)
        if self._http.our_state not in (h11.DONE, h11.MUST_CLOSE):
            await self._stream.reset()  # an answer that broke off must not look complete

    async def _request(self) -> h11.Request:
        while True:
            event = self._http.next_event()
            if isinstance(event, h11.Request):
                return event
            if event is not h11.NEED_DATA:
                raise StreamClosed(self._stream.peer)
            self._http.receive_data(await self._stream.receive_some(MAX_HEAD_BYTES))

    async def _refuse(self, status: int) -> None:
        if self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            await self._write(h11.Response(status_code=status, headers=[("content-length", "0"), _CLOSE]))
            await self._write(h11.EndOfMessage())

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = [*message.get("headers", ()), _CLOSE]
            await self._write(h11.Response(status_code=message["status"], headers=headers))
            return
        body = memoryview(b"" if self._head_only else message.get("body", b""))
        for start in range(0, len(body), WRITE_BYTES):
            await self._write(h11.Data(bytes(body[start : start + WRITE_BYTES])))
        if not message.get("more_body", False):
            await self._write(h11.EndOfMessage())

    async def _write(self, event: "h11.Response | h11.Data | h11.EndOfMessage") -> None:
        data = self._http.send(event)
        if data:
            with trio.fail_after(IDLE_S):
                await self._stream.send_raw(data)


_CLOSE: Final = ("connection", "close")


def _scope(request: h11.Request) -> Scope:
    path, _, query = request.target.partition(b"?")
    return {
        "type": "http",
        "http_version": request.http_version.decode("ascii"),
        "asgi": {"spec_version": "2.1", "version": "3.0"},
        "method": request.method.decode("ascii"),
        "scheme": "http",
        "path": unquote(path.decode("latin-1")),
        "raw_path": path,
        "query_string": query,
        "root_path": "",
        "headers": [(bytes(name), bytes(value)) for name, value in request.headers],
        "client": None,
        "server": None,
        "extensions": {},
    }
