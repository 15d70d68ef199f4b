"""Stop strings, thinking and tool calls in a text that arrives in any pieces."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.models.engine.text_stream import Kind, Segment, StopStrings, TagSplitter, held_back

THINK = ("<think>", "</think>")
TOOL = ("<tool_call>", "</tool_call>")


def cut(text: str, places: list[int]) -> list[str]:
    borders = sorted({0, len(text), *(place % (len(text) + 1) for place in places)})
    return [text[start:end] for start, end in pairwise(borders)]


def through_stops(pieces: list[str], stops: list[str]) -> tuple[str, bool]:
    machine = StopStrings(stops)
    shown = "".join(machine.feed(piece) for piece in pieces)
    return shown + machine.finish(), machine.stopped


def through_tags(pieces: list[str], *, inside: bool = False) -> dict[Kind, str]:
    machine = TagSplitter(THINK, TOOL, inside_thinking=inside)
    said = [piece for text in pieces for piece in machine.feed(text)] + machine.finish()
    return {kind: "".join(piece.text for piece in said if piece.kind is kind) for kind in Kind}


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


@given(st.lists(st.integers(0, 200), max_size=12))
def test_tags_do_not_care_where_pieces_are_cut(places: list[int]) -> None:
    text = '<think>\n7 plus 5 is 12.</think>\n\nIt is <b>12</b>.<tool_call>{"name": "f"}</tool_call>'
    said = through_tags(cut(text, places))
    assert said == {
        Kind.THINKING: "7 plus 5 is 12.",
        Kind.CONTENT: "It is <b>12</b>.",
        Kind.TOOL_CALL: '{"name": "f"}',
    }


def test_a_prompt_may_have_opened_the_thinking() -> None:
    said = through_tags(["hm", "m</thi", "nk>\nYes."], inside=True)
    assert (said[Kind.THINKING], said[Kind.CONTENT]) == ("hmm", "Yes.")


def test_a_tool_call_comes_whole_and_counts_even_unclosed() -> None:
    machine = TagSplitter(None, TOOL, inside_thinking=False)
    assert machine.feed('<tool_call>{"na') == []
    assert machine.feed('me": "f"}') == []
    assert machine.finish() == [Segment(Kind.TOOL_CALL, '{"name": "f"}')]


def test_tags_that_were_not_asked_for_are_text() -> None:
    machine = TagSplitter(None, None, inside_thinking=False)
    assert machine.feed("<think>x</think>") == [Segment(Kind.CONTENT, "<think>x</think>")]


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
