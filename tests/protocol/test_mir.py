"""MIR names: every vector, one spelling for all spellings, patterns that find what they say."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import MirInvalid
from protocol.mir import (
    ARCHITECTURES,
    DOMAINS,
    MAX_MIR_CHARS,
    Mir,
    format_mir,
    matches,
    normalise_series,
    parse_mir,
    read_mir,
)

VECTORS = Path(__file__).parents[2] / "specs" / "vectors" / "0020-mir"
ACCEPTED = json.loads((VECTORS / "accepted.json").read_text())
REFUSED = json.loads((VECTORS / "refused.json").read_text())
PATTERNS = json.loads((VECTORS / "patterns.json").read_text())

words = st.text(st.sampled_from("abmkx0123456789.-_ /"), min_size=1, max_size=30)


@pytest.mark.parametrize("case", ACCEPTED, ids=lambda case: case["comment"])
def test_accepted_vectors(case: dict[str, Any]) -> None:
    parsed = parse_mir(case["input"])
    assert vars(parsed) == case["mir"]
    assert format_mir(parsed) == str(parsed) == case["normalised"]
    assert parse_mir(case["normalised"]) == parsed


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case["comment"])
def test_refused_vectors(case: dict[str, Any]) -> None:
    with pytest.raises(MirInvalid) as caught:
        parse_mir(case["input"])
    assert (caught.value.offset, caught.value.nearest) == (case["offset"], case["nearest"])
    assert caught.value.hint


@pytest.mark.parametrize("case", PATTERNS, ids=lambda case: case["comment"] + " " + case["input"])
def test_pattern_vectors(case: dict[str, Any]) -> None:
    mir = parse_mir(case["mir"])
    if case["expect"] == "ok":
        assert matches(mir, case["input"]) is case["matches"]
    else:
        with pytest.raises(MirInvalid):
            matches(mir, case["input"])


def test_every_domain_and_architecture_is_known_under_its_own_name() -> None:
    for domain in DOMAINS:
        for architecture in ARCHITECTURES:
            name = f"mir:{domain}.{architecture}.x:*"
            assert parse_mir(name) == Mir(domain, architecture, "x", "*")
            assert matches(parse_mir(name), f"{domain}.{architecture}")


@given(words)
def test_normalising_a_series_twice_changes_nothing(text: str) -> None:
    once = normalise_series(text)
    assert normalise_series(once) == once


@given(st.sampled_from(sorted(DOMAINS)), st.sampled_from(sorted(ARCHITECTURES)), words, words)
def test_what_parses_has_one_spelling_and_finds_itself(domain: str, architecture: str, series: str, last: str) -> None:
    try:
        parsed = parse_mir(f"mir:{domain}.{architecture}.{series}:{last}")
    except MirInvalid:
        return
    spelled = format_mir(parsed)
    assert parse_mir(spelled) == parsed
    assert len(spelled) <= MAX_MIR_CHARS
    assert matches(parsed, spelled)
    assert matches(parsed, f"{domain}.{architecture}")


def test_an_annotation_counts_only_in_its_one_spelling() -> None:
    assert read_mir("mir:model.art.gpt-oss:*") == Mir("model", "art", "gpt-oss", "*")
    for text in (None, "", "mir:model.art.gpt-oss", "MIR:model.art.gpt-oss:*", "mir:model.art.gpt-oss-20b:*"):
        assert read_mir(text) is None
