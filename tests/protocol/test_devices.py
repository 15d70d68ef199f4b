"""Whose entries are accepted: the vectors, and that order does not matter."""

import json
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from protocol.devices import UNLIMITED, Statement, author_limits

VECTORS = Path(__file__).parents[2] / "specs" / "vectors" / "0013-chats-and-sync" / "trust.json"
CASES = [pytest.param(case, id=case["comment"]) for case in json.loads(VECTORS.read_text())]


@pytest.mark.parametrize("case", CASES)
def test_vectors_of_trust(case: dict[str, Any]) -> None:
    given = case["input"]
    statements = [Statement(**statement) for statement in given["statements"]]
    expected = {did: UNLIMITED if limit == "unlimited" else limit for did, limit in case["output"].items()}
    for order in permutations(statements):
        limits = author_limits(given["me"], lambda did: did in given["linked"], order, given["linked"])
        assert limits == expected
