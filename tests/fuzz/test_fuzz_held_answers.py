"""Any JSON as schemas and tools, any text as a model's words: only the named refusals come out, and soon."""

import json
import time
from contextlib import suppress
from itertools import pairwise
from typing import Any

import llguidance
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.models.engine.dialect import HARMONY, MUSE_SPARK, Dialect, Splitter
from node.models.engine.tool_families import FAMILIES
from node.models.errors import FormatInvalid, RequestRefused
from node.models.json_grammar import compiled, json_rule, parser_limits
from node.models.json_schemas import arguments_schema, compiled_form, format_schema, is_plain, require_tools

# fmt: off
KEYWORDS = [
    "type", "properties", "required", "items", "enum", "const", "anyOf", "allOf", "oneOf", "not", "$ref", "$defs",
    "definitions", "pattern", "minLength", "maxLength", "minimum", "maximum", "exclusiveMinimum", "minItems",
    "maxItems", "prefixItems", "additionalProperties", "format", "uniqueItems", "x-guidance", "patternProperties",
    "minProperties", "maxProperties", "title", "default", "name", "function", "parameters",
]
# fmt: on
WORDS = ["string", "integer", "number", "object", "array", "null", "boolean", "date", "email", "a", "^[a-z]{1,3}$", "#"]
LEAVES = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.sampled_from(WORDS)
JSON = st.recursive(
    LEAVES | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(KEYWORDS) | st.text(max_size=3), inner, max_size=5)
    ),
    max_leaves=20,
)
TOOL = st.fixed_dictionaries(
    {
        "type": st.just("function"),
        "function": st.fixed_dictionaries(
            {"name": st.sampled_from(["a", "get_weather", "é", "<"]) | JSON},
            optional={
                "parameters": st.fixed_dictionaries(
                    {},
                    optional={
                        "type": st.just("object") | JSON,
                        "properties": st.dictionaries(st.sampled_from(["a", "b", "é"]), JSON, max_size=3) | JSON,
                        "required": st.lists(st.sampled_from(["a", "b", "c"])) | JSON,
                        "$defs": JSON,
                    },
                )
                | JSON
            },
        ),
    }
)
MARKS = [
    "<think>",
    "</think>",
    "<tool_call>",
    "</tool_call>",
    "<|channel|>",
    "analysis",
    "<|message|>",
    "<|end|>",
    "{",
    "}",
]
TEXT = st.lists(st.sampled_from(MARKS) | st.text(max_size=5), max_size=12).map("".join)
CALLS = st.lists(
    st.sampled_from(
        [
            *(*MARKS, "get_weather", "[ARGS]", "functions.", ":0", "call:", "a:", '"a"', "=", ", ", "(", ")", "[", "]"),
            *("<parameter=a>\n", "\n</parameter>", "<arg_key>a</arg_key><arg_value>", "</arg_value>", "</function>"),
            *("<function=get_weather>\n", "1e999", "NaN", "1" * 5000, '{"name": "a", "arguments": {}}', "[" * 3000),
        ]
    )
    | st.text(max_size=4),
    max_size=10,
).map("".join)
BYTES = llguidance.LLTokenizer("byte")


@given(JSON)
@settings(deadline=None, max_examples=60)
def test_a_plain_schema_compiles_or_is_refused_at_once(value: Any) -> None:
    with suppress(FormatInvalid):
        schema = format_schema(value)
        if schema is None:
            return
        cleaned = compiled_form(schema)
        if is_plain(cleaned):
            begun_s = time.thread_time()
            try:
                compiled(BYTES, f"start: {json_rule(cleaned)}", parser_limits())
            finally:
                assert time.thread_time() - begun_s < 1


@given(st.lists(TOOL | JSON, max_size=3), st.sampled_from(["auto", "none", "required", "function:a", "function:"]))
@settings(deadline=None, max_examples=60)
def test_any_tools_are_accepted_or_refused_by_name(tools: list[Any], choice: str) -> None:
    with suppress(RequestRefused):
        require_tools(tools, choice)
        for tool in tools:
            json.dumps(arguments_schema(tool))


@pytest.mark.parametrize(
    "dialect", [Dialect(("<think>", "</think>"), ("<tool_call>", "</tool_call>")), HARMONY, MUSE_SPARK]
)
@given(text=TEXT, cuts=st.lists(st.integers(0, 40), max_size=6), opened=st.booleans(), strict=st.booleans())
@settings(deadline=None, max_examples=60)
def test_a_text_means_the_same_however_it_is_cut(
    dialect: Dialect, text: str, cuts: list[int], opened: bool, strict: bool
) -> None:
    def meaning(pieces: list[str]) -> list[tuple[str, str]]:
        splitter = Splitter.of(dialect, thinking=True, tools=True, opened=opened, strict=strict)
        segments = [segment for piece in pieces for segment in splitter.feed(piece)] + splitter.finish()
        joined: list[tuple[str, str]] = []
        for segment in segments:
            if joined and joined[-1][0] == segment.kind.value != "tool call":
                joined[-1] = (joined[-1][0], joined[-1][1] + segment.text)
            else:
                joined.append((segment.kind.value, segment.text))
        return joined

    places = [0, *sorted(cut for cut in cuts if cut <= len(text)), len(text)]
    pieces = [text[a:b] for a, b in pairwise(places)]
    assert meaning(pieces) == meaning([text])


@pytest.mark.parametrize("family", sorted(FAMILIES))
@given(text=CALLS)
@settings(deadline=None, max_examples=25)
def test_any_text_is_read_as_calls_or_as_none(family: str, text: str) -> None:
    tool = {
        "type": "function",
        "function": {"name": "get_weather", "parameters": {"properties": {"a": {"type": "string"}}}},
    }
    for name, arguments in FAMILIES[family].read(text, [tool]) or []:
        assert isinstance(name, str)
        json.dumps(arguments, allow_nan=False)
