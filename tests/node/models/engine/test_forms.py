"""The form of answers: every answer that a constraint lets through is what was asked for."""

import json
import math
import shutil
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import jsonschema_rs
import pytest

from node.models.demo import demo_directory
from node.models.errors import CapabilityMissing, FormatInvalid, ToolsInvalid
from tests.node.models.engine import random_schemas, walking

if TYPE_CHECKING:
    from node.models.engine.forms import Forms

pytestmark = pytest.mark.model


VECTORS = Path(__file__).parents[4] / "specs" / "vectors" / "0032-held-answers"
SCHEMAS = json.loads((VECTORS / "schemas.json").read_text(encoding="utf-8"))
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 8}, "days": {"type": "integer", "minimum": 1}},
            "required": ["city"],
        },
    },
}
CLOCK = {"type": "function", "function": {"name": "clock"}}
TOOLS = json.dumps([WEATHER, CLOCK])


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return walking.load_tokenizer()


@pytest.fixture(scope="module")
def forms(tokenizer: Any) -> "Forms":
    from node.models.engine.forms import Forms

    return Forms(tokenizer, 2048, lambda _text, _tools: [])


def _finite(text: str) -> float:
    # JSON has numbers of any size; the checker knows those of 64 bits.
    return min(max(float(text), -1e300), 1e300) if math.isinf(float(text)) else float(text)


@pytest.mark.parametrize("seed", range(40))
def test_an_answer_under_a_random_schema_validates(forms: "Forms", tokenizer: Any, seed: int) -> None:
    schema = random_schemas.draw_schema(Random(seed))
    checker = jsonschema_rs.validator_for(schema, validate_formats=True, ignore_unknown_formats=True)
    ended = 0
    for walk in range(4):
        form = forms.form(walking.request(format_json=json.dumps(schema)), "prompt")
        whole, meaning = walking.Walker(tokenizer, seed * 100 + walk).walk(form)
        if whole:
            ended += 1
            value = json.loads(walking.said(meaning), parse_float=_finite)
            checker.validate(value)
    assert ended, "no walk came to its end"


def test_json_without_a_schema_is_an_object(forms: "Forms", tokenizer: Any) -> None:
    for seed in range(5):
        form = forms.form(walking.request(format_json='"json"'), "prompt")
        whole, meaning = walking.Walker(tokenizer, seed).walk(form)
        assert not whole or isinstance(json.loads(walking.said(meaning)), dict)


def test_after_the_end_only_the_end_of_answer_may_follow(forms: "Forms", tokenizer: Any) -> None:
    form = forms.form(walking.request(format_json='{"const": true}'), "prompt")
    constraint = form.constraint
    assert constraint is not None
    for token in tokenizer.encode("true", add_special_tokens=False):
        assert constraint.mask()[token]  # type: ignore[index]  # a mask, not None: the answer is held
        constraint.accept(token)
    assert constraint.ended
    mask = constraint.mask()
    assert mask is not None
    assert set(mask.nonzero()[0]) == set(tokenizer.eos_token_ids)


@pytest.mark.parametrize("prompt", ["<|im_start|>assistant\n<think>\n", "<|im_start|>assistant\n"])
def test_the_thinking_is_free_and_the_answer_behind_it_is_not(forms: "Forms", tokenizer: Any, prompt: str) -> None:
    form = forms.form(walking.request(format_json='{"type": "integer"}', thinking=True), prompt)
    constraint = form.constraint
    assert constraint is not None
    words = "I think of </thin and <think things.</think>\n\n42" if "<think>" in prompt else "<think>Hm.</think>42"
    meaning = []
    detokenizer = tokenizer.detokenizer
    for token in tokenizer.encode(words, add_special_tokens=False):
        mask = constraint.mask()
        assert mask is None or mask[token], tokenizer.decode([token])
        constraint.accept(token)
        detokenizer.add_token(token)
        meaning += form.feed(detokenizer.last_segment)
    detokenizer.finalize()
    meaning += form.feed(detokenizer.last_segment) + form.finish()
    assert walking.said(meaning) == "42"
    assert walking.said(meaning, thinking=True).startswith(("I think of </thin", "Hm."))
    mask = constraint.mask()
    assert mask is not None
    assert not mask[tokenizer.encode("x", add_special_tokens=False)[0]]


def test_thinking_cannot_end_an_answer_that_has_a_format(forms: "Forms", tokenizer: Any) -> None:
    form = forms.form(walking.request(format_json='"json"', thinking=True), "<think>\n")
    assert form.constraint is not None
    mask = form.constraint.mask()
    assert mask is not None
    assert not any(mask[token] for token in tokenizer.eos_token_ids)
    assert mask.sum() == 2048 - len(tokenizer.eos_token_ids)


def test_without_thinking_the_answer_begins_at_once(forms: "Forms", tokenizer: Any) -> None:
    form = forms.form(walking.request(format_json='"json"'), "<|im_start|>assistant\n")
    assert form.constraint is not None
    mask = form.constraint.mask()
    assert mask is not None
    assert not mask[tokenizer.get_vocab()["<think>"]]


@pytest.mark.parametrize("parallel", [True, False])
def test_a_required_call_is_made_and_its_arguments_validate(forms: "Forms", tokenizer: Any, parallel: bool) -> None:
    counts = set()
    for seed in range(12):
        form = forms.form(
            walking.request(tools_json=TOOLS, tool_choice="required", parallel_tool_calls=parallel), "prompt"
        )
        whole, meaning = walking.Walker(tokenizer, seed).walk(form, most=1500)
        calls = walking.called(meaning)
        if not whole:
            continue
        counts.add(len(calls))
        assert not walking.said(meaning).strip()
        for call in calls:
            arguments = json.loads(call.arguments_json)
            if call.name == "clock":
                assert arguments == {}
            else:
                jsonschema_rs.validate(WEATHER["function"]["parameters"], arguments)  # type: ignore[index]  # a table
    assert counts == {1} if not parallel else counts > {1}


def test_a_named_tool_is_the_one_that_is_called(forms: "Forms", tokenizer: Any) -> None:
    for seed in range(6):
        form = forms.form(walking.request(tools_json=TOOLS, tool_choice="function:clock"), "prompt")
        whole, meaning = walking.Walker(tokenizer, seed).walk(form)
        assert whole
        assert [call.name for call in walking.called(meaning)] == ["clock"]


def test_none_says_anything_but_a_call(forms: "Forms", tokenizer: Any) -> None:
    wanted = walking.request(tools_json=TOOLS, tool_choice="none")
    assert forms.tools_for_prompt(wanted) == []
    form = forms.form(wanted, "prompt")
    constraint = form.constraint
    assert constraint is not None
    # However the mark is spelled, the token that would complete it is not allowed.
    pieces = [tokenizer.encode(letter, add_special_tokens=False)[0] for letter in "<tool_call"]
    for token in pieces:
        mask = constraint.mask()
        assert mask is not None
        assert mask[token]
        assert not mask[tokenizer.get_vocab()["<tool_call>"]]
        constraint.accept(token)
    mask = constraint.mask()
    assert mask is not None
    assert not mask[tokenizer.encode(">", add_special_tokens=False)[0]]
    assert mask[tokenizer.encode("x", add_special_tokens=False)[0]]


def test_auto_leaves_the_answer_free(forms: "Forms") -> None:
    form = forms.form(walking.request(tools_json=TOOLS), "prompt")
    assert form.constraint is None
    meaning = form.feed('Well.<tool_call>{"name": "clock", "arguments": {}}</tool_call>') + form.finish()
    assert walking.said(meaning) == "Well."
    assert [call.name for call in walking.called(meaning)] == ["clock"]


def test_calls_of_strict_tools_are_held_and_the_words_around_them_are_free(forms: "Forms", tokenizer: Any) -> None:
    strict = {"type": "function", "function": {**WEATHER["function"], "strict": True}}  # type: ignore[dict-item]  # a table
    wanted = walking.request(tools_json=json.dumps([strict, CLOCK]))
    forced, meaning = _force(
        forms.form(wanted, "prompt"),
        tokenizer,
        'I look. <tool_call>\n{"name": "get_weather", "arguments": {"city": "Nice</tool_call>"}}\n</tool_call>\n'
        '<tool_call>{"name": "clock", "arguments": {}}</tool_call> And that is all.',
    )
    assert [(call.name, json.loads(call.arguments_json)) for call in walking.called(meaning)] == [
        ("get_weather", {"city": "Nice"}),
        ("clock", {}),
    ]
    assert walking.said(meaning).startswith("I look. ")
    assert walking.said(meaning).endswith("And that is all.")
    assert forced == ["</tool_call>"]


def _force(form: Any, tokenizer: Any, words: str) -> tuple[list[str], Any]:
    """Say `words`, without what is not allowed; give that, and what the rest means."""
    refused, meaning = [], []
    detokenizer = tokenizer.detokenizer
    for token in tokenizer.encode(words, add_special_tokens=False):
        mask = form.constraint.mask()
        if mask is not None and not mask[token]:
            refused.append(tokenizer.decode([token]))
            continue
        form.constraint.accept(token)
        detokenizer.add_token(token)
        meaning += form.feed(detokenizer.last_segment)
    detokenizer.finalize()
    return refused, meaning + form.feed(detokenizer.last_segment) + form.finish()


def test_half_a_character_in_a_call_makes_it_words(forms: "Forms") -> None:
    form = forms.form(walking.request(tools_json=TOOLS), "prompt")
    call = '{"name": "get_weather", "arguments": {"city": "\\ud800"}}'
    meaning = form.feed(f"<tool_call>{call}</tool_call>") + form.finish()
    assert (walking.called(meaning), walking.said(meaning)) == ([], call)


def test_one_call_is_enough_where_calls_are_not_parallel(forms: "Forms") -> None:
    form = forms.form(walking.request(tools_json=TOOLS, parallel_tool_calls=False), "prompt")
    call = '<tool_call>{"name": "clock", "arguments": {}}</tool_call>'
    meaning = form.feed(f"{call}\n{call} and more")
    assert form.ended
    assert len(walking.called(meaning)) == 1
    assert form.finish() == []


def test_a_format_with_tools_is_a_call_or_the_format(forms: "Forms", tokenizer: Any) -> None:
    seen = set()
    for seed in range(20):
        form = forms.form(walking.request(tools_json=TOOLS, format_json='{"type": "boolean"}'), "prompt")
        whole, meaning = walking.Walker(tokenizer, seed).walk(form, most=1500)
        if whole:
            calls = walking.called(meaning)
            seen.add(bool(calls))
            assert calls or isinstance(json.loads(walking.said(meaning)), bool)
    assert seen == {True, False}


def test_a_prompt_as_it_stands_is_held_too_and_its_marks_are_words(forms: "Forms", tokenizer: Any) -> None:
    held = forms.form(walking.request(prompt="x", messages_json=None, format_json='{"type": "integer"}'), "x")
    assert held.constraint is not None
    free = forms.form(walking.request(prompt="x", messages_json=None), "x")
    assert free.constraint is None
    assert walking.said(free.feed("<think>a</think><tool_call>") + free.finish()) == "<think>a</think><tool_call>"


def test_marks_within_a_held_answer_are_its_own_words(forms: "Forms") -> None:
    form = forms.form(walking.request(format_json='"json"', thinking=True), "prompt")
    meaning = form.feed('{"a": "<think>') + form.feed('<tool_call>"}') + form.finish()
    assert walking.said(meaning) == '{"a": "<think><tool_call>"}'


@pytest.mark.parametrize("vector", SCHEMAS, ids=lambda vector: vector["comment"])
def test_a_schema_is_kept_to_or_refused_by_name(forms: "Forms", vector: dict[str, Any]) -> None:
    wanted = walking.request(format_json=json.dumps(vector["input"]))
    if vector["expect"] == "ok":
        assert forms.form(wanted, "prompt").constraint is not None
        return
    with pytest.raises(FormatInvalid, match=vector["reason"]):
        forms.form(wanted, "prompt")


@pytest.mark.parametrize(
    ("tools", "choice", "named"),
    [
        ([CLOCK, CLOCK], "auto", "two are named 'clock'"),
        ([{"type": "function", "function": {"name": ""}}], "auto", "number 1 has no name"),
        ([{"type": "function"}], "auto", "number 1 is no function"),
        ([CLOCK], "function:other", "none of them"),
        ([], "required", "there are none"),
    ],
)
def test_tools_that_cannot_be_offered_are_refused(forms: "Forms", tools: object, choice: str, named: str) -> None:
    with pytest.raises(ToolsInvalid, match=named):
        forms.form(walking.request(tools_json=json.dumps(tools), tool_choice=choice), "prompt")


HARMONY_MARKS = (*("<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|constrain|>", "<|return|>", "<|call|>"),)


@pytest.fixture(scope="module")
def harmony(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The demo model's tokenizer with the marks of a family whose messages have headers."""
    directory = tmp_path_factory.mktemp("harmony")
    for name in ("config.json", "tokenizer_config.json"):
        shutil.copy(demo_directory() / name, directory)
    written = json.loads((demo_directory() / "tokenizer.json").read_text(encoding="utf-8"))
    written["added_tokens"] += [
        {**written["added_tokens"][-1], "id": 2048 + place, "content": mark, "special": True}
        for place, mark in enumerate(HARMONY_MARKS)
    ]
    (directory / "tokenizer.json").write_text(json.dumps(written), encoding="utf-8")
    tokenizer = walking.load_tokenizer(directory)
    tokenizer.eos_token_ids = [2, 2053, 2054]
    return tokenizer


@pytest.mark.parametrize("thought", ["", "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant"])
def test_harmony_is_held_in_its_channels(harmony: Any, thought: str) -> None:
    from node.models.engine.forms import Forms

    forms = Forms(harmony, len(harmony), lambda _text, _tools: [])
    assert forms.can_use_tools
    held = forms.form(walking.request(format_json='{"type": "integer"}'), "<|start|>assistant")
    refused, meaning = _force(held, harmony, f"{thought}no<|channel|>final<|message|>no42")
    assert (refused[:1], walking.said(meaning)) == (["no"], "42")
    assert walking.said(meaning, thinking=True) == ("Hm." if thought else "")
    call = forms.form(walking.request(tools_json=TOOLS, tool_choice="function:get_weather"), "<|start|>assistant")
    header = "<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>"
    refused, meaning = _force(call, harmony, f'{thought}{header}{{"city": "Nice"}}')
    assert refused == []
    assert [(each.name, json.loads(each.arguments_json)) for each in walking.called(meaning)] == [
        ("get_weather", {"city": "Nice"})
    ]
    walk = walking.Walker(harmony, 1, ("<|end|>",)).walk(
        forms.form(walking.request(tools_json=TOOLS, tool_choice="required"), "<|start|>assistant"), most=1000
    )
    assert walk[0]
    assert len(walking.called(walk[1])) == 1


def test_a_family_without_a_grammar_refuses_to_be_held(tokenizer: Any) -> None:
    from node.models.engine.forms import Forms

    forms = Forms(tokenizer, 2048, lambda _text, _tools: [])
    forms._family = None
    with pytest.raises(CapabilityMissing, match="required"):
        forms.form(walking.request(tools_json=TOOLS, tool_choice="required"), "prompt")


@pytest.mark.parametrize("name", ["", "x" * 1025])
def test_a_call_whose_name_cannot_be_told_is_words(forms: "Forms", name: str) -> None:
    text = json.dumps({"name": name, "arguments": {}})
    form = forms.form(walking.request(tools_json=TOOLS), "prompt")
    meaning = [*form.feed(f"<tool_call>{text}</tool_call>"), *form.finish()]
    assert walking.called(meaning) == []
    assert walking.said(meaning) == text
