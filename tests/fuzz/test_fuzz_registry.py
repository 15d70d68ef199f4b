"""Hostile requests into the registry: every answer is well-formed, and nothing but HTTP answers comes out."""

import json
from collections.abc import Iterator

import h11
import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from libp2p.network.stream.exceptions import StreamEOF
from starlette.types import Message, Scope

from identity.did import DeviceId
from node.api.registry import RegistryApp
from node.api.registry_shelf import RegistryShelf
from node.errors import StreamClosed
from node.net.streams import PeerStream
from node.peer.registry import Exchange
from node.peer.testing import ModelNode
from node.threads import Threads
from protocol.digest import format_oci_digest
from protocol.model_name import parse_model_name
from store.testing import make_model_directory

CODES = {200, 206, 304, 400, 404, 405, 416}
PEER = DeviceId("did:key:z6MkpTHR8VNsBxYAAWHut2Geadd9jSwuBV8xRoAnwWsdvktH")
WORDS = st.sampled_from(["v2", "library", "demo", "tags", "list", "manifests", "latest", "blobs", "referrers", ".."])
HEADERS = st.sampled_from([b"range", b"if-range", b"if-none-match", b"accept", b"host"])
SMALL = settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelNode]:
    home = tmp_path_factory.mktemp("registry")
    node = ModelNode(home / "node", 1)
    node.publish("demo", make_model_directory(home / "model"))
    yield node
    node.close()


@pytest.fixture(scope="module")
def paths(node: ModelNode) -> list[str]:
    model = node.store.resolve(parse_model_name("demo"))
    digests = [format_oci_digest(model.digest), *(format_oci_digest(blob.digest) for blob in model.manifest.blobs())]
    return [f"/v2/demo/{kind}/{digest}" for kind in ("manifests", "blobs", "referrers") for digest in digests]


def registry(node: ModelNode) -> RegistryApp:
    return RegistryApp(node.store, RegistryShelf(node.store, node.gossip.origins.stopped), Threads())


async def answer(app: RegistryApp, scope: Scope) -> list[Message]:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        await trio.lowlevel.checkpoint()
        sent.append(message)

    await app(scope, trio.sleep_forever, send)
    return sent


@SMALL
@given(
    data=st.data(),
    method=st.sampled_from(["GET", "HEAD", "POST", "\u00e4"]),
    query=st.binary(max_size=40) | st.sampled_from([b"n=1&last=a", b"n=-1", b"artifactType=%ff"]),
    headers=st.lists(st.tuples(HEADERS, st.binary(max_size=30) | st.just(b"bytes=0-")), max_size=4),
)
def test_any_request_has_a_well_formed_answer(
    node: ModelNode,
    paths: list[str],
    data: st.DataObject,
    method: str,
    query: bytes,
    headers: list[tuple[bytes, bytes]],
) -> None:
    path = data.draw(
        st.sampled_from(paths) | st.text(max_size=40) | st.lists(WORDS, max_size=6).map(lambda p: "/" + "/".join(p))
    )
    scope: Scope = {"type": "http", "method": method, "path": path, "query_string": query, "headers": headers}
    start, *bodies = trio.run(answer, registry(node), scope)
    body = b"".join(message["body"] for message in bodies)
    length = dict(start["headers"]).get(b"content-length")
    assert start["status"] in CODES
    assert method == "HEAD" or length is None or int(length) == len(body)
    if start["status"] >= 400:
        assert json.loads(body)["errors"][0]["code"]


class Wire:
    """A stream on which these bytes come, and nothing after them."""

    def __init__(self, says: bytes) -> None:
        self.says = says
        self.heard = b""

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


@SMALL
@given(
    st.binary(max_size=120)
    | st.builds(
        lambda head, change, tail: head + change + tail,
        st.sampled_from([b"GET /v2/ HTTP/1.1\r\n", b"HEAD /v2/_catalog HTTP/1.0\r\nhost: a\r\n", b"GET "]),
        st.binary(max_size=40)
        | st.sampled_from([b"host: a\r\n", b"content-length: 5\r\n", b"expect: 100-continue\r\n"]),
        st.sampled_from([b"\r\n", b"\r\n\r\n", b"", b"host: a\r\n\r\nGET / HTTP/1.1\r\n\r\n"]),
    )
)
def test_any_bytes_on_a_stream_have_an_http_answer_or_none(node: ModelNode, says: bytes) -> None:
    wire = Wire(says)

    async def serve() -> None:
        try:
            await Exchange(PeerStream(wire, PEER, "test", lambda: None), registry(node)).run()
        except StreamClosed:
            return  # it ended before it was a request

    trio.run(serve)
    if wire.heard:
        client = h11.Connection(h11.CLIENT)
        client.send(
            h11.Request(method="HEAD" if says.startswith(b"HEAD") else "GET", target="/", headers=[("host", "a")])
        )
        client.send(h11.EndOfMessage())
        client.receive_data(wire.heard)
        assert isinstance(client.next_event(), h11.Response)
