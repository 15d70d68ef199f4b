"""Connections end when their answers end, whatever the app does at the word that the client has left."""

import json
from contextlib import AsyncExitStack, suppress

import h11
import psutil
import pytest
import trio
import trio.testing
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from node.api.streams import Emit, Streamed, until_left
from node.control import exchange, server
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


async def test_pieces_arrive_whole_and_in_order_however_slowly_they_are_taken() -> None:
    stop = trio.Event()
    pieces = [bytes([number % 251]) * (number * 7 % 20_000 + 1) for number in range(600)]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for piece in pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async with trio.open_nursery() as nursery:
        listener = bind_api_socket("127.0.0.1", 0, or_any_port=False)
        await nursery.start(serve_http, app, listener, 1.0, stop)
        async with await trio.open_tcp_stream("127.0.0.1", listener.getsockname()[1]) as stream:
            await stream.send_all(b"GET / HTTP/1.0\r\nhost: here\r\n\r\n")
            said = bytearray()
            with trio.fail_after(30):
                while data := await stream.receive_some(10_000):
                    said += data
                    await trio.lowlevel.checkpoint()
        assert bytes(said).partition(b"\r\n\r\n")[2] == b"".join(pieces)
        stop.set()


@pytest.mark.parametrize(("version", "chunked"), [("1.1", True), ("1.0", False)])
async def test_a_stream_arrives_whole_and_in_order_however_slowly_it_is_taken(version: str, chunked: bool) -> None:
    stop, errors = trio.Event(), list[Exception]()
    pieces = [bytes([number % 251]) * (number * 7 % 20_000) for number in range(600)]

    async def produce(emit: Emit) -> None:
        for piece in pieces:
            await emit(piece)

    def word_error(error: Exception) -> Response:
        errors.append(error)
        return JSONResponse({})

    async with trio.open_nursery() as nursery:
        listener = bind_api_socket("127.0.0.1", 0, or_any_port=False)
        told = Streamed(produce, "text/plain", word_error, lambda error: error)
        await nursery.start(serve_http, told, listener, 1.0, stop)
        async with await trio.open_tcp_stream("127.0.0.1", listener.getsockname()[1]) as stream:
            # One that did not end as HTTP wants would spoil the second.
            for _ in range(2 if chunked else 1):
                client = h11.Connection(h11.CLIENT)
                await stream.send_all(f"GET / HTTP/{version}\r\nhost: here\r\n\r\n".encode())
                client.send(h11.Request(method="GET", target="/", headers=[("host", "here")]))
                client.send(h11.EndOfMessage())
                said = bytearray()
                with trio.fail_after(30):
                    while not isinstance(event := client.next_event(), h11.EndOfMessage):
                        if event is h11.NEED_DATA:
                            client.receive_data(await stream.receive_some(10_000))
                        elif isinstance(event, h11.Data):
                            said += event.data
                        elif isinstance(event, h11.Response):
                            assert ((b"transfer-encoding", b"chunked") in event.headers) is chunked
                assert said == b"".join(pieces)
        stop.set()
    assert not errors


# What begins a connection of HTTP/2 is not followed by what its library expects.
_HTTP_2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes.fromhex("000000040000000000")


def _headers_frame(block: bytes) -> bytes:
    return len(block).to_bytes(3, "big") + bytes.fromhex("010500000001") + block


@pytest.mark.parametrize(
    "hostile",
    [
        b"GET / HTTP/1.1\r\nhost: here\r\nconnection: upgrade\r\nupgrade: h2c\r\nhttp2-settings: A\r\n\r\n",
        _HTTP_2 + _headers_frame(b"\x02\x07CONNECT\x01\x04here"),
        _HTTP_2 + _headers_frame(b"\x82\x86\x04\x02/\xff\x01\x04here"),
    ],
    ids=["settings that are no base64", "no path", "a path that is no ASCII"],
)
async def test_what_the_server_stumbles_over_ends_one_connection_and_no_other(hostile: bytes) -> None:
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        listener = bind_api_socket("127.0.0.1", 0, or_any_port=False)
        port = listener.getsockname()[1]
        await nursery.start(serve_http, stops_when_left, listener, 1.0, stop)
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(hostile)
            with trio.fail_after(10), suppress(trio.BrokenResourceError):
                while await stream.receive_some():
                    continue
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(b"GET / HTTP/1.1\r\nhost: here\r\nconnection: close\r\n\r\n")
            with trio.fail_after(10):
                assert b"".join([data async for data in stream]).endswith(b'{"said":true}')
        stop.set()


async def test_a_body_that_stops_coming_ends_its_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "BODY_PATIENCE_S", 0.1)
    stop, heard = trio.Event(), list[str]()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while (message := await receive())["type"] == "http.request" and message["more_body"]:
            heard.append(message["body"].decode())
        heard.append(message["type"])
        await JSONResponse({}, status_code=400)(scope, receive, send)

    async with trio.open_nursery() as nursery:
        listener = bind_api_socket("127.0.0.1", 0, or_any_port=False)
        await nursery.start(serve_http, app, listener, 1.0, stop)
        async with await trio.open_tcp_stream("127.0.0.1", listener.getsockname()[1]) as stream:
            await stream.send_all(b"POST / HTTP/1.1\r\nhost: here\r\ncontent-length: 100\r\n\r\nhalf a")
            with trio.fail_after(10):
                assert b"400" in await stream.receive_some()
        assert heard == ["half a", "http.disconnect"]
        stop.set()


async def test_a_connection_too_many_is_told_so_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 3)
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        listener = bind_api_socket("127.0.0.1", 0, or_any_port=False)
        port = listener.getsockname()[1]
        await nursery.start(serve_http, stops_when_left, listener, 1.0, stop)
        async with AsyncExitStack() as streams:
            few = [await streams.enter_async_context(await trio.open_tcp_stream("127.0.0.1", port)) for _ in range(3)]
            await trio.testing.wait_all_tasks_blocked(0.05)
            async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                with trio.fail_after(10):
                    said = b""
                    while data := await stream.receive_some():
                        said += data
            headers, _, body = said.partition(b"\r\n\r\n")
            assert headers.startswith(b"HTTP/1.1 503 ")
            assert f"content-length: {len(body)}".encode() in headers
            assert "too many connections" in json.loads(body)["error"]
            await few[0].send_all(b"GET / HTTP/1.1\r\nhost: here\r\n\r\n")
            with trio.fail_after(10):
                assert b"200" in await few[0].receive_some()
        stop.set()


async def test_a_body_that_nobody_reads_does_not_cost_the_connection() -> None:
    stop = trio.Event()

    async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
        await JSONResponse({}, status_code=405)(scope, receive, send)

    async with trio.open_nursery() as nursery:
        listener = bind_api_socket("127.0.0.1", 0, or_any_port=False)
        await nursery.start(serve_http, refuse, listener, 1.0, stop)
        async with await trio.open_tcp_stream("127.0.0.1", listener.getsockname()[1]) as stream:
            for _ in range(3):
                await stream.send_all(b"PUT / HTTP/1.1\r\nhost: here\r\ncontent-length: 4\r\n\r\n")
                await trio.testing.wait_all_tasks_blocked(0.05)  # the answer has begun
                await stream.send_all(b"body")
                said = b""
                with trio.fail_after(10):
                    while not said.endswith(b"{}"):
                        said += (piece := await stream.receive_some())
                        assert piece
        stop.set()
