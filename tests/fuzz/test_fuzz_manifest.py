"""Hostile bytes into the manifest and config parsers: only the named error comes out."""

import json
from contextlib import suppress

from hypothesis import given
from hypothesis import strategies as st

from protocol.digest import digest_of
from protocol.errors import ManifestInvalid
from protocol.manifest import CONFIG_MEDIA_TYPE, WEIGHT, Descriptor, Layer, Manifest, encode_manifest, parse_manifest
from protocol.model_config import parse_config

VALID = encode_manifest(
    Manifest(
        Descriptor(digest_of(b"c"), 1, CONFIG_MEDIA_TYPE), (Layer(digest_of(b"w"), 2, WEIGHT, "model.safetensors"),)
    )
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)


@given(st.binary(max_size=300))
def test_any_bytes(data: bytes) -> None:
    with suppress(ManifestInvalid):
        parse_manifest(data)
    with suppress(ManifestInvalid):
        parse_config(data)


@given(st.integers(0, len(VALID) - 1), st.binary(min_size=1, max_size=8))
def test_a_manifest_with_bytes_changed(position: int, change: bytes) -> None:
    with suppress(ManifestInvalid):
        parse_manifest(VALID[:position] + change + VALID[position + len(change) :])


@given(st.sampled_from(["schemaVersion", "config", "layers", "annotations", "digest", "size", "mediaType"]), values)
def test_a_manifest_with_a_field_changed(key: str, value: object) -> None:
    document = json.loads(VALID)
    for place in (document, document["config"], document["layers"][0]):
        if key in place:
            place[key] = value
    with suppress(ManifestInvalid):
        parsed = parse_manifest(json.dumps(document).encode())
        assert parse_manifest(encode_manifest(parsed)) == parsed
