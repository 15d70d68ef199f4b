import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from identity.did import (
    DeviceId,
    did_document,
    did_of_peer_id,
    format_did,
    key_agreement_of,
    parse_did,
    peer_id_of,
    public_key_of,
    short_did,
)
from identity.errors import DidInvalid
from identity.keys import DeviceKey
from identity.testing import key_from_number

VECTORS = Path(__file__).parents[2] / "specs" / "vectors" / "0001-identity"
GOOD = json.loads((VECTORS / "did-key.json").read_text())
REFUSED = json.loads((VECTORS / "did-refused.json").read_text())


@pytest.mark.parametrize("case", GOOD, ids=lambda case: case["output"]["did"][-6:])
def test_published_vectors(case: dict[str, Any]) -> None:
    did = DeviceKey(bytes.fromhex(case["input"]["seed"])).did
    assert did == case["output"]["did"]
    assert key_agreement_of(did) == case["output"]["key_agreement"]
    assert peer_id_of(did) == case["output"]["peer_id"]
    assert parse_did(did) == did
    assert did_of_peer_id(peer_id_of(did)) == did
    assert format_did(public_key_of(did)) == did


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case["comment"][:40])
def test_refused_vectors(case: dict[str, Any]) -> None:
    assert case["expect"] == "DidInvalid"
    with pytest.raises(DidInvalid) as caught:
        parse_did(case["input"]["did"])
    assert caught.value.hint


def test_a_refused_did_is_refused_again() -> None:
    for _ in range(2):
        with pytest.raises(DidInvalid):
            parse_did("did:web:example.com")


def test_the_peer_id_is_the_one_that_libp2p_derives() -> None:
    # A foreign spelling of the same multihash: base58 of the protobuf of the public key.
    did = key_from_number(5).did
    assert peer_id_of(did).startswith("12D3KooW")
    assert len(peer_id_of(did)) == 52


@pytest.mark.parametrize("peer_id", ["", "12D3KooW", "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N", "1" * 52, "é"])
def test_other_peer_ids_are_refused(peer_id: str) -> None:
    with pytest.raises(DidInvalid):
        did_of_peer_id(peer_id)


def test_the_short_form_keeps_both_ends() -> None:
    assert short_did(key_from_number(2).did) == "did:key:z6Mk…Sdxf"


def test_the_document_holds_multikeys() -> None:
    did = key_from_number(1).did
    document: Any = did_document(did)
    assert document["id"] == did
    assert document["verificationMethod"][0]["publicKeyMultibase"] == did.removeprefix("did:key:")
    assert document["verificationMethod"][0]["type"] == "Multikey"
    assert document["keyAgreement"][0]["publicKeyMultibase"] == key_agreement_of(did)
    assert document["authentication"] == [document["verificationMethod"][0]["id"]]
    assert json.loads(json.dumps(document)) == document


@given(st.binary(min_size=32, max_size=32))
@settings(max_examples=50)
def test_every_key_that_can_be_made_has_one_name(seed: bytes) -> None:
    key = DeviceKey(seed)
    assert public_key_of(parse_did(key.did)) == key.public_key
    assert did_of_peer_id(peer_id_of(key.did)) == key.did


@given(st.text(max_size=100).map(lambda text: "did:key:z6Mk" + text))
def test_only_named_errors_leave_the_parser(text: str) -> None:
    try:
        assert parse_did(text) == DeviceId(text)
    except DidInvalid:
        return
