"""The exact form of log-probabilities: whatever is said in it is taken, nothing else, and it is JSON in one line."""

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from protocol.worker.logprobs import LEAST, begin, chosen, is_well_formed, joined, parse

weights = st.floats(max_value=0.0, allow_nan=False, width=32) | st.just(float("-inf"))
said = st.binary(max_size=12) | st.text(max_size=6).map(str.encode)
RIGHT = joined([chosen(begin(b"Hi"), -0.5, [(begin(b"Ho"), -1.5), (begin(b""), -1e-7)])])


@given(st.lists(st.tuples(said, weights, st.lists(st.tuples(said, weights), max_size=3)), min_size=1, max_size=4))
@example([(b'"\\\n\r\x00\x1f\x7f\xff', 0.0, [("\u2028é".encode(), -5e-8)])])
def test_what_is_said_comes_back(tokens: list[tuple[bytes, float, list[tuple[bytes, float]]]]) -> None:
    text = joined(
        chosen(begin(token), weight, [(begin(other), its) for other, its in likely]) for token, weight, likely in tokens
    )
    assert is_well_formed(text)
    assert "\n" not in text
    assert "\r" not in text
    for (token, weight, likely), found in zip(tokens, parse(text), strict=True):
        assert (found["token"], bytes(found["bytes"])) == (token.decode(errors="replace"), token)
        assert found["logprob"] == max(weight, LEAST)
        told = [(bytes(other["bytes"]), other["logprob"]) for other in found["top_logprobs"]]
        assert told == [(other, max(its, LEAST)) for other, its in likely]


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "[]",
        "null",
        RIGHT + "\n",
        RIGHT.replace(",", ",\n", 1),
        RIGHT.replace('"Hi"', '"H\n"'),
        RIGHT.replace('"Hi"', '"\\ud800"'),
        RIGHT.replace('"Hi"', '"\\"'),
        RIGHT.replace("-0.5", "nan"),
        RIGHT.replace("-0.5", "NaN"),
        RIGHT.replace("-0.5", "-00.5"),
        RIGHT.replace("-0.5", '"-0.5"'),
        RIGHT.replace("-0.5", "1e999"),
        RIGHT.replace("[72,105]", "[72,]"),
        RIGHT.replace("[72,105]", "null"),
        RIGHT.replace('"top_logprobs"', '"top"'),
        RIGHT[:-1] + ",]",
        '[{"token":"' + '"' * 10_000,
    ],
)
def test_no_other_form_is_taken(wrong: str) -> None:
    assert is_well_formed(RIGHT)
    assert not is_well_formed(wrong)


@given(st.integers(0, len(RIGHT)), st.integers(0, len(RIGHT)), st.text(max_size=3))
def test_what_is_taken_is_json_in_one_line(start: int, end: int, put: str) -> None:
    text = RIGHT[: min(start, end)] + put + RIGHT[max(start, end) :]
    if is_well_formed(text):
        found: Any = json.loads(text)
        assert all(isinstance(each["logprob"], float | int) for each in found)
        assert not set(text) & set("\r\n")
