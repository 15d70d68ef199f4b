"""Repairs between real nodes on loopback: only damaged chunks move, from any linked device that has them."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, nullcontext
from pathlib import Path
from typing import Any, cast

import pytest
import trio

from node.errors import RepairIncomplete
from node.peer.repair_sources import Remote
from node.peer.testing import ModelNode, link
from protocol.digest import Digest
from protocol.manifest import Layer
from protocol.model_name import parse_model_name
from protocol.registry import parse_reference
from store.errors import ModelUnknown
from store.partial import PartialLayer
from store.registry.errors import RegistryUnreachable
from store.registry.push import push_model
from store.repair_registry import open_registry, registries_of
from store.testing import make_model_directory, make_tensors
from tests.store.registry import docker_registry

NAME = parse_model_name("demo")


@pytest.fixture(autouse=True)
async def deadline() -> AsyncIterator[None]:
    with trio.fail_after(90):
        yield


async def two_with_the_model(stack: AsyncExitStack, home: Path) -> list[ModelNode]:
    """Return the publisher and a device that has pulled its model, linked."""
    ann = await stack.enter_async_context(ModelNode(home / "1", 1).running())
    ben = await stack.enter_async_context(ModelNode(home / "2", 2, patience_s=3.0).running())
    ann.publish("demo", make_model_directory(home / "model", make_tensors(0, blocks=8, width=720)))
    await link(ann, ben)
    await ben.wait_for("offer", name="demo:latest")
    await ben.pull("demo", ben.peers.find("node-1"))
    return [ann, ben]


async def repair(node: ModelNode, name: str = "demo") -> dict[str, Any]:
    async with node.fetch.repair(name) as events:
        return dict([event async for event in events][-1])


def weights(node: ModelNode) -> Layer:
    layers = node.store.resolve(NAME).layers
    return max((layer for layer in layers if layer.chunk_map), key=lambda layer: layer.size)


def damage(node: ModelNode, digest: Digest, *offsets: int) -> None:
    path = node.store.layout.blob_path(digest)
    path.chmod(0o644)
    with path.open("r+b") as file:
        for offset in offsets:
            file.seek(offset)
            byte = file.read(1)
            file.seek(offset)
            file.write(bytes([byte[0] ^ 0xFF]))


async def test_only_the_damaged_chunks_move(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        _, ben = await two_with_the_model(stack, tmp_path)
        layer = weights(ben)
        chunk_map = ben.store.chunk_map(layer)
        assert chunk_map is not None
        bad = sum(chunk_map.chunk(chunk_map.chunk_at(offset)).length for offset in (100_000, layer.size - 1))
        damage(ben, layer.digest, 100_000, layer.size - 1)
        done = await repair(ben)
        assert done["bad_bytes"] == done["moved_bytes"] == bad
        (repaired,) = done["repaired"]
        assert repaired["sources"] == ["node-1"]
        assert repaired["file"] == layer.filepath
        assert ben.store.verify(NAME).size_bytes > 0
        assert not list(ben.store.layout.quarantine.iterdir())
        assert (await repair(ben))["repaired"] == []


async def test_every_kind_of_blob_is_put_right(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        _, ben = await two_with_the_model(stack, tmp_path)
        model, layer = ben.store.resolve(NAME), weights(ben)
        pin = layer.chunk_map
        assert pin is not None
        for digest in (model.digest, model.manifest.config.digest, pin.digest, layer.digest):
            damage(ben, digest, 20)
        done = await repair(ben)
        found = {repaired["file"]: repaired for repaired in done["repaired"]}
        assert found.keys() == {"manifest", "config", f"chunk map of {layer.filepath}", layer.filepath}
        assert found["manifest"]["local_bytes"] > 0  # it stands in the provenance that is kept here
        assert found["config"]["sources"] == ["node-1"]
        ben.store.verify(NAME)


async def test_a_manifest_without_its_provenance_comes_from_who_offers_the_model(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        _, ben = await two_with_the_model(stack, tmp_path)
        digest = ben.store.resolve(NAME).digest
        ben.store.provenance.remove(digest)
        damage(ben, digest, 20)
        done = await repair(ben)
        assert [repaired["sources"] for repaired in done["repaired"]] == [["node-1"]]
        ben.store.verify(NAME)


async def test_a_third_device_that_pulled_it_helps_the_publisher(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        ann, ben = await two_with_the_model(stack, tmp_path)
        layer = weights(ann)
        damage(ann, layer.digest, 100_000)
        done = await repair(ann)
        assert done["repaired"][0]["sources"] == ["node-2"]
        ann.store.verify(NAME)
        assert ben.store.verify(NAME)


async def test_with_the_device_gone_it_says_who_has_it_and_what_is_missing(tmp_path: Path) -> None:
    async with ModelNode(tmp_path / "2", 2, patience_s=1.5).running() as ben:
        async with ModelNode(tmp_path / "1", 1).running() as ann:
            ann.publish("demo", make_model_directory(tmp_path / "model", make_tensors(0, blocks=8, width=720)))
            await link(ann, ben)
            await ben.wait_for("offer", name="demo:latest")
            await ben.pull("demo", ben.peers.find("node-1"))
        layer = weights(ben)
        damage(ben, layer.digest, 100_000)
        with pytest.raises(RepairIncomplete, match="node-1 has the model and cannot be reached") as caught:
            await repair(ben)
        assert 0 < caught.value.missing_bytes <= 128 * 1024
        assert "verify demo:latest --repair" in caught.value.hint
        # What was right is kept, so that the next repair asks for the rest alone.
        with pytest.raises(RepairIncomplete) as again:
            await repair(ben)
        assert again.value.missing_bytes == caught.value.missing_bytes


async def test_from_the_registry_that_it_came_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks by Range, small blobs whole, and a layer that is too large for memory as a stream."""
    if not docker_registry.is_installed():
        pytest.skip(f"needs docker-registry: {docker_registry.NEEDED}")
    with docker_registry.open_registry(tmp_path / "registry") as registry:
        async with ModelNode(tmp_path / "2", 2).running() as ben:
            ben.publish("demo", make_model_directory(tmp_path / "model", make_tensors(0, blocks=8, width=720)))
            reference = parse_reference(f"{registry.host}/ann/demo:v1")
            push_model(ben.store, ben.store.resolve(NAME), reference, report=lambda _: None)
            ben.store.refs.set(parse_model_name("here"), ben.store.resolve(NAME).digest, source=f"registry {reference}")
            assert registries_of(ben.store, parse_model_name("here")) == [reference]
            layer, model = weights(ben), ben.store.resolve(NAME)
            config = model.manifest.layer("config.json")
            assert config is not None
            monkeypatch.setattr("node.peer.repair.MAX_WHOLE_BYTES", config.size - 1)
            for digest in (layer.digest, config.digest, model.manifest.layers[0].digest):
                damage(ben, digest, 3)
            registry.forget()
            async with ben.fetch.repair("here", lambda _: [open_registry(reference, None, lambda: None)]) as events:
                done: dict[str, Any] = [event async for event in events][-1]
            assert {source for one in done["repaired"] for source in one["sources"]} == {f"registry {reference}"}
            assert done["moved_bytes"] < layer.size // 4
            assert registry.requests("GET", config.digest)
            ben.store.verify(NAME)


class Giver:
    """A registry that has the model's weights, and breaks off after so many chunks."""

    def __init__(self, label: str, content: bytes, chunks: int) -> None:
        self.label = label
        self._content = content
        self._chunks = chunks

    def fill(self, partial: PartialLayer, left: Callable[[int], None]) -> int:
        moved = 0
        for number, index in enumerate(partial.missing()):
            if number == self._chunks:
                raise RegistryUnreachable(self.label, "the line was lost")
            chunk = partial.chunk_map.chunk(index)
            partial.write_chunk(index, self._content[chunk.offset : chunk.offset + chunk.length])
            moved += chunk.length
        return moved


async def test_what_came_from_a_registry_that_broke_off_is_counted(tmp_path: Path) -> None:
    async with ModelNode(tmp_path / "1", 1).running() as ann:
        ann.publish("demo", make_model_directory(tmp_path / "model", make_tensors(0, blocks=8, width=720)))
        layer = weights(ann)
        content = ann.store.layout.blob_path(layer.digest).read_bytes()
        damage(ann, layer.digest, 100_000, layer.size // 2, layer.size - 1)
        givers = [Giver("first", content, 1), Giver("second", content, 99)]
        async with ann.fetch.repair("demo", lambda _: [nullcontext(cast(Remote, giver)) for giver in givers]) as events:
            done: dict[str, Any] = [event async for event in events][-1]
        assert done["moved_bytes"] == done["bad_bytes"] > 0
        assert done["repaired"][0]["sources"] == ["first", "second"]
        ann.store.verify(NAME)


async def test_without_anybody_who_has_it(tmp_path: Path) -> None:
    async with ModelNode(tmp_path / "1", 1).running() as ann:
        ann.publish("demo", make_model_directory(tmp_path / "model", make_tensors(0, blocks=8, width=720)))
        damage(ann, weights(ann).digest, 100_000)
        with pytest.raises(RepairIncomplete, match="no linked device that has it is known"):
            await repair(ann)
        with pytest.raises(ModelUnknown):
            await repair(ann, "nosuch")
