"""The tree: published vectors, a slow reference beside the fast code, and brute force over small sizes."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from identity.testing import key_from_number
from protocol.errors import ConsistencyInvalid, InclusionInvalid
from protocol.testing import MemoryLog
from protocol.tlog import (
    EMPTY_ROOT,
    check_consistency,
    check_inclusion,
    implied_roots,
    leaf_hash,
    prove_consistency,
    prove_inclusion,
    tree_root,
)

VECTORS = Path(__file__).parents[2] / "specs" / "vectors" / "0003-log"
INCLUSION = json.loads((VECTORS / "inclusion.json").read_text())
CONSISTENCY = json.loads((VECTORS / "consistency.json").read_text())
SIZES = 34
LOG = MemoryLog(key_from_number(1), [bytes([n]) for n in range(SIZES)])


def slow_root(entries: list[bytes]) -> bytes:
    """RFC 9162 §2.1.1, word for word."""
    if not entries:
        return hashlib.sha256(b"").digest()
    if len(entries) == 1:
        return hashlib.sha256(b"\x00" + entries[0]).digest()
    k = 1
    while k * 2 < len(entries):
        k *= 2
    return hashlib.sha256(b"\x01" + slow_root(entries[:k]) + slow_root(entries[k:])).digest()


def slow_path(m: int, entries: list[bytes]) -> list[bytes]:
    """RFC 9162 §2.1.3.1, word for word."""
    if len(entries) == 1:
        return []
    k = 1
    while k * 2 < len(entries):
        k *= 2
    if m < k:
        return [*slow_path(m, entries[:k]), slow_root(entries[k:])]
    return [*slow_path(m - k, entries[k:]), slow_root(entries[:k])]


def slow_subproof(m: int, entries: list[bytes], complete: bool = True) -> list[bytes]:
    """RFC 9162 §2.1.4.1, word for word."""
    if m == len(entries):
        return [] if complete else [slow_root(entries)]
    k = 1
    while k * 2 < len(entries):
        k *= 2
    if m <= k:
        return [*slow_subproof(m, entries[:k], complete), slow_root(entries[k:])]
    return [*slow_subproof(m - k, entries[k:], False), slow_root(entries[:k])]


@pytest.mark.parametrize("case", INCLUSION, ids=lambda case: case["comment"].split(", ")[1][:40])
def test_inclusion_vectors(case: dict[str, Any]) -> None:
    given_ = case["input"]
    proof = [bytes.fromhex(text) for text in given_["proof"]]
    arguments = (
        bytes.fromhex(given_["leaf_hash"]),
        given_["index"],
        given_["size"],
        proof,
        bytes.fromhex(given_["root"]),
    )
    if case["expect"] == "ok":
        check_inclusion(*arguments)
    else:
        with pytest.raises(InclusionInvalid):
            check_inclusion(*arguments)


@pytest.mark.parametrize("case", CONSISTENCY, ids=lambda case: case["comment"])
def test_consistency_vectors(case: dict[str, Any]) -> None:
    given_ = case["input"]
    proof = [bytes.fromhex(text) for text in given_["proof"]]
    arguments = (
        given_["old"],
        bytes.fromhex(given_["old_root"]),
        given_["new"],
        bytes.fromhex(given_["new_root"]),
        proof,
    )
    if case["expect"] == "ok":
        check_consistency(*arguments)
    else:
        with pytest.raises(ConsistencyInvalid):
            check_consistency(*arguments)


@pytest.mark.parametrize("size", range(SIZES + 1))
def test_roots_and_proofs_equal_the_reference(size: int) -> None:
    entries = LOG.entries[:size]
    root = tree_root(size, LOG.read)
    assert root == slow_root(entries)
    for index in range(size):
        proof = prove_inclusion(index, size, LOG.read)
        assert proof == slow_path(index, entries)
        check_inclusion(leaf_hash(entries[index]), index, size, proof, root)
    for old in range(size + 1):
        proof = prove_consistency(old, size, LOG.read)
        assert proof == (slow_subproof(old, entries) if old else [])
        check_consistency(old, slow_root(entries[:old]), size, root, proof)


@pytest.mark.parametrize("size", range(1, 18))
def test_every_other_claim_is_refused(size: int) -> None:
    root = LOG.root(size)
    for index in range(size):
        proof = LOG.inclusion(index, size)
        for other_index, other_size, leaf in [
            *((i, size, index) for i in range(size) if i != index),
            *((index, size, i) for i in range(size) if i != index),
        ]:
            with pytest.raises(InclusionInvalid):
                check_inclusion(leaf_hash(LOG.entries[leaf]), other_index, other_size, proof, root)
        for position, each in enumerate(proof):
            flipped = bytes([each[0] ^ 1]) + each[1:]
            changed = [*proof[:position], flipped, *proof[position + 1 :]]
            with pytest.raises(InclusionInvalid):
                check_inclusion(leaf_hash(LOG.entries[index]), index, size, changed, root)


@pytest.mark.parametrize("old", range(1, 17))
def test_a_tampered_consistency_proof_is_refused(old: int) -> None:
    for new in range(old + 1, 18):
        proof = LOG.consistency(old, new)
        for position, each in enumerate(proof):
            changed = [*proof[:position], bytes([each[0] ^ 1]) + each[1:], *proof[position + 1 :]]
            with pytest.raises(ConsistencyInvalid):
                check_consistency(old, LOG.root(old), new, LOG.root(new), changed)


def test_the_empty_tree_is_the_beginning_of_every_tree() -> None:
    check_consistency(0, EMPTY_ROOT, 9, LOG.root(9), [])
    with pytest.raises(ConsistencyInvalid):
        check_consistency(0, LOG.root(1), 9, LOG.root(9), [])
    with pytest.raises(ConsistencyInvalid):
        check_consistency(0, EMPTY_ROOT, 9, LOG.root(9), [bytes(32)])


def test_one_size_has_one_root() -> None:
    check_consistency(9, LOG.root(9), 9, LOG.root(9), [])
    with pytest.raises(ConsistencyInvalid):
        check_consistency(9, LOG.root(9), 9, LOG.root(8), [])


@given(
    st.integers(-2, 2**63 + 1), st.integers(-2, 2**63 + 1), st.lists(st.binary(min_size=30, max_size=33), max_size=70)
)
@settings(max_examples=200)
def test_only_named_errors_leave_the_checks(a: int, b: int, proof: list[bytes]) -> None:
    with pytest.raises(InclusionInvalid):
        check_inclusion(bytes(32), a, b, [*proof, bytes(31)], bytes(32))
    try:
        implied_roots(a, bytes(32), b, bytes(32), proof)
    except ConsistencyInvalid:
        return


def test_a_proof_in_the_largest_tree_has_63_hashes_and_takes_no_time() -> None:
    size = 2**63 - 1
    with pytest.raises(InclusionInvalid) as caught:
        check_inclusion(bytes(32), 5, size, [bytes(32)] * 63, bytes(32))
    assert "leads to the root" in caught.value.reason
