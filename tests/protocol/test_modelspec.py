"""ModelSpec.yaml: every vector, every text survives, every mistake has its place, and caps come before work."""

import json
import time
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import ModelSpecInvalid
from protocol.model_name import ModelName
from protocol.modelfile import Modelfile, format_modelfile, parse_modelfile
from protocol.modelspec import ModelSpec, format_modelspec, parse_modelspec, spec_modelfile, spec_name
from protocol.quantization import Quantization
from protocol.yaml_tree import MAX_NODES, MAX_YAML_CHARS

VECTORS = Path(__file__).parents[2] / "specs" / "vectors" / "0019-modelspec"
ACCEPTED = json.loads((VECTORS / "accepted.json").read_text())
REFUSED = json.loads((VECTORS / "refused.json").read_text())
COMMIT = "0123456789abcdef0123456789abcdef01234567"

AWKWARD = st.lists(
    st.sampled_from(
        [
            '"',
            "'",
            "\n",
            " ",
            "\t",
            "\r",
            "#",
            ": ",
            "- ",
            "a",
            "\\",
            "\x00",
            "\x85",
            "\u2028",
            "é",
            "🦊",
            "%",
            "&",
            "*",
            "!",
            "---",
            "no",
            "~",
            "{",
            "\ufeff",
        ]
    )
)
texts = st.one_of(AWKWARD.map("".join), st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
stops = texts.filter(lambda text: 0 < len(text.encode()) <= 1024)
numbers = st.one_of(
    st.tuples(st.just("num_ctx"), st.integers(1, 1 << 22)),
    st.tuples(st.just("temperature"), st.floats(0, 10)),
    st.tuples(st.just("seed"), st.integers(0, (1 << 63) - 1)),
)
defaults = st.tuples(
    st.lists(numbers, unique_by=lambda pair: pair[0]), st.lists(stops.map(lambda text: ("stop", text)), max_size=32)
).map(lambda pair: (*pair[0], *pair[1]))
specs = st.builds(
    ModelSpec,
    name=st.sampled_from(["pocket", "no", "ann/pocket:small", "123", "1e3", "host.example:5000/a/b:c"]),
    version=st.sampled_from(["", "1.10", "2", "0x10", "null", "1_0"]),
    path=st.sampled_from(["./weights", "~", "on", "/a b/c", "a: b", "#x", "- y", "😀"]),
    quantization=st.sampled_from(Quantization),
    tokenizer=st.none() | st.sampled_from(["./tok", "yes"]),
    draft=st.none() | st.sampled_from(["hf:a/b", "off"]),
    prompt_template=st.none() | texts,
    system_prompt=st.none() | texts,
    license=st.none() | texts,
    defaults=defaults,
)


@pytest.mark.parametrize("case", ACCEPTED, ids=lambda case: case["comment"])
def test_accepted_vectors(case: dict[str, Any]) -> None:
    parsed = parse_modelspec(case["input"])
    assert json.loads(json.dumps(vars(parsed))) == case["modelspec"]
    assert format_modelspec(parsed) == case["formatted"]
    assert parse_modelspec(case["formatted"]) == parsed


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case["comment"])
def test_refused_vectors(case: dict[str, Any]) -> None:
    with pytest.raises(ModelSpecInvalid) as caught:
        parse_modelspec(case["input"])
    error = caught.value
    assert (type(error).__name__, error.line, error.column, error.nearest) == (
        case["expect"],
        case["line"],
        case["column"],
        case["nearest"],
    )
    assert f"line {error.line}, column {error.column}" in str(error)
    assert error.hint


@given(specs)
def test_whatever_is_written_reads_back_the_same(spec: ModelSpec) -> None:
    text = format_modelspec(spec)
    assert parse_modelspec(text) == spec
    assert text.isascii()


@given(specs)
def test_the_modelfile_of_a_spec_can_be_written(spec: ModelSpec) -> None:
    modelfile = spec_modelfile(spec)
    assert parse_modelfile(format_modelfile(modelfile)) == modelfile


def test_what_a_spec_says_is_what_its_modelfile_says() -> None:
    spec = ModelSpec(
        name="ann/pocket:small",
        version="1.2.0",
        hf_repo="Org/Repo",
        revision=COMMIT,
        prompt_template="{{ messages }}",
        system_prompt="Be brief.",
        license="MIT",
        defaults=(("temperature", 0.5), ("stop", "x")),
    )
    assert spec_name(spec) == ModelName("local", "ann", "pocket", "small", "1.2.0")
    assert spec_modelfile(spec) == Modelfile(
        f"hf:Org/Repo@{COMMIT}",
        (("temperature", 0.5), ("stop", "x")),
        template="{{ messages }}",
        system="Be brief.",
        licenses=("MIT",),
    )
    assert spec_modelfile(replace(spec, hf_repo=None, revision=None, path="weights")).base == "./weights"
    assert spec_modelfile(replace(spec, revision=None)).base == "hf:Org/Repo"


@pytest.mark.parametrize(
    "spec",
    [
        ModelSpec("pocket"),
        ModelSpec("A B", path="x"),
        ModelSpec("pocket", path="x", hf_repo="a/b"),
        ModelSpec("pocket", path=""),
        ModelSpec("pocket", path="x", license="\ud800"),
        ModelSpec("pocket", path="x", defaults=(("speed", 1),)),
        ModelSpec("pocket", version="1", hf_repo="a/b", revision="main"),
    ],
    ids=["no base", "no name", "two bases", "no path", "half of a surrogate pair", "unknown parameter", "unpinned"],
)
def test_what_no_spec_can_hold_is_not_written(spec: ModelSpec) -> None:
    with pytest.raises(ModelSpecInvalid):
        format_modelspec(spec)


@pytest.mark.parametrize(
    "text",
    [
        "name: " + "x" * MAX_YAML_CHARS,
        "[" * 100_000,
        "{a: " * 50_000,
        "- " * 100_000,
        "a: {" + "b, " * 80_000,
        "&a [" * 60_000,
        "name: x\nbase: {path: a}\ndefaults: {stop: [" + "a," * 100_000 + "]}",
        "? " * 100_000,
        "name: |" + "9" * 100_000,
        "%YAML " + "9" * 100_000,
        '"' + "\\x41" * 60_000,
        "name: !<" + "%41" * 80_000,
        "a: b\n" * 50_000,
        " " * 200_000 + "x",
        "#" * 250_000,
    ],
    ids=lambda text: text[:12],
)  # fmt: skip
def test_hostile_text_is_refused_soon_and_in_little_memory(text: str) -> None:
    assert MAX_NODES < 10_000
    tracemalloc.start()
    started = time.process_time()
    with pytest.raises(ModelSpecInvalid):
        parse_modelspec(text)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 64 << 20
    assert time.process_time() - started < 20
