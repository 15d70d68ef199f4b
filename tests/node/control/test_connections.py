"""Connections end when their answers end, whatever the app does at the word that the client has left."""

import psutil
import trio
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from node.api.streams import until_left
from node.control.server import bind_api_socket, serve_http


async def stops_when_left(scope: Scope, receive: Receive, send: Send) -> None:
    await until_left(receive, lambda: JSONResponse({"said": True})(scope, receive, send))


async def test_a_connection_that_was_to_be_closed_is_closed() -> None:
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        listener = bind_api_socket("127.0.0.1", 0, or_any_port=False)
        port = listener.getsockname()[1]
        await nursery.start(serve_http, stops_when_left, listener, 1.0, stop)
        for _ in range(3):
            async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                await stream.send_all(b"GET / HTTP/1.1\r\nhost: here\r\nconnection: close\r\n\r\n")
                said = b""
                with trio.fail_after(10):
                    while data := await stream.receive_some():
                        said += data
                assert said.endswith(b'{"said":true}')
        stop.set()


async def test_a_connection_whose_client_has_gone_is_put_away_at_once() -> None:
    stop = trio.Event()
    files = psutil.Process().num_fds
    async with trio.open_nursery() as nursery:
        listener = bind_api_socket("127.0.0.1", 0, or_any_port=False)
        port = listener.getsockname()[1]
        await nursery.start(serve_http, stops_when_left, listener, 1.0, stop)
        before = files()
        for _ in range(10):
            async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                for _ in range(2):
                    await stream.send_all(b"GET / HTTP/1.1\r\nhost: here\r\n\r\n")
                    said = b""
                    while not said.endswith(b'{"said":true}'):
                        said += await stream.receive_some()
        with trio.fail_after(10):
            while files() > before:
                await trio.sleep(0.01)
        stop.set()
