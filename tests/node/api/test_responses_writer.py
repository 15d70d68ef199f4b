"""The events of a response: their order, their numbers, and that the stock client takes them."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from openai._types import omit
from openai.lib.streaming.responses._responses import ResponseStreamState
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from node.api.openai_parts import NewId, new_ids
from node.api.responses_request import resource_of
from node.api.responses_schemas import ResponseBody
from node.api.responses_tools import read_tools
from node.api.responses_writer import ResponseWriter
from node.models.requests import Call, Ending, Piece
from protocol.worker import logprobs

STOP = Ending("stop", 10, 9, 0, 0, 0, 0, cached_tokens=4)
WEATHER = {"type": "function", "name": "get_weather", "parameters": {"type": "object"}}
PATCH = {"type": "custom", "name": "patch", "format": {"type": "grammar", "syntax": "lark", "definition": "start: /x/"}}
EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
# What Open Responses asks of every response, whatever it answers.
REQUIRED = {
    "id",
    "object",
    "created_at",
    "completed_at",
    "status",
    "incomplete_details",
    "model",
    "previous_response_id",
    "instructions",
    "output",
    "error",
    "tools",
    "tool_choice",
    "truncation",
    "parallel_tool_calls",
    "text",
    "top_p",
    "presence_penalty",
    "frequency_penalty",
    "top_logprobs",
    "temperature",
    "reasoning",
    "user",
    "usage",
    "max_output_tokens",
    "max_tool_calls",
    "store",
    "background",
    "service_tier",
    "metadata",
    "safety_identifier",
    "prompt_cache_key",
}


def numbered() -> NewId:
    count = iter(range(1, 100))
    return new_ids(lambda size: next(count).to_bytes(size, "big"))


def writer(**body: Any) -> ResponseWriter:
    asked = ResponseBody.model_validate({"model": "demo", "input": "Hello!", **body})
    _, shown, custom = read_tools(asked.tools)
    return ResponseWriter(resource_of(asked, shown, "resp_ab", 1000, store=True), custom, numbered(), lambda: 1001)


def told(writer: ResponseWriter, *pieces: Piece) -> list[dict[str, Any]]:
    text = "".join(writer.take(piece) for piece in pieces)
    return events(text)


def events(text: str) -> list[dict[str, Any]]:
    found = []
    for event in text.split("\n\n")[:-1]:
        if event == "data: [DONE]":
            continue
        name, _, data = event.partition("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
        EVENT.validate_python(found[-1])
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    return found


def final(found: list[dict[str, Any]]) -> Any:
    """Return what the stock client makes of the events."""
    state: ResponseStreamState[Any] = ResponseStreamState(input_tools=omit, text_format=omit)
    for event in found:
        state.handle_event(EVENT.validate_python(event))
    return state._completed_response


def test_a_text() -> None:
    one = writer()
    found = told(one, Piece("Hel"), Piece("lo!"), Piece(ending=STOP))
    assert [event["type"].removeprefix("response.") for event in found] == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert found[0]["response"]["status"] == "in_progress"
    assert found[2]["item"]["content"] == []
    assert found[3]["part"]["text"] == ""
    assert found[-1]["response"]["usage"] == {
        "input_tokens": 10,
        "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 0},
        "output_tokens": 9,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 19,
    }
    assert final(found).output_text == "Hello!"
    assert (one.resource["status"], one.resource["completed_at"]) == ("completed", 1001)


def test_thinking_text_and_calls() -> None:
    found = told(
        writer(tools=[WEATHER, PATCH]),
        Piece("hm", thinking=True, tokens=1),
        Piece(".", thinking=True, tokens=2),
        Piece("So: ", tokens=3),
        Piece(call=Call("get_weather", '{"city": "Paris"}')),
        Piece(call=Call("patch", '{"input": "xx"}')),
        Piece(ending=STOP),
    )
    reasoning, message, call, patch = final(found).output
    assert (reasoning.type, reasoning.content[0].text) == ("reasoning", "hm.")
    assert (message.type, message.content[0].text) == ("message", "So: ")
    assert (call.type, call.name, call.arguments) == ("function_call", "get_weather", '{"city": "Paris"}')
    assert (patch.type, patch.name, patch.input) == ("custom_tool_call", "patch", "xx")
    assert call.call_id != patch.call_id
    assert found[-1]["response"]["usage"]["output_tokens_details"] == {"reasoning_tokens": 2}
    kinds = [event["type"] for event in found]
    assert "response.function_call_arguments.done" in kinds
    assert "response.custom_tool_call_input.done" in kinds
    assert [event["output_index"] for event in found if event["type"] == "response.output_item.done"] == [0, 1, 2, 3]


def test_an_answer_that_is_cut_off_is_incomplete() -> None:
    found = told(writer(max_output_tokens=3), Piece("Hel"), Piece(ending=Ending("length", 10, 3, 0, 0, 0, 0)))
    last = found[-1]
    assert last["type"] == "response.incomplete"
    assert last["response"]["incomplete_details"] == {"reason": "max_output_tokens"}
    assert last["response"]["output"][0]["status"] == "incomplete"
    assert last["response"]["completed_at"] is None


def test_an_answer_without_a_word_has_no_items() -> None:
    found = told(writer(), Piece(ending=STOP))
    assert [event["type"] for event in found] == ["response.created", "response.in_progress", "response.completed"]
    assert found[-1]["response"]["output"] == []


def test_log_probabilities() -> None:
    token = logprobs.chosen(logprobs.begin(b"Hi"), -0.5, [(logprobs.begin(b"Ho"), -1.5)])
    found = told(writer(top_logprobs=1), Piece("Hi", logprobs_json=logprobs.joined([token])), Piece(ending=STOP))
    (delta,) = [event for event in found if event["type"] == "response.output_text.delta"]
    (said,) = delta["logprobs"]
    assert (said["token"], said["logprob"], said["bytes"]) == ("Hi", -0.5, [72, 105])
    assert said["top_logprobs"] == [{"token": "Ho", "logprob": -1.5, "bytes": [72, 111]}]
    assert final(found).output[0].content[0].logprobs[0].logprob == -0.5


def test_a_stream_that_breaks_ends_with_what_was_said() -> None:
    one = writer()
    text = one.take(Piece("Hel")) + one.fail("", "the model worker was ended by SIGKILL")
    last = events(text)[-1]
    assert last["type"] == "response.failed"
    assert last["response"]["error"] == {"code": "server_error", "message": "the model worker was ended by SIGKILL"}
    assert text.endswith("data: [DONE]\n\n")


SCRIPTS: list[tuple[Piece, ...]] = [
    (Piece("Hel"), Piece("lo!"), Piece(ending=STOP)),
    (Piece("hm", thinking=True, tokens=1), Piece("x"), Piece(call=Call("f", "{}")), Piece(ending=STOP)),
    (Piece("Hel"), Piece(ending=Ending("length", 10, 3, 0, 0, 0, 0))),
    (Piece(ending=STOP),),
]


@pytest.mark.parametrize("pieces", SCRIPTS)
def test_whole_and_streamed_are_the_same(pieces: tuple[Piece, ...]) -> None:
    streamed, whole = writer(), writer()
    found = told(streamed, *pieces)
    for piece in pieces:
        whole.hear(piece)
    assert whole.resource == streamed.resource == found[-1]["response"]


@pytest.mark.parametrize(
    "resource",
    [lambda: writer().resource, lambda: told(writer(), Piece("x"), Piece(ending=STOP))[-1]["response"]],
)
def test_every_key_is_there(resource: Callable[[], dict[str, Any]]) -> None:
    there = resource().keys()
    assert there >= REQUIRED
    assert Response.model_fields.keys() <= there


def test_what_was_asked_is_told_back() -> None:
    schema = {"type": "object"}
    resource = writer(
        tools=[WEATHER],
        text={"format": {"type": "json_schema", "name": "person", "schema": schema}},
        reasoning={"effort": "low"},
        metadata={"a": "b"},
        temperature=0.5,
    ).resource
    assert resource["text"]["format"] == {
        "type": "json_schema",
        "name": "person",
        "description": None,
        "schema": schema,
        "strict": True,
    }
    assert resource["tools"] == [{**WEATHER, "description": None, "strict": None}]
    assert (resource["reasoning"]["effort"], resource["metadata"], resource["temperature"]) == ("low", {"a": "b"}, 0.5)
    Response.model_validate(resource)
