"""The threat model says where each defence is tested: those places exist and hold tests."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROWS = [
    line.strip("| \n").split(" | ")
    for line in (ROOT / "specs" / "threat-model.md").read_text().splitlines()
    if "`tests/" in line
]


def test_there_are_rows() -> None:
    assert len(ROWS) > 20


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_a_defence_is_tested_where_the_threat_model_says(row: list[str]) -> None:
    places = re.findall(r"`(tests/[^`]+)`", row[-1])
    assert places
    for place in places:
        path = ROOT / place
        files = [path] if path.is_file() else list(path.glob("test_*.py"))
        assert any(re.search(r"^(async )?def test_", file.read_text(), re.MULTILINE) for file in files), place
