import json
from pathlib import Path
from typing import Any

import pytest

from identity.did import parse_did
from identity.note import open_note, verifier_key_of
from identity.testing import key_from_number
from protocol.checkpoint import Checkpoint, format_checkpoint, open_checkpoint, parse_checkpoint, sign_checkpoint
from protocol.errors import CheckpointInvalid
from protocol.tlog import EMPTY_ROOT

VECTORS = Path(__file__).parents[2] / "specs" / "vectors" / "0002-signed-note-and-checkpoint"
CASES = json.loads((VECTORS / "checkpoints.json").read_text())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["comment"])
def test_vectors(case: dict[str, Any]) -> None:
    note, origin = case["input"]["note"].encode(), parse_did(case["input"]["origin"])
    if case["expect"] == "ok":
        checkpoint = open_checkpoint(note, origin)
        assert format_checkpoint(checkpoint) == open_note(note, [verifier_key_of(origin)]).text
    else:
        with pytest.raises(CheckpointInvalid):
            open_checkpoint(note, origin)


@pytest.mark.parametrize("size", [1, 9, 10, 2**32, 2**63 - 1])
def test_round_trip(size: int) -> None:
    key = key_from_number(1)
    assert open_checkpoint(sign_checkpoint(key, size, b"r" * 32), key.did) == Checkpoint(key.did, size, b"r" * 32)


def test_the_empty_log_has_a_checkpoint() -> None:
    key = key_from_number(1)
    assert open_checkpoint(sign_checkpoint(key, 0, EMPTY_ROOT), key.did).size == 0


@pytest.mark.parametrize("text", ["", "\n", "\n\n\n", "a\n1\n" + "A" * 44, "a\n1\n\n\n"])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(CheckpointInvalid):
        parse_checkpoint(text)
