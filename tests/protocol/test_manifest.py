"""Manifests: every vector; what is written is canonical and reads back."""

import json
from pathlib import Path
from typing import Any

import pytest

from protocol.digest import Digest, digest_of
from protocol.errors import ManifestInvalid
from protocol.manifest import (
    CHUNK_MAP,
    CONFIG_MEDIA_TYPE,
    CREATED,
    MAX_LAYERS,
    MAX_MANIFEST_BYTES,
    WEIGHT,
    WEIGHT_CONFIG,
    Descriptor,
    Layer,
    Manifest,
    encode_manifest,
    format_time,
    parse_manifest,
    pin_chunk_map,
)

VECTORS = Path(__file__).parents[2] / "specs" / "vectors" / "0007-manifest"
ACCEPTED = json.loads((VECTORS / "accepted.json").read_text())
REFUSED = json.loads((VECTORS / "refused.json").read_text())

CONFIG = Descriptor(digest_of(b"config"), 5, CONFIG_MEDIA_TYPE)


def _layer(path: str, content: bytes = b"w", **annotations: str) -> Layer:
    return Layer(digest_of(content), len(content), WEIGHT, path, annotations)


@pytest.mark.parametrize("case", ACCEPTED, ids=lambda case: case["comment"])
def test_accepted_vectors(case: dict[str, Any]) -> None:
    data = case["input"].encode()
    manifest = parse_manifest(data)
    assert digest_of(data) == case["digest"]
    found = [[x.filepath, x.digest, x.size, x.chunk_map.digest if x.chunk_map else None] for x in manifest.layers]
    assert found == case["layers"]
    assert [blob.digest for blob in manifest.blobs()] == case["blobs"]


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case["comment"])
def test_refused_vectors(case: dict[str, Any]) -> None:
    text = case["input"]
    data = text["repeat"] * text["times"] if isinstance(text, dict) else text
    with pytest.raises(ManifestInvalid) as caught:
        parse_manifest(data.encode())
    assert caught.value.where == case["where"]


def test_what_is_written_reads_back() -> None:
    map_digest = digest_of(b"map")
    weight = Layer(digest_of(b"w"), 1, WEIGHT, "model.safetensors", pin_chunk_map(map_digest, 136))
    config = Layer(digest_of(b"cc"), 2, WEIGHT_CONFIG, "config.json")
    manifest = Manifest(CONFIG, (config, weight), {CREATED: format_time(0)})
    data = encode_manifest(manifest)
    assert parse_manifest(data) == manifest
    assert encode_manifest(parse_manifest(data)) == data
    assert b"1970-01-01T00:00:00Z" in data
    assert weight.chunk_map == Descriptor(map_digest, 136, CHUNK_MAP)
    assert config.chunk_map is None
    assert manifest.layer("config.json") == config
    assert manifest.layer("nothing") is None


def test_the_order_of_blobs_is_the_order_of_publishing() -> None:
    weight = Layer(digest_of(b"w"), 1, WEIGHT, "a", pin_chunk_map(digest_of(b"map"), 136))
    manifest = Manifest(CONFIG, (weight, _layer("b")))
    assert [blob.digest for blob in manifest.blobs()] == [digest_of(b"map"), CONFIG.digest, weight.digest]
    assert manifest.size_bytes == 5 + 1


def test_a_manifest_that_would_be_refused_is_not_written() -> None:
    with pytest.raises(ManifestInvalid):
        encode_manifest(Manifest(CONFIG, (_layer("../x"),)))
    with pytest.raises(ManifestInvalid):
        encode_manifest(Manifest(CONFIG, (_layer("a"), _layer("A"))))


def test_limits_hold_before_anything_is_built() -> None:
    layers = tuple(_layer(f"f{number}") for number in range(MAX_LAYERS + 1))
    with pytest.raises(ManifestInvalid, match="4097 layers"):
        encode_manifest(Manifest(CONFIG, layers))
    with pytest.raises(ManifestInvalid, match="at most"):
        parse_manifest(b" " * (MAX_MANIFEST_BYTES + 1))


def test_half_a_surrogate_pair_is_no_file_name() -> None:
    data = encode_manifest(Manifest(CONFIG, (_layer("name"),))).replace(b'"name"', b'"\\ud800"')
    with pytest.raises(ManifestInvalid, match="not text"):
        parse_manifest(data)


def test_a_digest_put_together_by_hand_is_checked_when_written() -> None:
    with pytest.raises(ManifestInvalid):
        encode_manifest(Manifest(Descriptor(Digest("../x"), 1, CONFIG_MEDIA_TYPE), (_layer("a"),)))
