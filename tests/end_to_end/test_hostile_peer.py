"""A linked device that serves what it must not: a real node refuses it by name, keeps nothing of it, and goes on."""

import hashlib
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from blake3 import blake3

from node.cli.exit_codes import ExitCode
from protocol.attestation import Artifact
from protocol.canonical_json import encode_json
from protocol.chunkmap import encode_chunk_map, make_chunk_map
from protocol.codec import decode, encode
from protocol.digest import Digest, digest_of
from protocol.manifest import (
    CONFIG_MEDIA_TYPE,
    WEIGHT,
    Descriptor,
    Layer,
    Manifest,
    encode_manifest,
    pin_chunk_map,
)
from protocol.model_config import ModelConfig, encode_config
from protocol.provenance import MAX_PROVENANCE_BYTES
from tests.end_to_end.attacker import Attacker, attacking, in_thread
from tests.end_to_end.nodes import NodeProcess, started
from tests.end_to_end.refusals import Refusal, check_logs, refused

pytestmark = [pytest.mark.processes, pytest.mark.timeout(120)]

CHUNK_BYTES = 65536


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    with started(tmp_path_factory.mktemp("hostile"), "victim") as (node,):
        yield node
        check_logs(node)


@pytest.fixture
async def attacker(victim: NodeProcess, tmp_path: Path) -> AsyncIterator[Attacker]:
    """A device that is linked for real; after whatever it did, the victim has nothing of it and works."""
    _attackers.append(number := 100 + len(_attackers))
    with trio.fail_after(60):
        async with attacking(victim, tmp_path, number) as attacker:
            yield attacker
            listed = await in_thread(victim.command, "list")
            assert [model["name"] for model in listed["models"]] == ["demo:latest"]
            assert not list((victim.home / "store" / "refs").rglob("evil*"))


_attackers: list[int] = []


def manifest_of(
    weights: bytes, *, named: Digest | None = None, mapped: bool = True, config_blob: bytes = b""
) -> tuple[bytes, dict[Digest, bytes]]:
    """Return a manifest of one weight file and the blobs that it leads to; `named` is the digest it stands under."""
    digest = named or digest_of(weights)
    config = config_blob or encode_config(ModelConfig("qwen3", "safetensors", "64K", "F16"), [digest], weights[0])
    blobs = {digest: weights, digest_of(config): config}
    pin = {}
    if mapped:
        pieces = [weights[start : start + CHUNK_BYTES] for start in range(0, len(weights), CHUNK_BYTES)]
        records = [(blake3(piece).digest(), len(piece)) for piece in pieces]
        chunk_map = encode_chunk_map(make_chunk_map(digest, len(weights), records))
        blobs[digest_of(chunk_map)] = chunk_map
        pin = pin_chunk_map(digest_of(chunk_map), len(chunk_map))
    layer = Layer(digest, len(weights), WEIGHT, "model.safetensors", pin)
    descriptor = Descriptor(digest_of(config), len(config), CONFIG_MEDIA_TYPE)
    return encode_manifest(Manifest(descriptor, (layer,))), blobs


def signed(attacker: Attacker, name: str, manifest: bytes, layer: Digest) -> bytes:
    """Return a bundle whose every signature and proof is right, whatever the manifest is."""
    return attacker.sign_and_log(name, manifest, (Artifact("model.safetensors", layer),))


async def pulled(victim: NodeProcess, attacker: Attacker, code: ExitCode, name: str) -> Refusal:
    """Pull `name`, which must be refused with `code` and the attacker's name, and return how."""
    said: Refusal = await in_thread(refused, victim, code, "pull", name, "--from", attacker.did)
    assert attacker.did in said.message or attacker.nickname in said.message
    return said


def in_full(seed: int) -> bytes:
    """Return two chunks of bytes that no other test uses."""
    return hashlib.shake_256(bytes([seed])).digest(2 * CHUNK_BYTES)


def spoil(bundle: Any, where: str) -> None:
    """Change one signature or proof in a decoded bundle."""
    match where:
        case "sign":
            envelope = json.loads(bundle["sign"]["envelope"])
            signature = envelope["signatures"][0]
            signature["sig"] = ("B" if signature["sig"][0] == "A" else "A") + signature["sig"][1:]
            bundle["sign"]["envelope"] = encode_json(envelope)
        case "checkpoint":
            bundle["checkpoint"] = bundle["checkpoint"][:-12] + b"AAAAAAAAAAA\n"
        case "build":
            bundle["build"]["proof"] = [bytes(32), *bundle["build"]["proof"][1:]]


async def test_bad_signatures_and_proofs_are_refused_by_name(victim: NodeProcess, attacker: Attacker) -> None:
    manifest, blobs = manifest_of(weights := in_full(1))
    places = {"sign": "envelope", "checkpoint": "checkpoint", "build": "build event"}
    for where in places:
        bundle: Any = decode(signed(attacker, f"evil-{where}", manifest, digest_of(weights)), MAX_PROVENANCE_BYTES)
        spoil(bundle, where)
        attacker.offer(f"evil-{where}", digest_of(manifest), encode(bundle), blobs)
    for where, what in places.items():
        said = await pulled(victim, attacker, ExitCode.PROVENANCE_INVALID, f"evil-{where}")
        assert what in said.message
    said = await in_thread(refused, victim, ExitCode.MODEL_NOT_FOUND, "pull", "evil-other", "--from", attacker.did)
    assert "list --peers" in said.hint


async def test_manifests_with_paths_or_digests_that_are_none_are_refused_by_name(
    victim: NodeProcess, attacker: Attacker
) -> None:
    manifest, blobs = manifest_of(weights := in_full(2))
    paths = ["../x", "/etc/passwd", "a/../../x", "a\\..\\x", "x\0y"]
    digests = ["sha256:" + "A" * 64, "sha256:" + "a" * 63, "sha256:../../x", "md5:" + "a" * 32]
    hostile = []
    for path in paths:
        hostile.append(json.loads(manifest))
        hostile[-1]["layers"][0]["annotations"]["org.cncf.model.filepath"] = path
    for digest in digests:
        hostile.append(json.loads(manifest))
        hostile[-1]["layers"][0]["digest"] = digest
    for number, document in enumerate(hostile):
        content = encode_json(document)
        bundle = signed(attacker, f"evil-{number}", content, digest_of(weights))
        attacker.offer(f"evil-{number}", digest_of(content), bundle, blobs)
    for number in range(len(hostile)):
        said = await pulled(victim, attacker, ExitCode.MANIFEST_INVALID, f"evil-{number}")
        assert "layers[0]" in said.message
    assert not list(victim.directory.rglob("x"))


async def test_a_layer_that_does_not_hash_is_refused_by_name(victim: NodeProcess, attacker: Attacker) -> None:
    named = digest_of(b"what was promised")
    manifest, blobs = manifest_of(in_full(3), named=named)
    attacker.offer("evil", digest_of(manifest), signed(attacker, "evil", manifest, named), blobs)
    said = await in_thread(refused, victim, ExitCode.LAYER_CORRUPT, "pull", "evil", "--from", attacker.did)
    assert named[:12] in said.message
    assert not (victim.home / "store" / "blobs" / "sha256" / named).exists()


async def test_a_small_blob_that_does_not_hash_is_refused_by_name(victim: NodeProcess, attacker: Attacker) -> None:
    manifest, blobs = manifest_of(weights := in_full(4), mapped=False)
    config = next(digest for digest, blob in blobs.items() if blob.startswith(b"{"))
    attacker.offer(
        "evil",
        digest_of(manifest),
        signed(attacker, "evil", manifest, digest_of(weights)),
        blobs | {config: bytes(len(blobs[config]))},
    )
    said = await pulled(victim, attacker, ExitCode.LAYER_CORRUPT, "evil")
    assert config[:12] in said.message


async def test_corrupt_chunks_are_refused_and_the_right_ones_finish_the_pull(
    victim: NodeProcess, attacker: Attacker
) -> None:
    manifest, blobs = manifest_of(weights := in_full(5))
    layer = digest_of(weights)
    bundle = signed(attacker, "evil", manifest, layer)
    attacker.offer("evil", digest_of(manifest), bundle, blobs | {layer: weights[:-1] + bytes([weights[-1] ^ 1])})
    said = await pulled(victim, attacker, ExitCode.CHUNK_CORRUPT, "evil")
    assert layer[:12] in said.message
    attacker.offer("evil", digest_of(manifest), bundle, blobs)
    done = await in_thread(victim.command, "pull", "evil", "--from", attacker.did)
    assert done["bytes_resumed"] == CHUNK_BYTES  # the chunk that was right is not fetched again
    assert (await in_thread(victim.command, "verify", "evil"))["publisher"] == attacker.did
    await in_thread(victim.command, "rm", "evil")


async def test_a_model_whose_configuration_cannot_be_read_gets_no_name(victim: NodeProcess, attacker: Attacker) -> None:
    manifest, blobs = manifest_of(weights := in_full(6), config_blob=b"[]")
    attacker.offer("evil", digest_of(manifest), signed(attacker, "evil", manifest, digest_of(weights)), blobs)
    said = await in_thread(refused, victim, ExitCode.MANIFEST_INVALID, "pull", "evil", "--from", attacker.did)
    assert "config" in said.message
    await in_thread(refused, victim, ExitCode.MODEL_NOT_FOUND, "verify", "evil")
