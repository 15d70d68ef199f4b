"""However long an answer is, its chat has all of it."""

import pytest

from node.control.ask import lines_of
from protocol.feed import MAX_CONTENT_BYTES


@pytest.mark.parametrize("text", ["", "short", "x" * (2 * MAX_CONTENT_BYTES), "x" + "ü€😀" * 100_000])
def test_an_answer_is_cut_into_lines_that_fit(text: str) -> None:
    lines = list(lines_of(text))
    assert "".join(lines) == text
    assert all(0 < len(line.encode()) <= MAX_CONTENT_BYTES for line in lines)
    assert len(lines) == -(-len(text.encode()) // MAX_CONTENT_BYTES)
