"""Hostile text into the ModelSpec and MIR parsers: a value or the one named error."""

from contextlib import suppress

from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import MirInvalid, ModelSpecInvalid
from protocol.mir import format_mir, matches, parse_mir
from protocol.modelspec import format_modelspec, parse_modelspec

PIECES = [
    "name: ", "base: ", "path: ", "hf_repo: ", "revision: ", "defaults:", "stop: ", "temperature: ", "version: ",
    "license: ", "x", "a/b", "1", "yes", "~", "[", "]", "{", "}", ", ", "- ", "? ", ": ", "| ", ">-", "\n", "\n  ",
    "\r\n", "\t", "#", "&a ", "*a", "!!str ", "!<", "%YAML 1.1", "---", "...", "<<: ", '"', "'", '"\\ud800"',
    '"\\U00110000"', "\\x", "\x00", "\x85", "\u2028", "\ud800", "\ufeff", "é", "@", "`",
]  # fmt: skip
MIR_PIECES = [
    "mir:",
    "MIR:",
    "model",
    "ops",
    "art",
    "lora",
    ".",
    ":",
    "-",
    "_",
    "/",
    "*",
    "?",
    "[",
    "7b",
    "v1.2",
    " ",
    "é",
    "\n",
    "x",
]


@given(st.lists(st.sampled_from(PIECES), max_size=40).map("".join) | st.text(max_size=200))
def test_any_text_parses_or_is_refused(text: str) -> None:
    with suppress(ModelSpecInvalid):
        parsed = parse_modelspec(text)
        assert parse_modelspec(format_modelspec(parsed)) == parsed


@given(st.lists(st.sampled_from(PIECES), max_size=30).map("".join))
def test_any_text_after_a_good_beginning_parses_or_is_refused(text: str) -> None:
    with suppress(ModelSpecInvalid):
        parsed = parse_modelspec(f"name: x\nbase: {{path: a}}\n{text}")
        assert parse_modelspec(format_modelspec(parsed)) == parsed


@given(st.lists(st.sampled_from(MIR_PIECES), max_size=20).map("".join) | st.text(max_size=80), st.text(max_size=40))
def test_any_mir_name_and_pattern_is_one_or_is_refused(text: str, pattern: str) -> None:
    with suppress(MirInvalid):
        parsed = parse_mir(text)
        assert parse_mir(format_mir(parsed)) == parsed
    with suppress(MirInvalid):
        matches(parse_mir("mir:model.art.gpt-oss:mlx-q4"), text)
    with suppress(MirInvalid):
        matches(parse_mir("mir:model.art.gpt-oss:mlx-q4"), pattern)
