"""The items of a response's input: their full form, the conversation they make, and what is refused by name."""

from typing import Any

import pytest

from node.api.errors import BodyInvalid
from node.api.openai_parts import NewId, new_ids
from node.api.openai_request import call_arguments
from node.api.responses_items import messages_of, read_input


def ids() -> NewId:
    return new_ids(lambda size: bytes(size))


def conversation(*items: dict[str, Any], instructions: str | None = None) -> list[dict[str, Any]]:
    return messages_of(instructions, read_input(items, ids()))


def test_a_text_is_a_message_of_the_user() -> None:
    (item,) = read_input("Hello!", ids())
    assert item["content"] == [{"type": "input_text", "text": "Hello!"}]
    assert (item["role"], item["type"], item["status"], item["id"][:4]) == ("user", "message", "completed", "msg_")
    assert messages_of(None, [item]) == [{"role": "user", "content": "Hello!"}]


def test_the_systems_words_at_the_beginning_become_one_message() -> None:
    told = conversation(
        {"role": "developer", "content": "Be brief."},
        {"role": "system", "content": [{"type": "input_text", "text": "Be kind."}]},
        {"role": "user", "content": "Hello!"},
        {"role": "developer", "content": "Now be loud."},
        instructions="You are a demo.",
    )
    assert told == [
        {"role": "system", "content": "You are a demo.\n\nBe brief.\n\nBe kind."},
        {"role": "user", "content": "Hello!"},
        {"role": "system", "content": "Now be loud."},
    ]


def test_thinking_words_and_calls_are_one_message_of_the_model() -> None:
    told = conversation(
        {"role": "user", "content": "Weather?"},
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "I look."}]},
        {"type": "function_call", "call_id": "c1", "name": "get_weather", "arguments": '{"city":"Paris"}'},
        {"type": "custom_tool_call", "call_id": "c2", "name": "patch", "input": "xx"},
        {"type": "function_call_output", "call_id": "c1", "output": "sunny"},
        {"type": "custom_tool_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "done"}]},
        {"role": "assistant", "content": "Sunny."},
        {"role": "assistant", "content": "And done."},
    )
    assert [line["role"] for line in told] == ["user", "assistant", "tool", "tool", "assistant", "assistant"]
    said = told[1]
    assert (said["content"], said["reasoning_content"]) == ("I look.", "hm")
    assert [call["function"] for call in said["tool_calls"]] == [
        {"name": "get_weather", "arguments": {"city": "Paris"}},
        {"name": "patch", "arguments": {"input": "xx"}},
    ]
    assert [(line["content"], line["tool_call_id"]) for line in told[2:4]] == [("sunny", "c1"), ("done", "c2")]


@pytest.mark.parametrize(
    ("item", "param"),
    [
        ({"role": "user", "content": [{"type": "input_image", "image_url": "http://x"}]}, "input.0.content"),
        ({"role": "user", "content": [{"type": "input_text"}]}, "input.0.content"),
        ({"role": "user", "content": 5}, "input.0.content"),
        ({"role": "tool", "content": "x"}, "input.0.role"),
        ({"type": "web_search_call", "id": "x"}, "input.0.type"),
        ({"type": ["message"]}, "input.0.type"),
        ({"type": "function_call", "call_id": "c", "name": "f"}, "input.0.arguments"),
        ({"type": "function_call_output", "output": "x"}, "input.0.call_id"),
        ({"type": "function_call_output", "call_id": "c", "output": None}, "input.0.output"),
        ({"type": "reasoning", "content": "hm"}, "input.0.content"),
        ({}, "input.0.id"),
    ],
)
def test_what_is_not_served_is_named(item: dict[str, Any], param: str) -> None:
    with pytest.raises(BodyInvalid) as caught:
        read_input([item], ids())
    assert caught.value.param == param


def test_arguments_that_are_no_json_object_are_named() -> None:
    with pytest.raises(BodyInvalid, match="not a JSON object"):
        conversation({"type": "function_call", "call_id": "c", "name": "f", "arguments": "[1]"})


@pytest.mark.parametrize(
    "arguments",
    ['{"a":"\\ud800"}', '{"a":NaN}', '{"a":1e400}', '{"a":' + "[" * 80 + "]" * 80 + "}"],
    ids=["half a character", "NaN", "beyond every float", "80 levels"],
)
def test_arguments_keep_to_the_rules_of_bodies(arguments: str) -> None:
    with pytest.raises(BodyInvalid, match="not a JSON object"):
        call_arguments(arguments, "messages.0.tool_calls")
