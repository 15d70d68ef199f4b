"""The two listeners that HTTP has here: the private Unix socket of the control API, and the API's loopback port."""

import errno
import logging
import os
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any, Final

import trio
from hypercorn.config import Config as HypercornConfig
from hypercorn.events import Event, RawData, Updated
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import AppWrapper, ConnectionState, LifespanState
from hypercorn.utils import wrap_app

from node.api.streams import SEND_CHUNK
from node.config import Home, make_private_directory
from node.control.exchange import Exchange
from node.errors import HomeUnusable, PortInUse
from node.failures import leaves, names_of

BACKLOG: Final = 128
KEEP_ALIVE_S: Final = 60
SOCKET_MODE: Final = 0o600
# Each takes a file descriptor, and the node needs some for itself: see `node.daemon`.
MAX_CONNECTIONS: Final = 512
TURN_AWAY_S: Final = 1.0
_FULL: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 5\r\nconnection: close\r\n"
    b"content-type: application/json\r\ncontent-length: 58\r\n\r\n"
    b'{"error":"too many connections; close some and try again"}'
)
# What is no longer than this is written at once where the system takes it: the words of an answer come by the hundred
# in a second, and each turn of the scheduler costs as much as the writing.
SMALL_BYTES: Final = 16 * 1024

_log = logging.getLogger("tilenode.http")


def bind_control_socket(home: Home) -> socket.socket:
    """Return a listening Unix socket at the home's control path, mode 0600, in place of a dead node's.

    The caller holds the home's lock, so whatever lies at the path belongs to nobody.

    Raises:
        HomeUnusable: the directory cannot be made private, or the path cannot be bound.
    """
    path = home.control_socket
    make_private_directory(path.parent)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.unlink(missing_ok=True)
        # The directory is closed to others already; the mode closes the moment between bind and chmod as well.
        previous = os.umask(0o177)
        try:
            listener.bind(str(path))
        finally:
            os.umask(previous)
        path.chmod(SOCKET_MODE)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise HomeUnusable(path, error.strerror or str(error)) from error
    return listener


def bind_api_socket(host: str, port: int, *, or_any_port: bool) -> socket.socket:
    """Return a listening TCP socket at HOST:PORT; with `or_any_port` at another port where that one is in use.

    Raises:
        PortInUse: another program holds the port.
    """
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        try:
            listener.bind((host, port))
            listener.listen(BACKLOG)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or not or_any_port:
                raise
            listener.close()
            return bind_api_socket(host, 0, or_any_port=False)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise PortInUse("API", f"{host}:{port}") from error
        raise
    return listener


def api_url(listener: socket.socket) -> str:
    """Return the URL at which a bound API socket answers."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def serve_http(
    app: Any,
    listener: socket.socket,
    grace_s: float,
    stopping: trio.Event,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve an ASGI `app` on a socket that listens already; started once it accepts.

    Returns after `stopping` is set and the requests that run then have ended, or `grace_s` later.
    """
    config = HypercornConfig()
    config.accesslog = None
    config.errorlog = None
    config.keep_alive_timeout = KEEP_ALIVE_S
    config.include_server_header = False
    context = WorkerContext(None)
    exchange: Any = Exchange(app)
    connect = partial(_Connection, wrap_app(exchange, 0, "asgi"), config, context, ConnectionState(LifespanState()))
    accepting = trio.SocketListener(trio.socket.from_stdlib_socket(listener))
    async with trio.open_nursery() as connections:
        async with trio.open_nursery() as doors:
            serve = partial(_serve_one, connect, connections)
            await doors.start(partial(trio.serve_listeners, serve, [accepting], handler_nursery=connections))
            task_status.started()
            await stopping.wait()
            doors.cancel_scope.cancel()
        await context.terminated.set()
        connections.cancel_scope.deadline = trio.current_time() + grace_s


async def _serve_one(
    connect: Callable[[trio.SocketStream], Awaitable[None]], connections: trio.Nursery, stream: trio.SocketStream
) -> None:
    """Serve one connection; whatever is sent on it ends no other one."""
    if len(connections.child_tasks) > MAX_CONNECTIONS:
        _log.warning("connections_full", extra={"count": MAX_CONNECTIONS})
        await _turn_away(stream)
        return
    try:
        await connect(stream)
    except Exception as error:  # noqa: BLE001 - the protocols' libraries raise anything at bytes that they do not expect
        _log.warning("connection_failed", extra={"error": names_of(leaves(error))})


async def _turn_away(stream: trio.SocketStream) -> None:
    with trio.move_on_after(TURN_AWAY_S), suppress(trio.BrokenResourceError):
        await stream.send_all(_FULL)
    await trio.aclose_forcefully(stream)


class _Connection(TCPServer):
    """One connection, which is put away as soon as its client has gone.

    It offers `SEND_CHUNK` to those who answer on it.
    """

    _left = False

    def __init__(self, app: AppWrapper, *rest: Any) -> None:
        async def answer(scope: Any, receive: Any, send: Any, sync_spawn: Any, call_soon: Any) -> None:
            if scope["type"] == "http" and scope["http_version"] == "1.1" and scope["method"] != "HEAD":
                scope["extensions"][SEND_CHUNK] = self._send_chunk
            await app(scope, receive, send, sync_spawn, call_soon)

        super().__init__(answer, *rest)

    async def _send_chunk(self, piece: bytes) -> None:
        await self.protocol_send(RawData(b"%x\r\n%b\r\n" % (len(piece), piece)))

    async def protocol_send(self, event: Event) -> None:
        """Do what the protocol asks; a connection without a client is not kept for its next request."""
        if self._left and isinstance(event, Updated):
            return
        if isinstance(event, RawData):
            left = event.data[self._write(event.data) :]
            if not left:
                return
            event = RawData(left)
        await super().protocol_send(event)

    def _write(self, data: bytes) -> int:
        """Write what can be written without waiting, and return how many bytes that was."""
        if len(data) > SMALL_BYTES or self.send_lock.locked():
            return 0
        try:
            return os.write(self.stream.socket.fileno(), data)
        except OSError:  # full, or gone: the usual way waits, or says so
            return 0

    async def _read_data(self) -> None:
        await super()._read_data()
        self._left = True
        # It waits for a next request: for so long it would hold the socket of a client that sends none any more.
        await self.idle_task.stop()


def remove_control_socket(home: Home) -> None:
    """Remove the socket's file, so that the next command sees at once that nobody listens, and a directory made for it.

    The caller still holds the home's lock.
    """
    path = home.control_socket
    path.unlink(missing_ok=True)
    if path.parent != home.root and not any(path.parent.iterdir()):
        path.parent.rmdir()
