import base64
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from identity.testing import key_from_number
from protocol.codec import decode, encode
from protocol.digest import digest_of
from protocol.errors import ProvenanceInvalid
from protocol.provenance import (
    MAX_PROVENANCE_BYTES,
    decode_and_verify_provenance,
    encode_provenance,
)
from protocol.testing import MemoryLog, publish_in_memory, small_manifest

VECTORS = Path(__file__).parents[2] / "specs" / "vectors" / "0004-attestation-and-provenance"
CASES = json.loads((VECTORS / "provenance.json").read_text())
KEY = key_from_number(1)
MANIFEST = small_manifest()


def bundle(before: int = 5) -> bytes:
    return publish_in_memory(MemoryLog(KEY, [b"%d" % n for n in range(before)]), "demo:v1", MANIFEST)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["comment"])
def test_vectors(case: dict[str, Any]) -> None:
    data = base64.b64decode(case["input"]["bundle"])
    if case["expect"] == "ok":
        provenance = decode_and_verify_provenance(data)
        assert provenance.publisher == case["output"]["publisher"]
        assert provenance.name == case["output"]["name"]
        assert provenance.manifest_digest == case["output"]["manifest"]
        assert provenance.log_size == case["output"]["log_size"]
    else:
        with pytest.raises(ProvenanceInvalid):
            decode_and_verify_provenance(data)


@pytest.mark.parametrize("before", [0, 1, 5, 6, 254, 255])
def test_a_bundle_says_everything(before: int) -> None:
    provenance = decode_and_verify_provenance(bundle(before))
    assert (provenance.publisher, provenance.name) == (KEY.did, "demo:v1")
    assert (provenance.manifest, provenance.manifest_digest) == (MANIFEST, digest_of(MANIFEST))
    assert (provenance.build.index, provenance.sign.index) == (before, before + 1)
    assert provenance.log_size == before + 2
    assert provenance.build_statement.layers == provenance.sign_statement.layers
    assert provenance.build_statement.salt != provenance.sign_statement.salt


def test_the_bytes_are_canonical() -> None:
    data = bundle()
    provenance = decode_and_verify_provenance(data)
    again = encode_provenance(
        provenance.publisher,
        provenance.name,
        provenance.manifest,
        provenance.build,
        provenance.sign,
        provenance.checkpoint,
    )
    assert again == data


def test_no_changed_byte_is_accepted() -> None:
    data = bundle(0)
    for position in range(len(data)):
        changed = bytearray(data)
        changed[position] ^= 1
        with pytest.raises(ProvenanceInvalid):
            decode_and_verify_provenance(bytes(changed))


@pytest.mark.parametrize("length", [0, 1, 100, -1])
def test_a_cut_bundle_is_refused(length: int) -> None:
    with pytest.raises(ProvenanceInvalid):
        decode_and_verify_provenance(bundle()[:length])


def test_the_size_is_checked_first() -> None:
    with pytest.raises(ProvenanceInvalid) as caught:
        decode_and_verify_provenance(bytes(MAX_PROVENANCE_BYTES + 1))
    assert str(MAX_PROVENANCE_BYTES) in str(caught.value)


def test_parts_of_two_publications_do_not_mix() -> None:
    """Each part is validly signed; only together they lie."""
    log = MemoryLog(KEY)
    one = decode_and_verify_provenance(publish_in_memory(log, "demo:v1", MANIFEST))
    other = decode_and_verify_provenance(publish_in_memory(log, "demo:v2", small_manifest(b"others")))
    theirs = decode_and_verify_provenance(publish_in_memory(MemoryLog(key_from_number(2)), "demo:v1", MANIFEST))
    for changed in [
        dataclasses.replace(one, name="demo:v2"),
        dataclasses.replace(one, manifest=other.manifest),
        dataclasses.replace(one, build=other.build),
        dataclasses.replace(one, sign=other.sign),
        dataclasses.replace(one, build=one.sign, sign=one.build),
        dataclasses.replace(one, checkpoint=other.checkpoint),
        dataclasses.replace(other, checkpoint=one.checkpoint),
        dataclasses.replace(one, publisher=theirs.publisher),
        dataclasses.replace(one, checkpoint=theirs.checkpoint),
        dataclasses.replace(one, build=theirs.build, sign=theirs.sign),
        dataclasses.replace(theirs, publisher=one.publisher, checkpoint=one.checkpoint),
        dataclasses.replace(one, build=dataclasses.replace(one.build, index=1)),
        dataclasses.replace(one, build=dataclasses.replace(one.build, proof=one.sign.proof)),
    ]:
        with pytest.raises(ProvenanceInvalid):
            encode_provenance(
                changed.publisher, changed.name, changed.manifest, changed.build, changed.sign, changed.checkpoint
            )


@pytest.mark.parametrize(
    "name", ["", "Demo:v1", "demo", "local/library/demo:v1", "../x:v1", "demo:v1\u202e", "a" * 400]
)
def test_a_name_in_another_spelling_is_refused(name: str) -> None:
    document: Any = decode(bundle(), MAX_PROVENANCE_BYTES)
    document["name"] = name
    with pytest.raises(ProvenanceInvalid):
        decode_and_verify_provenance(encode(document))
