"""Stop strings in a text that arrives in any pieces."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.models.engine.text_stream import StopStrings, held_back


def cut(text: str, places: list[int]) -> list[str]:
    borders = sorted({0, len(text), *(place % (len(text) + 1) for place in places)})
    return [text[start:end] for start, end in pairwise(borders)]


def through_stops(pieces: list[str], stops: list[str]) -> tuple[str, bool]:
    machine = StopStrings(stops)
    shown = "".join(machine.feed(piece) for piece in pieces)
    return shown + machine.finish(), machine.stopped


@given(st.text("abc", max_size=20), st.lists(st.text("abc", max_size=3), max_size=3), st.lists(st.integers(0, 99)))
def test_stop_strings_do_not_care_where_pieces_are_cut(text: str, stops: list[str], places: list[int]) -> None:
    found = [(start + len(stop), start) for stop in stops if stop and (start := text.find(stop)) >= 0]
    expected = text[: min(found)[1]] if found else text
    assert through_stops(cut(text, places), stops) == (expected, bool(found))


def test_a_stop_string_inside_a_word_counts() -> None:
    assert through_stops(["a", "f", "ox runs"], ["fox"]) == ("a", True)


def test_only_what_could_become_a_stop_string_is_held_back() -> None:
    machine = StopStrings(["</end>"])
    assert machine.feed("hello <") == "hello "
    assert machine.feed("b>") == "<b>"


@pytest.mark.parametrize(
    ("text", "marks", "size"),
    [
        ("", ["ab"], 0),
        ("xa", ["ab"], 1),
        ("xab", ["abc", "b"], 2),
        ("ab", ["ab"], 0),
        ("aaa", ["aab"], 2),
        ("x", [], 0),
    ],
)
def test_held_back(text: str, marks: list[str], size: int) -> None:
    assert held_back(text, marks) == size
