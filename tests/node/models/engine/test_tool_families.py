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
ARGUMENTS = {"city": "Paris", "unit": "celsius", "days": 3, "night": True}
# What models of the family write, as their templates show it.
USUAL = {
    "json_tools": f'<tool_call>\n{{"name": "get_weather", "arguments": {json.dumps(ARGUMENTS)}}}\n</tool_call>',
    "mistral": f"[TOOL_CALLS]get_weather[ARGS]{json.dumps(ARGUMENTS)}",
    "kimi_k2": "<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0<|tool_call_argument_begin|>"
    f"{json.dumps(ARGUMENTS)}<|tool_call_end|><|tool_calls_section_end|>",
    "kimi_k3": '<|open|>tools<|sep|><|open|>call tool="get_weather" index="1"<|sep|>'
    f'<|open|>json type="object"<|sep|>{json.dumps(ARGUMENTS)}<|close|>json<|sep|><|close|>call<|sep|>'
    "<|close|>tools<|sep|>",
    "qwen3_coder": "<tool_call>\n<function=get_weather>\n<parameter=city>\nParis\n</parameter>\n<parameter=unit>\n"
    "celsius\n</parameter>\n<parameter=days>\n3\n</parameter>\n<parameter=night>\ntrue\n</parameter>\n</function>\n"
    "</tool_call>",
    "glm47": "<tool_call>get_weather<arg_key>city</arg_key><arg_value>Paris</arg_value><arg_key>unit</arg_key>"
    "<arg_value>celsius</arg_value>\n<arg_key>days</arg_key><arg_value>3</arg_value><arg_key>night</arg_key>"
    "<arg_value>true</arg_value></tool_call>",
    "longcat": "<longcat_tool_call>get_weather\n<longcat_arg_key>city</longcat_arg_key><longcat_arg_value>Paris"
    "</longcat_arg_value>\n<longcat_arg_key>unit</longcat_arg_key><longcat_arg_value>celsius</longcat_arg_value>\n"
    "<longcat_arg_key>days</longcat_arg_key><longcat_arg_value>3</longcat_arg_value>\n<longcat_arg_key>night"
    "</longcat_arg_key><longcat_arg_value>true</longcat_arg_value>\n</longcat_tool_call>",
    "minimax_m2": '<minimax:tool_call>\n<invoke name="get_weather">\n<parameter name="city">Paris</parameter>\n'
    '<parameter name="unit">celsius</parameter>\n<parameter name="days">3</parameter>\n'
    '<parameter name="night">true</parameter>\n</invoke>\n</minimax:tool_call>',
    "minicpm5": '<function name="get_weather"><param name="city">Paris</param><param name="unit">celsius</param>'
    '<param name="days">3</param><param name="night">true</param></function>',
    "gemma4": '<|tool_call>call:get_weather{city:<|"|>Paris<|"|>,unit:<|"|>celsius<|"|>,days:3,night:true}<tool_call|>',
    "function_gemma": "<start_function_call>call:get_weather{city:<escape>Paris<escape>,unit:<escape>celsius<escape>,"
    "days:3,night:true}<end_function_call>",
    "pythonic": '<|tool_call_start|>[get_weather(city="Paris", unit="celsius", days=3, night=true)]<|tool_call_end|>',
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
USUAL["laguna"] = USUAL["glm47"]


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
        text = f'[TOOL_CALLS][{{"name": "get_weather", "arguments": {json.dumps(ARGUMENTS)}}}]'
    else:
        text = USUAL[name]
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
        ("get_weather", ARGUMENTS)
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
