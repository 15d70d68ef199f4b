"""Pulling between real nodes on loopback: whole, delta, corrupt peers, a source that dies, unlinked peers."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trio
from blake3 import blake3

from node.errors import (
    BlobUnavailable,
    FetchStalled,
    ModelNotOffered,
    OfferAmbiguous,
    PeerNotLinked,
    RemoteRefused,
)
from node.net.access import Access
from node.net.streams import PeerStream
from node.peer.sources import ask_have, fetch_small, receive_run
from node.peer.testing import ModelNode, link
from protocol.blob import BLOB_PROTOCOL, MAX_REQUEST_BYTES, ReadRequest, decode_read, encode_data_header, encode_read
from protocol.digest import Digest
from protocol.have import HaveComplete, HaveNone, HaveSome, decode_bitmap
from protocol.model_name import parse_model_name
from store.errors import DiskFull
from store.testing import Tensors, make_model_directory, make_tensors

DEMO = parse_model_name("demo")


@pytest.fixture(autouse=True)
async def deadline() -> AsyncIterator[None]:
    with trio.fail_after(60):
        yield


async def started(stack: AsyncExitStack, home: Path, *numbers: int) -> list[ModelNode]:
    return [await stack.enter_async_context(ModelNode(home / str(n), n).running()) for n in numbers]


def large_tensors(seed: int = 0) -> Tensors:
    """Eight megabytes in eight tensors, so that a layer takes several runs."""
    return make_tensors(seed, blocks=8, width=720)


def mapped_layer(node: ModelNode, name: str = "demo") -> Digest:
    model = node.store.resolve(parse_model_name(name))
    return next(layer.digest for layer in model.layers if layer.chunk_map is not None)


async def test_a_pull_brings_the_model_and_its_provenance(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        ann, ben = await started(stack, tmp_path, 1, 2)
        bundle = ann.publish("demo", make_model_directory(tmp_path / "model"))
        await link(ann, ben)
        await ben.wait_for("offer", name="demo:latest")
        events = await ben.pull("demo", ben.peers.find("node-1"))
        model = ben.store.resolve(DEMO)
        assert ben.store.verify(DEMO).size_bytes > 0
        assert ben.store.provenance.load(model.digest) == bundle
        assert events[0] == {"status": "pulling manifest"}
        progress = next(event for event in events if event.get("digest") == f"sha256:{mapped_layer(ben)}")
        assert progress.keys() == {"status", "digest", "total", "completed", "reused", "source", "rate"}
        assert progress["status"] == f"pulling {mapped_layer(ben)[:12]}"
        assert "node-1" in {event.get("source") for event in events}
        assert [event["status"] for event in events[-2:]] == ["writing manifest", "success"]
        assert events[-1]["manifest"] == f"sha256:{model.digest}"
        assert events[-1]["bytes_reused"] == 0
        assert events[-1]["bytes_moved"] == sum(blob.size for blob in model.manifest.blobs()) + len(bundle)
        again = await ben.pull("demo", ben.peers.find("node-1"))
        assert again[-1]["bytes_moved"] == len(bundle)


async def test_a_second_version_moves_only_what_changed(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        ann, ben = await started(stack, tmp_path, 1, 2)
        first = dict(large_tensors())
        second = first | {"model.layers.3.norm.weight": make_tensors(9, 8, 720)["model.layers.3.norm.weight"]}
        ann.publish("demo", make_model_directory(tmp_path / "v1", first))
        await link(ann, ben)
        whole = (await ben.pull("demo", ben.peers.find("node-1")))[-1]
        ann.publish("demo", make_model_directory(tmp_path / "v2", second))
        delta = (await ben.pull("demo", ben.peers.find("node-1")))[-1]
        assert ben.store.resolve(DEMO).digest == ann.store.resolve(DEMO).digest
        assert ben.store.verify(DEMO).size_bytes > 8_000_000
        assert isinstance(whole["bytes_moved"], int)
        assert isinstance(delta["bytes_moved"], int)
        assert delta["bytes_moved"] < whole["bytes_moved"] // 100
        assert isinstance(delta["bytes_reused"], int)
        assert delta["bytes_reused"] > 8_000_000


async def test_of_two_sources_the_corrupt_one_is_struck_out_and_the_model_is_whole(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        ann, ben, bad = await started(stack, tmp_path, 1, 2, 3)
        ann.publish("demo", make_model_directory(tmp_path / "model", large_tensors()))
        await link(ann, bad)
        await bad.pull("demo", bad.peers.find("node-1"))
        bad.transport.handle(BLOB_PROTOCOL, serving(bad, corrupt), access=Access.LINKED)
        await link(ann, ben)
        await link(bad, ben)
        await ben.wait_for("offer", peer=bad.did)
        await ben.pull("demo")
        assert ben.store.verify(DEMO).digest == ann.store.resolve(DEMO).digest


async def test_a_pull_from_a_corrupt_source_alone_names_it_and_leaves_no_name(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        bad, ben = await started(stack, tmp_path, 1, 2)
        bad.publish("demo", make_model_directory(tmp_path / "model", large_tensors()))
        bad.transport.handle(BLOB_PROTOCOL, serving(bad, corrupt), access=Access.LINKED)
        await link(bad, ben)
        with pytest.raises(BlobUnavailable):
            await ben.pull("demo", ben.peers.find("node-1"))
        assert ben.store.refs.get(DEMO) is None


async def test_a_source_killed_in_the_middle_comes_back_and_the_pull_goes_on(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        (ben,) = await started(stack, tmp_path, 2)
        nursery = await stack.enter_async_context(trio.open_nursery())
        ann = ModelNode(tmp_path / "1", 1)
        ann.publish("demo", make_model_directory(tmp_path / "model", large_tensors()))
        size = ann.store.blobs.size(mapped_layer(ann))
        stopping = StopAfterFirstRun(mapped_layer(ann))
        ann.transport.handle(BLOB_PROTOCOL, serving(ann, stopping), access=Access.LINKED)
        kill = await nursery.start(live, ann)
        await link(ann, ben)
        port = ann.port
        async with ben.fetch.pull("demo", ben.peers.find("node-1")) as events:
            seen = []
            async for event in events:
                seen.append(event)
                if stopping.stopped.is_set():
                    await kill()
                if event["status"] == "waiting for node-1":
                    break
            await nursery.start(live, ModelNode(tmp_path / "1", 1, port=port, secrets=ann.secrets))
            seen += [event async for event in events]
        assert seen[-1]["status"] == "success"
        assert isinstance(seen[-1]["bytes_moved"], int)
        assert seen[-1]["bytes_moved"] < 1.2 * size
        assert ben.store.verify(DEMO).size_bytes > 8_000_000
        nursery.cancel_scope.cancel()


async def test_a_puller_that_was_killed_goes_on_with_what_had_arrived(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        (ann,) = await started(stack, tmp_path, 1)
        ann.publish("demo", make_model_directory(tmp_path / "model", large_tensors()))
        stopping = StopAfterFirstRun(mapped_layer(ann))
        ann.transport.handle(BLOB_PROTOCOL, serving(ann, stopping), access=Access.LINKED)
        ben = ModelNode(tmp_path / "2", 2)
        async with ben.running():
            await link(ann, ben)
            async with ben.fetch.pull("demo", ben.peers.find("node-1")) as events:
                async for event in events:
                    if event["status"] == f"pulling {stopping.layer[:12]}" and event["completed"]:
                        break
        ann.transport.handle(BLOB_PROTOCOL, serving(ann, honest), access=Access.LINKED)
        async with ModelNode(tmp_path / "2", 2, secrets=ben.secrets).running() as again:
            done = (await again.pull("demo", again.peers.find("node-1")))[-1]
            assert isinstance(done["bytes_resumed"], int)
            assert isinstance(done["bytes_moved"], int)
            assert done["bytes_resumed"] > 2_000_000
            assert done["bytes_resumed"] + done["bytes_moved"] < 9_000_000
            assert again.store.verify(DEMO).size_bytes > 8_000_000


@pytest.mark.parametrize("who", ["here", "there"])
async def test_unlinking_in_the_middle_ends_the_pull_with_its_name(tmp_path: Path, who: str) -> None:
    async with AsyncExitStack() as stack:
        ann, ben = await started(stack, tmp_path, 1, 2)
        ann.publish("demo", make_model_directory(tmp_path / "model", large_tensors()))
        stopping = StopAfterFirstRun(mapped_layer(ann))
        ann.transport.handle(BLOB_PROTOCOL, serving(ann, stopping), access=Access.LINKED)
        await link(ann, ben)
        one, other = (ben, ann) if who == "here" else (ann, ben)
        with pytest.raises((PeerNotLinked, RemoteRefused)):
            await pull_and_then(ben, stopping, lambda: one.unlink(other))
        assert ben.store.refs.get(DEMO) is None


async def test_a_source_that_stays_away_ends_the_pull_after_its_patience(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        (ann,) = await started(stack, tmp_path, 1)
        ben = await stack.enter_async_context(ModelNode(tmp_path / "2", 2, patience_s=1.5).running())
        ann.publish("demo", make_model_directory(tmp_path / "model", large_tensors()))
        stopping = StopAfterFirstRun(mapped_layer(ann))
        ann.transport.handle(BLOB_PROTOCOL, serving(ann, stopping), access=Access.LINKED)
        await link(ann, ben)

        async def part() -> None:
            ben.contacts.forget(ann.did)
            ann.contacts.forget(ben.did)
            await ben.transport.disconnect(ann.did)

        with pytest.raises(FetchStalled):
            await pull_and_then(ben, stopping, part)


async def test_a_third_node_is_served_what_a_second_one_is_still_fetching(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        ann, ben, cat = await started(stack, tmp_path, 1, 2, 3)
        ann.publish("demo", make_model_directory(tmp_path / "model", large_tensors()))
        layer = mapped_layer(ann)
        stopping = StopAfterFirstRun(layer)
        ann.transport.handle(BLOB_PROTOCOL, serving(ann, stopping), access=Access.LINKED)
        await link(ann, ben)
        await link(ben, cat)
        async with ben.fetch.pull("demo", ben.peers.find("node-1")) as events:
            async for event in events:
                if event["status"] == f"pulling {layer[:12]}" and event["completed"]:
                    break
            have = await ask_have(cat.transport, ben.did, layer)
            assert isinstance(have, HaveSome)
            assert any(have.bitmap)
            chunk_map = ann.store.chunk_map(next(x for x in ann.store.resolve(DEMO).layers if x.digest == layer))
            assert chunk_map is not None
            held = min(decode_bitmap(have.bitmap, len(chunk_map)))
            lacking = min(set(range(len(chunk_map))) - decode_bitmap(have.bitmap, len(chunk_map)))
            async with cat.transport.open(ben.did, BLOB_PROTOCOL) as stream:
                for index in (held, lacking):
                    chunk = chunk_map.chunk(index)
                    await stream.send(encode_read(ReadRequest(layer, chunk.offset, chunk.length)))
                first = chunk_map.chunk(held)
                data = await receive_run(stream, first.length, lambda count: None)
                assert blake3(data).digest() == first.blake3
                with pytest.raises(RemoteRefused) as caught:
                    await receive_run(stream, chunk_map.chunk(lacking).length, lambda count: None)
                assert caught.value.code == "not-found"


async def test_only_blobs_of_offered_models_are_served_and_only_to_linked_peers(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        ann, ben, eve = await started(stack, tmp_path, 1, 2, 3)
        ann.publish("demo", make_model_directory(tmp_path / "model"))
        private = ann.store.blobs.publish_bytes(b"nobody offered this")
        layer = mapped_layer(ann)
        await link(ann, ben)
        await ben.wait_for("offer", name="demo:latest")
        assert await ask_have(ben.transport, ann.did, private) == HaveNone()
        assert await ask_have(ben.transport, ann.did, layer) == HaveComplete(ann.store.blobs.size(layer))
        with pytest.raises(RemoteRefused) as caught:
            await fetch_small(ben.transport, ann.did, private, 19, lambda count: None)
        assert caught.value.code == "not-found"
        eve.knows(ann)
        await eve.transport.dial(ann.did, ann.transport.addresses)
        for asked in (private, layer):
            with pytest.raises(RemoteRefused) as caught:
                await ask_have(eve.transport, ann.did, asked)
            assert caught.value.code == "not-linked"


async def test_a_chunk_that_changed_on_the_disk_is_not_served(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        ann, ben = await started(stack, tmp_path, 1, 2)
        ann.publish("demo", make_model_directory(tmp_path / "model"))
        layer = mapped_layer(ann)
        path = ann.store.layout.blob_path(layer)
        path.chmod(0o600)
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(bytes(content))
        await link(ann, ben)
        await ben.wait_for("offer", name="demo:latest")
        async with ben.transport.open(ann.did, BLOB_PROTOCOL) as stream:
            await stream.send(encode_read(ReadRequest(layer, 0, len(content))))
            with pytest.raises(RemoteRefused):
                await receive_run(stream, len(content), lambda count: None)
        assert not ann.store.blobs.has(layer)
        assert await ask_have(ben.transport, ann.did, layer) == HaveNone()


async def test_names_that_nobody_or_several_publishers_offer(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        ann, ben, cat = await started(stack, tmp_path, 1, 2, 3)
        ann.publish("demo", make_model_directory(tmp_path / "one"))
        cat.publish("demo", make_model_directory(tmp_path / "two", make_tensors(5)))
        await link(ann, ben)
        await link(cat, ben)
        with pytest.raises(ModelNotOffered):
            await ben.pull("nothing", ben.peers.find("node-1"))
        with pytest.raises(OfferAmbiguous):
            await ben.pull("demo")
        await ben.pull("demo", ben.peers.find("node-3"))
        assert ben.store.resolve(DEMO).digest == cat.store.resolve(DEMO).digest


async def test_a_full_disk_is_noticed_before_anything_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with AsyncExitStack() as stack:
        ann, ben = await started(stack, tmp_path, 1, 2)
        ann.publish("demo", make_model_directory(tmp_path / "model"))
        await link(ann, ben)
        await ben.wait_for("offer", name="demo:latest")
        monkeypatch.setattr("store.disk.free_bytes", lambda place: 1000)
        with pytest.raises(DiskFull) as caught:
            await ben.pull("demo", ben.peers.find("node-1"))
        assert caught.value.missing_bytes > 0
        assert list(ben.store.blobs.list()) == []


Tamper = Callable[[ReadRequest, bytes], Awaitable[bytes]]


def serving(node: ModelNode, tamper: Tamper) -> Callable[[PeerStream], Awaitable[None]]:
    """Return a handler of reads that serves whatever `tamper` makes of the right bytes."""

    async def handler(stream: PeerStream) -> None:
        while True:
            request = decode_read(await stream.receive(MAX_REQUEST_BYTES))
            with node.store.blobs.open(request.blob) as file:
                file.seek(request.offset)
                data = await tamper(request, file.read(request.length))
            await stream.send(encode_data_header(len(data)))
            await stream.send_raw(data)

    return handler


async def honest(request: ReadRequest, data: bytes) -> bytes:
    return data


async def corrupt(request: ReadRequest, data: bytes) -> bytes:
    changed = bytearray(data)
    changed[:: 8 * 1024] = bytes(byte ^ 0xFF for byte in changed[:: 8 * 1024])
    return bytes(changed)


class StopAfterFirstRun:
    """Serves everything but the second run of one layer, which never comes."""

    def __init__(self, layer: Digest) -> None:
        self.layer = layer
        self.stopped = trio.Event()
        self._runs = 0

    async def __call__(self, request: ReadRequest, data: bytes) -> bytes:
        self._runs += request.blob == self.layer
        if self._runs > 1:
            self.stopped.set()
            await trio.sleep_forever()
        return data


async def pull_and_then(node: ModelNode, stopping: StopAfterFirstRun, act: Callable[[], Awaitable[None]]) -> None:
    """Pull from the first node and act once, in the middle."""
    acted = False
    async with node.fetch.pull("demo", node.peers.find("node-1")) as events:
        async for _ in events:
            if stopping.stopped.is_set() and not acted:
                acted = True
                await act()


async def live(
    node: ModelNode, *, task_status: trio.TaskStatus[Callable[[], Awaitable[None]]] = trio.TASK_STATUS_IGNORED
) -> None:
    """Run a node until the function that is handed out is called, which cuts all its connections."""
    gone = trio.Event()

    async def kill() -> None:
        scope.cancel()
        await gone.wait()

    with trio.CancelScope() as scope:
        async with node.running():
            task_status.started(kill)
            await trio.sleep_forever()
    gone.set()
