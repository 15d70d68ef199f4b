import json
from pathlib import Path
from typing import Any

import pytest

from protocol.digest import parse_digest
from protocol.errors import LogEntryInvalid
from protocol.log_entry import EVENT_KINDS, MAX_ENTRY_BYTES, LogEntry, decode_log_entry, encode_log_entry, subject_hash

VECTORS = Path(__file__).parents[2] / "specs" / "vectors" / "0003-log"
ENTRIES = json.loads((VECTORS / "log-entries.json").read_text())
SUBJECTS = json.loads((VECTORS / "subject-hash.json").read_text())


@pytest.mark.parametrize("case", ENTRIES, ids=lambda case: case["comment"])
def test_vectors(case: dict[str, Any]) -> None:
    data = bytes.fromhex(case["input"]["entry"])
    if case["expect"] == "ok":
        assert encode_log_entry(decode_log_entry(data)) == data
    else:
        with pytest.raises(LogEntryInvalid):
            decode_log_entry(data)


@pytest.mark.parametrize("case", SUBJECTS, ids=lambda case: case["comment"])
def test_subject_vectors(case: dict[str, Any]) -> None:
    found = subject_hash(bytes.fromhex(case["input"]["salt"]), parse_digest(case["input"]["manifest"]))
    assert found.hex() == case["output"]["hash"]


def test_every_entry_fits_under_the_cap() -> None:
    for kind in EVENT_KINDS:
        assert len(encode_log_entry(LogEntry(kind, bytes(32), bytes(32)))) <= 96 < MAX_ENTRY_BYTES
