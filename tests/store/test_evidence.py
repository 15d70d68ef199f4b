from pathlib import Path

import pytest

from identity.testing import key_from_number
from protocol.errors import CheckpointInvalid, ConsistencyInvalid, EvidenceInvalid
from protocol.evidence import Evidence, decode_and_check_evidence, encode_evidence
from protocol.testing import MemoryLog
from store.errors import EvidenceDamaged, LogForked
from store.evidence import SeenLogs

KEY = key_from_number(2)
ENTRIES = [b"%d" % number for number in range(20)]
HONEST = MemoryLog(KEY, ENTRIES)
FORKED = MemoryLog(KEY, [*ENTRIES[:5], b"another", *ENTRIES[6:]])


@pytest.fixture
def seen(tmp_path: Path) -> SeenLogs:
    return SeenLogs(tmp_path / "evidence")


def test_nothing_is_known_of_a_stranger(seen: SeenLogs) -> None:
    assert seen.latest(KEY.did) is None
    assert seen.frozen(KEY.did) is None
    assert seen.origins() == []


def test_a_log_is_followed_and_found_again(seen: SeenLogs, tmp_path: Path) -> None:
    seen.advance(HONEST.checkpoint(3), KEY.did, [])
    latest = seen.advance(HONEST.checkpoint(9), KEY.did, HONEST.consistency(3, 9))
    assert (latest.size, latest.root, latest.note) == (9, HONEST.root(9), HONEST.checkpoint(9))
    assert SeenLogs(tmp_path / "evidence").latest(KEY.did) == latest
    assert seen.origins() == [KEY.did]


def test_a_log_is_forgotten_and_its_evidence_is_not(seen: SeenLogs) -> None:
    seen.advance(HONEST.checkpoint(9), KEY.did, [])
    assert seen.forget(KEY.did)
    assert seen.latest(KEY.did) is None
    assert seen.origins() == []
    assert seen.forget(KEY.did)
    seen.advance(HONEST.checkpoint(9), KEY.did, [])
    with pytest.raises(LogForked):
        seen.advance(FORKED.checkpoint(9), KEY.did, [])
    assert not seen.forget(KEY.did)
    assert seen.frozen(KEY.did) is not None


def test_an_older_checkpoint_is_checked_and_changes_nothing(seen: SeenLogs) -> None:
    newest = seen.advance(HONEST.checkpoint(9), KEY.did, [])
    assert seen.advance(HONEST.checkpoint(9), KEY.did, []) == newest
    assert seen.advance(HONEST.checkpoint(4), KEY.did, HONEST.consistency(4, 9)) == newest
    assert seen.advance(HONEST.checkpoint(0), KEY.did, []) == newest
    with pytest.raises(ConsistencyInvalid):
        seen.advance(HONEST.checkpoint(4), KEY.did, [])
    assert seen.latest(KEY.did) == newest


def test_an_empty_log_is_followed_without_a_proof(seen: SeenLogs) -> None:
    seen.advance(HONEST.checkpoint(0), KEY.did, [])
    assert seen.advance(HONEST.checkpoint(7), KEY.did, []).size == 7


@pytest.mark.parametrize("proof", [[], [bytes(32)], HONEST.consistency(3, 8), HONEST.consistency(3, 9)[::-1]])
def test_a_proof_that_does_not_fit_is_not_held_against_the_origin(seen: SeenLogs, proof: list[bytes]) -> None:
    before = seen.advance(HONEST.checkpoint(3), KEY.did, [])
    with pytest.raises(ConsistencyInvalid):
        seen.advance(HONEST.checkpoint(9), KEY.did, proof)
    assert seen.latest(KEY.did) == before
    assert seen.frozen(KEY.did) is None
    assert seen.advance(HONEST.checkpoint(9), KEY.did, HONEST.consistency(3, 9)).size == 9


def test_a_note_by_somebody_else_is_refused(seen: SeenLogs) -> None:
    for note in (MemoryLog(key_from_number(3), ENTRIES).checkpoint(), b"", HONEST.checkpoint(3)[:-1]):
        with pytest.raises(CheckpointInvalid):
            seen.advance(note, KEY.did, [])
    assert seen.origins() == []


def require_frozen(seen: SeenLogs, directory: Path, sizes: tuple[int, int]) -> Evidence:
    for again in (seen, SeenLogs(directory)):
        with pytest.raises(LogForked) as caught:
            again.advance(HONEST.checkpoint(20), KEY.did, HONEST.consistency(9, 20))
        assert (caught.value.origin, caught.value.sizes) == (KEY.did, sizes)
        assert caught.value.hint
    evidence = seen.frozen(KEY.did)
    assert evidence is not None
    assert decode_and_check_evidence(encode_evidence(evidence)) == evidence
    return evidence


def test_two_roots_for_one_size_freeze_the_origin(seen: SeenLogs, tmp_path: Path) -> None:
    seen.advance(HONEST.checkpoint(9), KEY.did, [])
    with pytest.raises(LogForked):
        seen.advance(FORKED.checkpoint(9), KEY.did, [])
    evidence = require_frozen(seen, tmp_path / "evidence", (9, 9))
    assert (evidence.first, evidence.second) == (HONEST.checkpoint(9), FORKED.checkpoint(9))


@pytest.mark.parametrize("old", [6, 7, 9, 12])
def test_a_grown_log_with_another_past_freezes_the_origin(seen: SeenLogs, tmp_path: Path, old: int) -> None:
    seen.advance(HONEST.checkpoint(old), KEY.did, [])
    with pytest.raises(LogForked):
        seen.advance(FORKED.checkpoint(20), KEY.did, FORKED.consistency(old, 20))
    require_frozen(seen, tmp_path / "evidence", (old, 20))


def test_an_older_log_with_another_past_freezes_the_origin(seen: SeenLogs, tmp_path: Path) -> None:
    seen.advance(HONEST.checkpoint(20), KEY.did, [])
    with pytest.raises(LogForked):
        seen.advance(FORKED.checkpoint(9), KEY.did, HONEST.consistency(9, 20))
    require_frozen(seen, tmp_path / "evidence", (9, 20))


def test_a_power_of_two_needs_the_root_that_the_prover_claims(seen: SeenLogs, tmp_path: Path) -> None:
    seen.advance(HONEST.checkpoint(8), KEY.did, [])
    with pytest.raises(ConsistencyInvalid):
        seen.advance(FORKED.checkpoint(20), KEY.did, FORKED.consistency(8, 20))
    assert seen.frozen(KEY.did) is None
    with pytest.raises(LogForked):
        seen.advance(FORKED.checkpoint(20), KEY.did, FORKED.consistency(8, 20), FORKED.root(8))
    require_frozen(seen, tmp_path / "evidence", (8, 20))


def test_a_false_claim_about_the_old_root_changes_nothing(seen: SeenLogs) -> None:
    seen.advance(HONEST.checkpoint(8), KEY.did, [])
    with pytest.raises(ConsistencyInvalid):
        seen.advance(HONEST.checkpoint(20), KEY.did, HONEST.consistency(8, 19), b"x" * 32)
    assert seen.advance(HONEST.checkpoint(20), KEY.did, HONEST.consistency(8, 20), b"x" * 32).size == 20


def test_evidence_goes_from_hand_to_hand(seen: SeenLogs, tmp_path: Path) -> None:
    seen.advance(HONEST.checkpoint(9), KEY.did, [])
    with pytest.raises(LogForked):
        seen.advance(FORKED.checkpoint(9), KEY.did, [])
    evidence = seen.frozen(KEY.did)
    assert evidence is not None
    elsewhere = SeenLogs(tmp_path / "elsewhere")
    elsewhere.accuse(evidence)
    elsewhere.accuse(evidence)
    with pytest.raises(LogForked):
        elsewhere.advance(HONEST.checkpoint(9), KEY.did, [])
    assert elsewhere.origins() == [KEY.did]


def test_a_false_accusation_does_nothing(seen: SeenLogs) -> None:
    with pytest.raises(EvidenceInvalid):
        seen.accuse(Evidence(KEY.did, HONEST.checkpoint(9), HONEST.checkpoint(9)))
    assert seen.frozen(KEY.did) is None


def test_one_origin_is_not_punished_for_another(seen: SeenLogs) -> None:
    other = MemoryLog(key_from_number(3), ENTRIES)
    seen.advance(HONEST.checkpoint(9), KEY.did, [])
    with pytest.raises(LogForked):
        seen.advance(FORKED.checkpoint(9), KEY.did, [])
    assert seen.advance(other.checkpoint(9), other.key.did, []).size == 9
    assert seen.origins() == sorted([KEY.did, other.key.did])


@pytest.mark.parametrize("content", [b"", b"x" * 5000, FORKED.checkpoint(3)[:-10]])
def test_a_damaged_memory_is_not_taken_for_no_memory(seen: SeenLogs, tmp_path: Path, content: bytes) -> None:
    seen.advance(HONEST.checkpoint(9), KEY.did, [])
    next((tmp_path / "evidence").rglob("checkpoint")).write_bytes(content)
    with pytest.raises(EvidenceDamaged):
        seen.advance(FORKED.checkpoint(20), KEY.did, [])


def test_damaged_evidence_still_stops_the_origin(seen: SeenLogs, tmp_path: Path) -> None:
    seen.advance(HONEST.checkpoint(9), KEY.did, [])
    with pytest.raises(LogForked):
        seen.advance(FORKED.checkpoint(9), KEY.did, [])
    next((tmp_path / "evidence").rglob("fork")).write_bytes(b"")
    with pytest.raises(EvidenceDamaged):
        seen.advance(HONEST.checkpoint(20), KEY.did, HONEST.consistency(9, 20))
