"""Hostile text into the Modelfile parser: a recipe or the one named error."""

from contextlib import suppress

from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import ModelfileInvalid
from protocol.modelfile import format_modelfile, parse_modelfile

PIECES = [
    "FROM ", "PARAMETER ", "temperature ", "stop ", "num_ctx ", "SYSTEM ", "MESSAGE ", "user ", "TEMPLATE ", "MIR ",
    "LICENSE ",
    "ADAPTER ", '"', '"""', 'json"', "\n", "\r\n", "\r", "\t", "#", "1", "-", ".5",
    "1e999", "\\ud800", "\ud800", "\0", "\ufeff", "a",
]  # fmt: skip


@given(st.lists(st.sampled_from(PIECES), max_size=40).map("".join) | st.text(max_size=200))
def test_any_text_parses_or_is_refused(text: str) -> None:
    with suppress(ModelfileInvalid):
        parsed = parse_modelfile(text)
        assert parse_modelfile(format_modelfile(parsed)) == parsed
