"""Every family's tool calls: what its grammar writes its reading gives back, and mlx-lm's own parser agrees."""

import json
import shutil
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import jsonschema_rs
import pytest

from node.models.demo import demo_directory
from node.models.errors import FormatInvalid
from tests.node.models.engine import random_schemas, walking

if TYPE_CHECKING:
    from node.models.engine.forms import Forms

pytestmark = pytest.mark.model

# The marks that the family's vocabularies have as tokens of their own.
FAMILIES: dict[str, tuple[str, ...]] = {
    "json_tools": (),
    "mistral": ("[TOOL_CALLS]", "[ARGS]"),
    "kimi_k2": (
        "<|tool_calls_section_begin|>",
        "<|tool_calls_section_end|>",
        "<|tool_call_begin|>",
        "<|tool_call_argument_begin|>",
        "<|tool_call_end|>",
    ),
    "kimi_k3": ("<|open|>", "<|close|>", "<|sep|>", "<|end_of_msg|>"),
    "qwen3_coder": (),
    "glm47": ("<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"),
    "laguna": (),
    "longcat": ("<longcat_tool_call>", "</longcat_tool_call>"),
    "minimax_m2": ("<minimax:tool_call>", "</minimax:tool_call>"),
    "minicpm5": (),
    "gemma4": ("<|tool_call>", "<tool_call|>", '<|"|>'),
    "function_gemma": ("<start_function_call>", "<end_function_call>", "<escape>"),
    "pythonic": ("<|tool_call_start|>", "<|tool_call_end|>"),
}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
                "days": {"type": "integer", "minimum": 1, "maximum": 9},
                "night": {"type": "boolean"},
            },
            "required": ["city", "unit", "days"],
        },
    },
}
VECTORS = Path(__file__).parents[4] / "specs" / "vectors" / "0032-held-answers"
# What models of the family write, as their templates show it.
USUAL = {
    vector["input"]["family"]: vector for vector in json.loads((VECTORS / "calls.json").read_text(encoding="utf-8"))
}
# With and without its marks as tokens; one family is known by them.
CASES = [(name, True) for name, marks in FAMILIES.items() if marks] + [
    (name, False) for name in FAMILIES if name != "kimi_k3"
]
ENDINGS = (
    "\n</parameter>",
    "</tool_call>",
    "</minimax:tool_call>",
    "</function>",
    "]",
    "}",
    "</parameter>",
    "</arg_value>",
    "</longcat_arg_value>",
    "</param>",
    '<|"|>',
    "<escape>",
)


def _directory(parent: Path, family: str, *, marked: bool) -> Path:
    """Give the demo model's tokenizer as a family's: its parser, and with `marked` its marks as tokens."""
    directory = parent / f"{family}-{marked}"
    directory.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(demo_directory() / name, directory)
    config = json.loads((directory / "tokenizer_config.json").read_text(encoding="utf-8"))
    (directory / "tokenizer_config.json").write_text(json.dumps({**config, "tool_parser_type": family}))
    tokenizer = json.loads((directory / "tokenizer.json").read_text(encoding="utf-8"))
    if marked:
        tokenizer["added_tokens"] += [
            {**tokenizer["added_tokens"][-1], "id": 2048 + place, "content": mark, "special": place % 2 == 0}
            for place, mark in enumerate(FAMILIES[family])
        ]
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer))
    return directory


@pytest.fixture(scope="module", params=CASES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> "tuple[str, Any, Forms]":
    """Give a family's name, tokenizer and forms."""
    name, marked = request.param
    tokenizer = walking.load_tokenizer(_directory(tmp_path_factory.mktemp(name), name, marked=marked))
    return name, tokenizer, _forms(tokenizer)


def _forms(tokenizer: Any) -> "Forms":
    from node.models.engine.forms import Forms

    def read(text: str, tools: Any) -> list[tuple[str, str]]:
        try:
            parsed = tokenizer.tool_parser(text, list(tools))
        except (ValueError, LookupError, TypeError, AttributeError):
            return []
        calls = parsed if isinstance(parsed, list) else [parsed]
        return [(call["name"], json.dumps(call["arguments"])) for call in calls]

    return Forms(tokenizer, len(tokenizer), read)


def test_what_its_models_write_is_allowed_and_read(family: "tuple[str, Any, Forms]") -> None:
    name, tokenizer, forms = family
    form = forms.form(walking.request(tools_json=json.dumps([WEATHER]), tool_choice="required"), "prompt")
    constraint = form.constraint
    assert constraint is not None
    meaning = []
    if name == "mistral" and "[ARGS]" not in tokenizer.get_vocab():
        text = f'[TOOL_CALLS][{{"name": "get_weather", "arguments": {json.dumps(USUAL[name]["arguments"])}}}]'
    else:
        text = USUAL[name]["input"]["text"]
    detokenizer = tokenizer.detokenizer
    for token in tokenizer.encode(text, add_special_tokens=False):
        mask = constraint.mask()
        assert mask is not None
        assert mask[token], f"{tokenizer.decode([token])!r} after {tokenizer.decode(detokenizer.tokens)!r}"
        constraint.accept(token)
        detokenizer.add_token(token)
        meaning += form.feed(detokenizer.last_segment)
    detokenizer.finalize()
    meaning += form.feed(detokenizer.last_segment) + form.finish()
    assert [(call.name, json.loads(call.arguments_json)) for call in walking.called(meaning)] == [
        (USUAL[name]["name"], USUAL[name]["arguments"])
    ]
    assert not walking.said(meaning).strip()


@pytest.mark.parametrize("seed", range(5))
def test_a_walk_through_random_tools_gives_calls_that_validate(family: "tuple[str, Any, Forms]", seed: int) -> None:
    _, tokenizer, forms = family
    source = Random(seed)
    tools = [
        {"type": "function", "function": {"name": name, "parameters": random_schemas.draw_object(source)}}
        for name in ("get_weather", "send-mail", "a.b")[: 1 + seed % 3]
    ]
    for tool in tools:
        properties = tool["function"]["parameters"]["properties"]  # type: ignore[index]  # a table
        properties.pop("Größe", None) if seed % 2 else None
        tool["function"]["parameters"]["required"] = [n for n in properties if n != "x_y"]  # type: ignore[index]
    schemas = {tool["function"]["name"]: tool["function"]["parameters"] for tool in tools}  # type: ignore[index]
    checked = 0
    for walk in range(10):
        form = forms.form(walking.request(tools_json=json.dumps(tools), tool_choice="required"), "prompt")
        whole, meaning = walking.Walker(tokenizer, 100 * seed + walk, ENDINGS).walk(form, most=1000)
        if not whole:
            continue
        calls = walking.called(meaning)
        assert calls, walking.said(meaning)
        assert not walking.said(meaning).strip()
        for call in calls:
            jsonschema_rs.validator_for(
                schemas[call.name], validate_formats=True, ignore_unknown_formats=True
            ).validate(json.loads(call.arguments_json))
            checked += 1
        if checked > 1:
            break
    assert checked


def test_a_call_in_the_words_of_its_family_that_the_grammar_would_not_write_is_still_read(
    tmp_path: Path,
) -> None:
    tokenizer = walking.load_tokenizer(_directory(tmp_path, "qwen3_coder", marked=False))
    form = _forms(tokenizer).form(walking.request(tools_json=json.dumps([WEATHER])), "prompt")
    meaning = form.feed("<tool_call><function=get_weather><parameter=city>Paris</parameter></function></tool_call>")
    assert [json.loads(call.arguments_json) for call in walking.called(meaning)] == [{"city": "Paris"}]


def test_arguments_that_depend_on_each_other_are_refused_where_they_are_written_one_by_one(
    family: "tuple[str, Any, Forms]",
) -> None:
    name, _, forms = family
    parameters = {"type": "object", "properties": {"a": {"type": "string"}}, "anyOf": [{"required": ["a"]}]}
    tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
    wanted = walking.request(tools_json=json.dumps([tool]), tool_choice="required")
    if name in ("json_tools", "mistral", "kimi_k2", "kimi_k3"):
        assert forms.form(wanted, "prompt").constraint is not None
        return
    with pytest.raises(FormatInvalid, match="anyOf"):
        forms.form(wanted, "prompt")


def test_a_call_that_is_nested_too_deeply_is_no_call() -> None:
    from node.models.engine.tool_families import FAMILIES as KNOWN

    assert KNOWN["pythonic"].read("[f(a=" + "[" * 100_000 + "]", []) is None
