import base64
import json
from pathlib import Path
from typing import Any

import pytest

from identity.testing import key_from_number
from protocol.errors import CheckpointInvalid, EvidenceInvalid
from protocol.evidence import check_evidence, decode_and_check_evidence, encode_evidence, find_fork
from protocol.testing import MemoryLog

VECTORS = Path(__file__).parents[2] / "specs" / "vectors" / "0003-log"
CASES = json.loads((VECTORS / "evidence.json").read_text())
KEY = key_from_number(1)
ENTRIES = [bytes([n]) for n in range(18)]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["comment"])
def test_vectors(case: dict[str, Any]) -> None:
    data = base64.b64decode(case["input"]["evidence"])
    if case["expect"] == "ok":
        assert encode_evidence(decode_and_check_evidence(data)) == data
    else:
        with pytest.raises(EvidenceInvalid):
            decode_and_check_evidence(data)


@pytest.mark.parametrize("fork_at", [0, 3, 7, 8])
def test_every_pair_of_forked_sizes_is_proven_and_no_honest_pair_is(fork_at: int) -> None:
    honest = MemoryLog(KEY, ENTRIES)
    other = MemoryLog(KEY, [*ENTRIES[:fork_at], b"other", *ENTRIES[fork_at + 1 :]])
    for old in range(1, 18):
        for new in range(old, 18):
            proof = other.consistency(old, new)
            evidence = find_fork(KEY.did, honest.checkpoint(old), other.checkpoint(new), proof, other.root(old))
            if old > fork_at:
                assert evidence is not None
                check_evidence(evidence)
                assert decode_and_check_evidence(encode_evidence(evidence)) == evidence
                mirrored = find_fork(KEY.did, other.checkpoint(new), honest.checkpoint(old), proof, other.root(old))
                assert mirrored is not None
                check_evidence(mirrored)
            else:
                assert evidence is None


@pytest.mark.parametrize("old", [3, 5, 6, 7, 9, 15])
def test_the_claimed_root_is_needed_only_for_powers_of_two(old: int) -> None:
    honest, other = MemoryLog(KEY, ENTRIES), MemoryLog(KEY, [b"other", *ENTRIES[1:]])
    proof = other.consistency(old, 16)
    assert find_fork(KEY.did, honest.checkpoint(old), other.checkpoint(16), proof) is not None
    power = 8
    proof = other.consistency(power, 16)
    assert find_fork(KEY.did, honest.checkpoint(power), other.checkpoint(16), proof) is None


def test_a_lying_relayer_makes_no_evidence() -> None:
    log = MemoryLog(KEY, ENTRIES)
    proof = log.consistency(7, 13)
    for claimed in (None, b"x" * 32, log.root(7)):
        for lie in (proof[1:], [b"x" * 32, *proof[1:]], [*proof[:-1], b"x" * 32], [], [b"x"] * len(proof)):
            assert find_fork(KEY.did, log.checkpoint(7), log.checkpoint(13), lie, claimed) is None
        assert find_fork(KEY.did, log.checkpoint(8), log.checkpoint(13), log.consistency(8, 13), claimed) is None


def test_a_stranger_cannot_accuse() -> None:
    stranger = MemoryLog(key_from_number(2), [b"x"])
    with pytest.raises(CheckpointInvalid):
        find_fork(KEY.did, MemoryLog(KEY, ENTRIES).checkpoint(1), stranger.checkpoint(), [])
