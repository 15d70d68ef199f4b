"""The port for a linked peer's registry: nobody reads through it without the login, and a hostile peer says nothing."""

import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from libp2p.network.stream.exceptions import StreamEOF
from starlette.types import Message, Scope

from identity.did import DeviceId
from node.control.registry_login import login_file
from node.errors import PeerUnreachable
from node.net.streams import PeerStream
from node.peer.registry import MAX_HEAD_BYTES
from node.peer.registry_tunnel import USER, Tunnel
from protocol.refusal import RefusalCode, encode_refusal
from protocol.wire import MAX_FRAME_BYTES, encode_frame

PEER = DeviceId("did:key:z6MkpTHR8VNsBxYAAWHut2Geadd9jSwuBV8xRoAnwWsdvktH")
PASSWORD = "a-password"
LOGIN = (b"authorization", b"Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()))
FINE = b"HTTP/1.1 200 \r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"


class Wire:
    """The peer's end of a stream: it says what it was told to say, and then ends."""

    def __init__(self, says: bytes) -> None:
        self.says = says
        self.heard = b""
        self.was_reset = False

    async def read(self, count: int) -> bytes:
        await trio.lowlevel.checkpoint()
        if not self.says:
            raise StreamEOF
        piece, self.says = self.says[:count], self.says[count:]
        return piece

    async def write(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self.heard += data

    async def close(self) -> None:
        await trio.lowlevel.checkpoint()

    async def reset(self) -> None:
        await trio.lowlevel.checkpoint()
        self.was_reset = True


class Sent(list[Message]):
    """The messages of one answer."""

    @property
    def status(self) -> int:
        return int(self[0]["status"])

    @property
    def headers(self) -> dict[bytes, bytes]:
        return dict(self[0]["headers"])

    @property
    def body(self) -> bytes:
        return b"".join(message["body"] for message in self[1:])

    @property
    def complete(self) -> bool:
        return not self[-1].get("more_body", False) and self[-1]["type"] == "http.response.body"

    @property
    def code(self) -> str:
        return str(json.loads(self.body)["errors"][0]["code"])


async def through(
    wire: Wire, *headers: tuple[bytes, bytes], path: str = "/v2/", method: str = "GET", query: bytes = b""
) -> Sent:
    @asynccontextmanager
    async def open_stream() -> AsyncIterator[PeerStream]:
        async with PeerStream(wire, PEER, "test", lambda: None) as stream:
            yield stream

    sent = Sent()

    async def send(message: Message) -> None:
        await trio.lowlevel.checkpoint()
        sent.append(message)

    scope: Scope = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": query,
        "headers": list(headers),
    }
    await Tunnel(open_stream, PASSWORD)(scope, trio.sleep_forever, send)
    return sent


async def test_a_request_passes_with_the_login_which_stays_here() -> None:
    wire = Wire(FINE)
    others = ((b"cookie", b"a=b"), (b"host", b"127.0.0.1:1"), (b"range", b"bytes=0-1"), (b"accept", b"*/*"))
    sent = await through(wire, LOGIN, *others, path="/v2/_catalog", query=b"n=3")
    assert (sent.status, sent.body, sent.complete) == (200, b"{}", True)
    head = wire.heard.decode().lower()
    assert head.startswith("get /v2/_catalog?n=3 http/1.1\r\nhost: tilenode\r\n")
    assert "range: bytes=0-1" in head
    assert not any(word in head for word in ("authorization", "basic", "cookie", "127.0.0.1"))


@pytest.mark.parametrize(
    "login",
    [
        None,
        (b"authorization", b""),
        (b"authorization", b"Basic " + base64.b64encode(b"tilenode:wrong")),
        (b"authorization", b"Basic " + base64.b64encode(f"other:{PASSWORD}".encode())),
        (b"authorization", b"Bearer " + PASSWORD.encode()),
        (b"authorization", "Basic é".encode("latin-1")),
    ],
    ids=range(6),
)
async def test_nothing_passes_without_it(login: tuple[bytes, bytes] | None) -> None:
    wire = Wire(FINE)
    sent = await through(wire, *([login] if login else []))
    assert (sent.status, sent.code, wire.heard) == (401, "UNAUTHORIZED", b"")
    assert sent.headers[b"www-authenticate"] == b'Basic realm="tilenode"'


async def test_only_reading_of_the_registry_passes() -> None:
    wire = Wire(FINE)
    assert (await through(wire, LOGIN, path="/api/tags")).status == 404
    for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT"):
        assert (await through(wire, LOGIN, method=method)).status == 405
    assert wire.heard == b""


async def test_what_a_peer_says_beside_the_registry_s_own_headers_is_dropped() -> None:
    extra = b'location: http://elsewhere/\r\nset-cookie: a=b\r\nwww-authenticate: Bearer realm=x\r\netag: "1"\r\n'
    sent = await through(Wire(FINE.replace(b"\r\n\r\n", b"\r\n" + extra + b"\r\n")), LOGIN)
    assert sent.headers.keys() == {b"content-type", b"content-length", b"etag"}


@pytest.mark.parametrize(
    ("says", "status", "code"),
    [
        (b"", 503, "UNAVAILABLE"),
        (b"HTTP", 503, "UNAVAILABLE"),
        (b"HTTP/1.1 200 \r\ncontent-length: x\r\n\r\n", 503, "UNAVAILABLE"),
        (b"HTTP/1.1 100 \r\n\r\n", 503, "UNAVAILABLE"),
        (b"HTTP/1.1 200 \r\nx: " + b"a" * (MAX_HEAD_BYTES + 1), 503, "UNAVAILABLE"),
        (b"\x00\x00\x00\x03abc", 503, "UNAVAILABLE"),
        (b"\xff\xff\xff\xff", 503, "UNAVAILABLE"),
        (encode_frame(encode_refusal(RefusalCode.NOT_LINKED, ""), MAX_FRAME_BYTES), 403, "DENIED"),
        (encode_frame(encode_refusal(RefusalCode.BUSY, ""), MAX_FRAME_BYTES), 429, "TOOMANYREQUESTS"),
    ],
    ids=range(9),
)
async def test_a_peer_that_answers_nonsense_is_an_error(says: bytes, status: int, code: str) -> None:
    sent = await through(Wire(says), LOGIN)
    assert (sent.status, sent.code, sent.complete) == (status, code, True)


async def test_an_answer_that_breaks_off_does_not_look_complete() -> None:
    wire = Wire(b"HTTP/1.1 200 \r\ncontent-length: 10\r\n\r\n01234")
    sent = await through(wire, LOGIN)
    assert (sent.status, sent.body, sent.complete) == (200, b"01234", False)
    assert wire.was_reset


async def test_a_peer_that_is_away_is_an_error() -> None:
    @asynccontextmanager
    async def away() -> AsyncIterator[PeerStream]:
        raise PeerUnreachable(PEER, "not connected")
        yield

    sent = Sent()

    async def send(message: Message) -> None:
        await trio.lowlevel.checkpoint()
        sent.append(message)

    scope: Scope = {
        "type": "http",
        "method": "GET",
        "path": "/v2/",
        "raw_path": b"/v2/",
        "query_string": b"",
        "headers": [LOGIN],
    }
    await Tunnel(away, PASSWORD)(scope, trio.sleep_forever, send)
    assert (sent.status, sent.code) == (503, "UNAVAILABLE")


def test_the_login_lies_in_a_private_file_while_it_is_good(tmp_path: Path) -> None:
    directory = tmp_path / "registry"
    with login_file(directory, "127.0.0.1:5001", "tilenode", "secret") as path:
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.parent.stat().st_mode & 0o777 == 0o700
        auth = json.loads(path.read_text())["auths"]["127.0.0.1:5001"]["auth"]
        assert base64.b64decode(auth) == b"tilenode:secret"
        with login_file(directory, "127.0.0.1:5002", "tilenode", "other") as other:
            assert other != path
        assert path.exists()
    assert not list(directory.iterdir())
