"""The index of a bundle: one spelling, one signer, no paths."""

import json
from pathlib import Path
from typing import Any

import pytest

from identity.keys import DeviceKey
from protocol.bundle import (
    MAX_INDEX_BYTES,
    CarriedLog,
    decode_index,
    decode_log,
    encode_index,
    encode_log,
    open_index,
    sign_index,
)
from protocol.checkpoint import sign_checkpoint
from protocol.dsse import IN_TOTO, open_envelope
from protocol.errors import BundleInvalid, EnvelopeInvalid
from protocol.tlog import EMPTY_ROOT, leaf_hash

VECTORS = Path(__file__).parents[2] / "specs" / "vectors" / "0026-bundle"
CASES = json.loads((VECTORS / "indexes.json").read_text())
KEY = DeviceKey(bytes(range(32)))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["comment"])
def test_index_vectors(case: dict[str, Any]) -> None:
    index, signature = case["input"]["index"].encode(), case["input"]["signature"].encode()
    if case["expect"] == "ok":
        found = open_index(index, signature)
        assert encode_index(found) == index
        assert sign_index(KEY, index) == signature
        return
    with pytest.raises(BundleInvalid):
        open_index(index, signature)


def test_the_signature_counts_for_bundles_alone() -> None:
    index = CASES[0]["input"]["index"].encode()
    with pytest.raises(EnvelopeInvalid):
        open_envelope(sign_index(KEY, index), KEY.did, IN_TOTO)


def test_an_index_over_the_cap_is_not_parsed() -> None:
    with pytest.raises(BundleInvalid, match="16777217 bytes"):
        decode_index(b"[" * (MAX_INDEX_BYTES + 1))


def test_a_carried_log_comes_back() -> None:
    note = sign_checkpoint(KEY, 0, EMPTY_ROOT)
    log = CarriedLog(KEY.did, note, (leaf_hash(b"a"), leaf_hash(b"b")))
    assert decode_log(encode_log(log)) == log


@pytest.mark.parametrize("content", [b"", b"\xc0", encode_log(CarriedLog(KEY.did, b"x", ()))[:-1]])
def test_what_is_no_log(content: bytes) -> None:
    with pytest.raises(BundleInvalid):
        decode_log(content)
