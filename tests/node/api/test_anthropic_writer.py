"""The events of a message of Anthropic's API, as its stock client's types and state machine read them."""

import json
from typing import Any

import pytest
from anthropic.lib.streaming._messages import accumulate_event
from anthropic.types import RawMessageStreamEvent
from pydantic import TypeAdapter

from node.api.anthropic_request import question_of
from node.api.anthropic_schemas import CountBody, MessagesBody
from node.api.anthropic_writer import MessageWriter
from node.api.errors import BodyInvalid
from node.api.openai_parts import new_ids
from node.models.errors import CapabilityMissing
from node.models.requests import Call, Ending, Piece

EVENT: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)
STOP = Ending("stop", 10, 9, 0, 0, 0, 0, cached_tokens=4)


def writer(*, hide_thinking: bool = False) -> MessageWriter:
    count = iter(range(1, 100))
    ids = new_ids(lambda size: next(count).to_bytes(size, "big"))
    return MessageWriter("demo", ids, max_tokens=20, hide_thinking=hide_thinking)


def told(writer: MessageWriter, *pieces: Piece) -> list[dict[str, Any]]:
    found = []
    for event in "".join(writer.take(piece) for piece in pieces).split("\n\n")[:-1]:
        name, _, data = event.partition("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    return found


def final(found: list[dict[str, Any]]) -> Any:
    """Return what the stock client makes of the events."""
    message, buffers = None, dict[int, bytes]()
    for event in found:
        if event["type"] != "ping":
            parsed = EVENT.validate_python(event)
            message = accumulate_event(event=parsed, current_snapshot=message, json_bufs=buffers)
    return message


def test_a_text() -> None:
    found = told(writer(), Piece("Hel", prompt_tokens=10), Piece("lo!"), Piece(ending=STOP))
    assert [event["type"] for event in found] == [
        "message_start",
        "ping",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert found[0]["message"]["usage"]["input_tokens"] == 10
    message = final(found)
    assert (message.content[0].text, message.stop_reason) == ("Hello!", "end_turn")
    usage = message.usage
    assert (usage.input_tokens, usage.cache_read_input_tokens, usage.output_tokens) == (6, 4, 9)


def test_thinking_text_and_calls() -> None:
    pieces = (
        Piece("hm", thinking=True, tokens=2),
        Piece("So: "),
        Piece(call=Call("get_weather", '{"city": "Paris"}')),
        Piece(call=Call("get_weather", '{"city": "Rome"}')),
        Piece(ending=STOP),
    )
    one = writer()
    message = final(told(one, *pieces))
    thinking, text, paris, rome = message.content
    assert (thinking.type, thinking.thinking, thinking.signature) == ("thinking", "hm", "")
    assert text.text == "So: "
    assert (paris.name, paris.input, rome.input) == ("get_weather", {"city": "Paris"}, {"city": "Rome"})
    assert paris.id != rome.id
    assert message.stop_reason == "tool_use"
    assert message.usage.output_tokens_details.thinking_tokens == 2
    hidden = final(told(writer(hide_thinking=True), *pieces))
    assert (hidden.content[0].type, hidden.content[0].thinking) == ("thinking", "")


@pytest.mark.parametrize(
    ("ending", "reason", "sequence"),
    [
        (Ending("length", 10, 20, 0, 0, 0, 0), "max_tokens", None),
        (Ending("length", 10, 5, 0, 0, 0, 0), "model_context_window_exceeded", None),
        (Ending("stop", 10, 5, 0, 0, 0, 0, stopped_by="END"), "stop_sequence", "END"),
    ],
)
def test_why_it_stopped(ending: Ending, reason: str, sequence: str | None) -> None:
    whole = writer()
    for piece in (Piece("x"), Piece(ending=ending)):
        whole.hear(piece)
    for message in (final(told(writer(), Piece("x"), Piece(ending=ending))).to_dict(), whole.whole()):
        assert (message["stop_reason"], message["stop_sequence"]) == (reason, sequence)


def asked(**body: Any) -> Any:
    hello = [{"role": "user", "content": "Hello!"}]
    whole = {"model": "demo", "max_tokens": 20, "messages": hello, **body}
    return question_of(MessagesBody.model_validate(whole), "")


def test_a_conversation_with_tools() -> None:
    messages = [
        {"role": "user", "content": "Weather?"},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": ""},
                {"type": "text", "text": "I look."},
                {"type": "tool_use", "id": "t1", "name": "get_weather", "input": {"city": "Paris"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "sunny"}]},
                {"type": "text", "text": "And now?", "cache_control": {"type": "ephemeral"}},
            ],
        },
    ]
    schema = {"type": "object"}
    question = asked(
        messages=messages,
        system=[{"type": "text", "text": "Be brief."}, {"type": "text", "text": "Be kind."}],
        tools=[{"name": "get_weather", "description": "d", "input_schema": schema}],
        tool_choice={"type": "tool", "name": "get_weather", "disable_parallel_tool_use": True},
        thinking={"type": "enabled", "budget_tokens": 1024},
        stop_sequences=["END"],
        top_k=5,
    )
    system, _, said, result, now = question.messages
    assert system == {"role": "system", "content": "Be brief.\n\nBe kind."}
    assert (said["content"], said["reasoning_content"]) == ("I look.", "hm")
    assert said["tool_calls"][0]["function"] == {"name": "get_weather", "arguments": {"city": "Paris"}}
    assert result == {"role": "tool", "content": "sunny", "tool_call_id": "t1"}
    assert now == {"role": "user", "content": "And now?"}
    function = {"name": "get_weather", "parameters": schema, "description": "d"}
    assert question.tools == [{"type": "function", "function": function}]
    assert (question.tool_choice, question.parallel_tool_calls) == ("function:get_weather", False)
    assert (question.thinking, question.thinking_if_able) == (True, False)
    assert question.options["num_predict"] == 20
    assert question.options["stop"] == ["END"]


def test_thinking_that_is_left_to_the_model() -> None:
    adaptive = asked(thinking={"type": "adaptive"}, output_config={"effort": "xhigh"})
    assert (adaptive.thinking, adaptive.thinking_if_able, adaptive.effort) == (True, True, "max")
    assert not asked(thinking={"type": "disabled"}).thinking
    assert not asked().thinking


def test_a_format() -> None:
    schema = {"type": "object", "properties": {}}
    form = {"type": "json_schema", "schema": schema}
    assert asked(output_config={"format": form}).format == schema
    assert asked(output_format=form).format == schema


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]},
        {"messages": [{"role": "user", "content": [{"type": "tool_result"}]}]},
        {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "He"}]},
        {"tools": [{"name": "bash", "type": "bash_20250124"}]},
        {"tool_choice": {"type": "any"}},
        {"tools": [{"name": "f", "input_schema": {}}], "tool_choice": {"type": "tool", "name": "g"}},
        {"stop_sequences": [" "]},
        {"container": "c"},
        {"mcp_servers": [{}]},
    ],
)
def test_what_is_not_served_is_refused(body: dict[str, Any]) -> None:
    with pytest.raises((BodyInvalid, CapabilityMissing)):
        asked(**body)


def test_to_count_needs_no_length() -> None:
    body = CountBody.model_validate({"model": "demo", "messages": [{"role": "user", "content": "Hi"}]})
    assert question_of(body, "").messages == [{"role": "user", "content": "Hi"}]
