"""Modelfiles: every vector, every string survives, every mistake is named with its place."""

import json
import time
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import ModelfileInvalid
from protocol.modelfile import (
    MAX_MODELFILE_CHARS,
    Modelfile,
    format_modelfile,
    inherit_modelfile,
    parse_modelfile,
)

VECTORS = Path(__file__).parents[2] / "specs" / "vectors" / "0009-modelfile"
ACCEPTED = json.loads((VECTORS / "accepted.json").read_text())
REFUSED = json.loads((VECTORS / "refused.json").read_text())

AWKWARD = st.lists(st.sampled_from(['"', '"""', "\n", " ", "\t", "\r", "#", 'json"', "a", "\\", "\x00", "\u2028", "é"]))
texts = st.one_of(AWKWARD.map("".join), st.text(st.characters(exclude_categories=["Cs"])))
stops = texts.filter(lambda text: 0 < len(text.encode()) <= 1024)
numbers = st.one_of(
    st.tuples(st.just("num_ctx"), st.integers(1, 1 << 22)),
    st.tuples(st.just("temperature"), st.floats(0, 10)),
    st.tuples(st.just("min_p"), st.floats(0, 1)),
    st.tuples(st.just("seed"), st.integers(0, (1 << 63) - 1)),
)
modelfiles = st.builds(
    Modelfile,
    base=texts.filter(bool),
    parameters=st.tuples(
        st.lists(numbers, unique_by=lambda pair: pair[0]), st.lists(stops.map(lambda text: ("stop", text)), max_size=32)
    ).map(lambda pair: (*pair[0], *pair[1])),
    template=st.none() | texts,
    system=st.none() | texts,
    adapter=st.none() | texts.filter(bool),
    draft=st.none() | texts.filter(bool),
    licenses=st.lists(texts).map(tuple),
    messages=st.lists(st.tuples(st.sampled_from(["system", "user", "assistant"]), texts)).map(tuple),
    mir=st.none() | st.just("mir:model.transformer.clip-l:stable-diffusion-xl"),
)


def _as_json(modelfile: Modelfile) -> Any:
    return json.loads(json.dumps(vars(modelfile)))


@pytest.mark.parametrize("case", ACCEPTED, ids=lambda case: case["comment"])
def test_accepted_vectors(case: dict[str, Any]) -> None:
    parsed = parse_modelfile(case["input"])
    assert _as_json(parsed) == case["modelfile"]
    assert format_modelfile(parsed) == case["formatted"]
    assert parse_modelfile(case["formatted"]) == parsed


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case["comment"])
def test_refused_vectors(case: dict[str, Any]) -> None:
    with pytest.raises(ModelfileInvalid) as caught:
        parse_modelfile(case["input"])
    error = caught.value
    assert (error.line, error.column, error.nearest) == (case["line"], case["column"], case["nearest"])
    assert f"line {error.line}, column {error.column}" in str(error)
    assert error.hint


@given(modelfiles)
def test_whatever_is_written_reads_back_the_same(modelfile: Modelfile) -> None:
    text = format_modelfile(modelfile)
    assert parse_modelfile(text) == modelfile
    assert format_modelfile(parse_modelfile(text)) == text


@given(st.text(st.sampled_from('FROMSYTEP \n\t"#a:/json\r'), max_size=60))
def test_what_parses_survives_a_round_trip(text: str) -> None:
    try:
        parsed = parse_modelfile(text)
    except ModelfileInvalid as refused:
        _require_place_in(text, refused)
    else:
        assert parse_modelfile(format_modelfile(parsed)) == parsed


def _require_place_in(text: str, refused: ModelfileInvalid) -> None:
    lines = text.removeprefix("\ufeff").replace("\r\n", "\n").split("\n")
    assert 1 <= refused.line <= len(lines)
    assert 1 <= refused.column <= len(lines[refused.line - 1]) + 1


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_the_place_of_an_error_does_not_depend_on_line_ends(line_end: str) -> None:
    text = line_end.join(["FROM a", 'SYSTEM """', "b", '"""', "PARAMETER stop x", " MESAGE user hi"])
    with pytest.raises(ModelfileInvalid) as caught:
        parse_modelfile(text)
    assert (caught.value.line, caught.value.column, caught.value.nearest) == (6, 2, "MESSAGE")


@pytest.mark.parametrize(
    ("line", "says", "hint"),
    [
        ("PARAMETER num_gpu 1", "num_gpu", "would change nothing here"),
        ("PARAMETER mirostat 2", "mirostat", "not supported here"),
        ("PARAMETER Frequency_Penalty 1", "Frequency_Penalty", "repeat_penalty"),
        ("RENDERER qwen3-coder", "RENDERER", "the model's own template"),
        ("Parser qwen3-coder", "Parser", "take the line out"),
        ("REQUIRES 0.14.0", "REQUIRES", "take the line out"),
    ],
)
def test_words_of_other_programs_are_refused_with_what_to_do(line: str, says: str, hint: str) -> None:
    with pytest.raises(ModelfileInvalid, match=says) as caught:
        parse_modelfile(f"FROM demo\n{line}\n")
    assert (caught.value.line, caught.value.nearest) == (2, None)
    assert hint in caught.value.hint


def test_stops_are_bounded_as_the_worker_bounds_them() -> None:
    line = "PARAMETER stop x\n"
    assert len(parse_modelfile("FROM a\n" + 32 * line).parameters) == 32
    for text in ("FROM a\n" + 33 * line, "FROM a\nPARAMETER stop " + 1025 * "x", 'FROM a\nPARAMETER stop ""'):
        with pytest.raises(ModelfileInvalid, match="expected"):
            parse_modelfile(text)


def test_a_mir_name_is_kept_in_its_one_spelling_and_a_bad_one_has_its_place() -> None:
    parsed = parse_modelfile('FROM a\nMIR "MIR:Model.ART.Qwen/Qwen2.5-7B:MLX_Q4"\n')
    assert parsed.mir == "mir:model.art.qwen2:mlx-q4"
    for text in ("FROM a\nMIR mir:model.arrt.x:y", 'FROM a\nMIR "mir:model.arrt.x:y"'):
        with pytest.raises(ModelfileInvalid) as caught:
            parse_modelfile(text)
        assert (caught.value.line, caught.value.nearest) == (2, "art")
        assert text.splitlines()[1][caught.value.column - 1 :].startswith("arrt")


@pytest.mark.parametrize("line", ["\n", "# x\n", " \t\n", "MESSAGE user x\n", 'SYSTEM """\n"""\n'], ids=ascii)
def test_a_file_of_many_lines_is_read_soon_and_in_little_memory(line: str) -> None:
    text = "FROM a\n" + line * ((MAX_MODELFILE_CHARS - 7) // len(line))
    tracemalloc.start()
    started = time.process_time()
    parse_modelfile(text)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 64 << 20
    assert time.process_time() - started < 20


def test_a_file_over_the_limit_is_refused() -> None:
    with pytest.raises(ModelfileInvalid, match="at most"):
        parse_modelfile("FROM a\n" + "#" * MAX_MODELFILE_CHARS)


@pytest.mark.parametrize(
    "modelfile",
    [
        Modelfile(""),
        Modelfile("a", parameters=(("speed", 1),)),
        Modelfile("a", parameters=(("seed", 1), ("seed", 1))),
        Modelfile("a", parameters=(("temperature", float("inf")),)),
        Modelfile("a", messages=(("tool", "x"),)),
        Modelfile("a", system="\ud800"),
    ],
    ids=["no base", "unknown parameter", "twice", "infinite", "unknown role", "half a surrogate pair"],
)
def test_what_no_modelfile_can_hold_is_not_written(modelfile: Modelfile) -> None:
    with pytest.raises(ModelfileInvalid):
        format_modelfile(modelfile)


def test_what_a_recipe_leaves_out_comes_from_its_base() -> None:
    base = Modelfile(
        "x",
        parameters=(("seed", 1), ("stop", "a"), ("stop", "b")),
        system="base",
        template="t",
        licenses=("MIT",),
        messages=(("user", "hi"),),
    )
    own = Modelfile("base", parameters=(("stop", "c"), ("top_k", 3)), system="")
    assert inherit_modelfile(base, own) == replace(
        base, base="base", parameters=(("seed", 1), ("stop", "c"), ("top_k", 3)), system=""
    )
    assert inherit_modelfile(base, Modelfile("y")) == replace(base, base="y")
