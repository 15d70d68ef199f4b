"""The registry over streams: linked peers read it, nobody else, nothing else, and only as long as they are linked."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from starlette.types import ASGIApp, Receive, Scope, Send

from node.api.registry import RegistryApp
from node.api.registry_shelf import RegistryShelf
from node.errors import PeerNotLinked, RemoteRefused, StreamClosed
from node.net.access import Access
from node.net.streams import PeerStream
from node.peer.registry import MAX_HEAD_BYTES, MAX_STREAMS_PER_PEER, REGISTRY_PROTOCOL, RegistryStreams
from node.peer.registry_tunnel import Answer, Headers, ask, open_registry
from node.peer.testing import ModelNode, link
from protocol.digest import digest_of, format_oci_digest
from protocol.model_name import parse_model_name
from store.testing import make_model_directory, make_tensors


@pytest.fixture(autouse=True)
async def deadline() -> AsyncIterator[None]:
    with trio.fail_after(60):
        yield


@asynccontextmanager
async def two_nodes(home: Path, registry: ASGIApp | None = None) -> AsyncIterator[tuple[ModelNode, ModelNode]]:
    """Give ann, whose registry ben reads; they are linked and connected."""
    ann, ben = ModelNode(home / "ann", 1), ModelNode(home / "ben", 2)
    shelf = RegistryShelf(ann.store, ann.gossip.origins.stopped)
    RegistryStreams(ann.transport, registry or RegistryApp(ann.store, shelf, ann.threads))
    ben.transport.handle(REGISTRY_PROTOCOL, _nothing, access=Access.LINKED)
    async with ann.running(), ben.running():
        await link(ann, ben)
        yield ann, ben


async def _nothing(_: PeerStream) -> None:
    raise AssertionError("ben serves no registry")


async def asked(
    ben: ModelNode, ann: ModelNode, target: str, method: str = "GET", headers: Headers | None = None
) -> tuple[Answer, bytes]:
    async with (
        open_registry(ben.transport, ann.did, ann.transport.addresses) as stream,
        ask(stream, method, target.encode(), headers or []) as answer,
    ):
        content = bytearray()
        if method != "HEAD":
            async for piece in answer.pieces:
                content += piece
        return answer, bytes(content)


async def test_a_linked_peer_reads_everything_that_is_offered(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (ann, ben):
        ann.publish("demo", make_model_directory(tmp_path / "model", make_tensors(1, 8, 720)))
        model = ann.store.resolve(parse_model_name("demo"))
        layer = next(layer for layer in model.layers if layer.chunk_map)
        content = ann.store.layout.blob_path(layer.digest).read_bytes()
        answer, body = await asked(ben, ann, "/v2/_catalog")
        assert (answer.status, json.loads(body)) == (200, {"repositories": ["library/demo"]})
        answer, body = await asked(ben, ann, "/v2/library/demo/manifests/latest")
        assert digest_of(body) == model.digest
        blob = f"/v2/library/demo/blobs/{format_oci_digest(layer.digest)}"
        answer, body = await asked(ben, ann, blob)
        assert (answer.status, body) == (200, content)
        answer, body = await asked(ben, ann, blob, headers=[(b"range", b"bytes=100-199")])
        assert (answer.status, body) == (206, content[100:200])
        assert (b"content-range", f"bytes 100-199/{layer.size}".encode()) in answer.headers
        for target in (blob, "/v2/library/demo/manifests/latest"):
            answer, _ = await asked(ben, ann, target, "HEAD")
            assert answer.status == 200
            assert dict(answer.headers)[b"content-length"] != b"0"


async def test_nothing_else_can_be_reached(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (ann, ben):
        for target in ("/", "/api/tags", "/v1/models", "/v1/stop", "http://127.0.0.1/api/tags", "/v2x", "/v2/../v1/x"):
            answer, body = await asked(ben, ann, target)
            assert answer.status in (400, 404)
            assert json.loads(body)["errors"]
        answer, body = await asked(ben, ann, "/v2/demo/blobs/uploads/", "POST", [(b"content-length", b"0")])
        assert (answer.status, json.loads(body)["errors"][0]["code"]) == (405, "UNSUPPORTED")


async def test_who_is_not_linked_is_refused(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (ann, ben):
        ann.links.remove(ben.did)
        with pytest.raises(RemoteRefused) as refused:
            await asked(ben, ann, "/v2/")
        assert refused.value.code == "not-linked"


async def test_an_unlink_cuts_what_is_being_sent(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (ann, ben):
        ann.publish("demo", make_model_directory(tmp_path / "model", make_tensors(1, 8, 3000)))
        model = ann.store.resolve(parse_model_name("demo"))
        layer = next(layer for layer in model.layers if layer.chunk_map)
        received = 0
        with pytest.raises((StreamClosed, PeerNotLinked)):  # noqa: PT012 - what is raised ends the reading
            async with (
                open_registry(ben.transport, ann.did, ann.transport.addresses) as stream,
                ask(stream, "GET", f"/v2/demo/blobs/{format_oci_digest(layer.digest)}".encode(), []) as answer,
            ):
                assert answer.status == 200
                async for piece in answer.pieces:
                    if not received:
                        await ann.unlink(ben)
                    received += len(piece)
        assert 0 < received < layer.size
        await until(lambda: layer.digest not in ann.store.leases.held())


async def test_a_peer_has_a_bounded_number_of_streams(tmp_path: Path) -> None:
    async def slow(_: Scope, receive: Receive, __: Send) -> None:
        await receive()

    async with two_nodes(tmp_path, slow) as (ann, ben), trio.open_nursery() as nursery:
        refused = []

        async def one() -> None:
            try:
                await asked(ben, ann, "/v2/")
            except RemoteRefused as error:
                refused.append(error.code)
                nursery.cancel_scope.cancel()

        for _ in range(MAX_STREAMS_PER_PEER + 1):
            nursery.start_soon(one)
    assert refused == ["busy"]


@pytest.mark.parametrize(
    "sent",
    [
        b"\x00\x01\x02\r\n\r\n",
        b"GET /v2/ FTP/1.1\r\n\r\n",
        b"GET /v2/ HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
        b"GET /v2/ HTTP/1.1\r\nbad header\r\n\r\n",
        b"GET /v2/ HTTP/1.1\r\nhost: a\r\ncontent-length: x\r\n\r\n",
        b"GET /" + b"a" * MAX_HEAD_BYTES + b" HTTP/1.1\r\nhost: a\r\n\r\n",
        b"GET /v2/ HTTP/1.1\r\nx: " + b"a" * MAX_HEAD_BYTES + b"\r\n\r\n",
    ],
    ids=range(7),
)
async def test_what_is_no_request_has_an_http_error(tmp_path: Path, sent: bytes) -> None:
    async with (
        two_nodes(tmp_path) as (ann, ben),
        open_registry(ben.transport, ann.did, ann.transport.addresses) as stream,
    ):
        await stream.send_raw(sent)
        begin = await stream.receive_exactly(12)
        assert begin.startswith(b"HTTP/1.1 4")


async def until(holds: Callable[[], bool]) -> None:
    """Return once it holds; what is awaited happens in other threads, which tell nobody."""
    while not holds():
        await trio.sleep(0.01)
