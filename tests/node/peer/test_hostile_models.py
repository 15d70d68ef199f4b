"""Linked peers that offer models made to harm: everything is refused by name, before memory or disk is spent on it."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio
from blake3 import blake3

from node.errors import LayerTooLarge, OfferRefused
from node.peer.intake import Claim
from node.peer.testing import ModelNode, link
from protocol.attestation import Artifact
from protocol.canonical_json import decode_json, encode_json
from protocol.chunkmap import encode_chunk_map, make_chunk_map
from protocol.digest import Digest, digest_of
from protocol.errors import ChunkMapInvalid, ManifestInvalid
from protocol.manifest import DOC, WEIGHT, Descriptor, Layer, Manifest, encode_manifest, parse_manifest, pin_chunk_map
from protocol.model_name import parse_model_name
from store.errors import LayerCorrupt
from store.provenance import publish_model
from store.testing import make_model_directory

DEMO = parse_model_name("demo")
NOTHING = digest_of(b"")


@pytest.fixture(autouse=True)
async def deadline() -> AsyncIterator[None]:
    with trio.fail_after(60):
        yield


@pytest.fixture
async def nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[ModelNode, ModelNode]]:
    """A publisher whose store does not check what it is made to name, and an honest node."""
    async with AsyncExitStack() as stack:
        eve, ben = [await stack.enter_async_context(ModelNode(tmp_path / str(n), n).running()) for n in (1, 2)]
        monkeypatch.setattr(eve.store.refs, "_require_complete", lambda manifest: 1)
        await link(eve, ben)
        yield eve, ben


@dataclass(frozen=True)
class Record:
    """A build record that says nothing."""

    sources: tuple[Artifact, ...] = ()
    external_parameters: dict[str, str] = None  # type: ignore[assignment]  # set below, frozen
    tool_versions: dict[str, str] = None  # type: ignore[assignment]  # set below, frozen


def publish(eve: ModelNode, manifest: bytes) -> bytes:
    return publish_model(
        blobs=eve.store.blobs,
        refs=eve.store.refs,
        log=eve.log,
        key=eve.key,
        name=DEMO,
        manifest=eve.store.blobs.publish_bytes(manifest),
        build=Record((), {"modelfile": ""}, {"program": "eve"}),
        now_s=1_700_000_000,
        entropy=bytes,
    )


def model(eve: ModelNode, *layers: Layer) -> bytes:
    config = eve.store.blobs.publish_bytes(b"{}")
    return encode_manifest(Manifest(Descriptor(config, 2, "application/vnd.cncf.model.config.v1+json"), layers))


async def test_a_large_layer_without_a_chunk_map_is_not_even_begun(nodes: tuple[ModelNode, ModelNode]) -> None:
    eve, ben = nodes
    publish(eve, model(eve, Layer(digest_of(b"huge"), 1 << 40, DOC, "README.md")))
    with pytest.raises(LayerTooLarge):
        await ben.pull("demo", ben.peers.find("node-1"))
    assert list(ben.store.blobs.list()) == []


async def test_a_chunk_map_of_another_size_is_refused(nodes: tuple[ModelNode, ModelNode]) -> None:
    eve, ben = nodes
    content = bytes(100_000)
    layer = eve.store.blobs.publish_bytes(content)
    chunk_map = encode_chunk_map(make_chunk_map(layer, len(content), [(blake3(content).digest(), len(content))]))
    pinned = eve.store.blobs.publish_bytes(chunk_map)
    pin = pin_chunk_map(pinned, len(chunk_map))
    publish(eve, model(eve, Layer(layer, 10 * len(content), WEIGHT, "model.safetensors", pin)))
    with pytest.raises(ChunkMapInvalid):
        await ben.pull("demo", ben.peers.find("node-1"))
    assert ben.store.refs.get(DEMO) is None


async def test_a_chunk_map_that_lies_costs_one_fetch_and_leaves_nothing(nodes: tuple[ModelNode, ModelNode]) -> None:
    eve, ben = nodes
    content, claimed = bytes(100_000), digest_of(b"what the layer should be")
    eve.store.layout.blob_path(claimed).write_bytes(content)
    chunk_map = encode_chunk_map(make_chunk_map(claimed, len(content), [(blake3(content).digest(), len(content))]))
    pinned = eve.store.blobs.publish_bytes(chunk_map)
    publish(
        eve,
        model(eve, Layer(claimed, len(content), WEIGHT, "model.safetensors", pin_chunk_map(pinned, len(chunk_map)))),
    )
    with pytest.raises(LayerCorrupt):
        await ben.pull("demo", ben.peers.find("node-1"))
    assert not ben.store.blobs.has(claimed)
    assert not ben.store.layout.partial_path(claimed).exists()
    assert ben.store.refs.get(DEMO) is None


@pytest.mark.parametrize(
    ("path", "size"), [("../x", 1), ("/etc/passwd", 1), ("a/../../b", 1), ("model.safetensors", 1 << 60)]
)
async def test_a_manifest_with_a_hostile_path_or_size_is_no_offer(
    nodes: tuple[ModelNode, ModelNode], monkeypatch: pytest.MonkeyPatch, path: str, size: int
) -> None:
    eve, ben = nodes
    document = decode_json(model(eve, Layer(NOTHING, 0, DOC, "README.md")), 10_000, "manifest")
    assert isinstance(document, dict)
    layer = document["layers"][0]
    layer["annotations"] = {"org.cncf.model.filepath": path}
    layer["size"] = size
    hostile = encode_json(document)
    with pytest.raises(ManifestInvalid):
        parse_manifest(hostile)
    honest = eve.publish("demo", make_model_directory(eve.store.layout.root.parent / "model"))
    manifest = eve.store.resolve(DEMO).manifest
    forged = honest.replace(encode_manifest(manifest), hostile)
    assert forged != honest

    async def fetch_bundle(peer: str, digest: Digest, bundle: Digest) -> bytes:
        return forged

    monkeypatch.setattr(ben.gossip.intake, "fetch_bundle", fetch_bundle)
    claim = Claim(eve.did, eve.did, DEMO, digest_of(hostile), digest_of(forged))
    with pytest.raises(OfferRefused):
        await ben.gossip.intake.accept(claim)
