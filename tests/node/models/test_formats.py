"""Formats and tool choices with a real worker on the demo model, alone and beside others."""

import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import jsonschema_rs
import psutil
import pytest
import trio

from node.models.demo import demo_directory
from node.models.errors import FormatInvalid, ToolsInvalid
from node.models.requests import Call, GenerateRequest, Piece
from node.models.service import Models
from node.models.testing import DirectoryLibrary
from node.ports import SystemClock, SystemEntropy

pytestmark = pytest.mark.model

ANN = "Give me JSON with name Ann and age 30."
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


def tool(name: str, **properties: Any) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties, "required": list(properties)}
    return {"type": "function", "function": {"name": name, "description": f"Does {name}.", "parameters": parameters}}


WEATHER = tool("get_weather", city={"type": "string"})
CLOCK = tool("get_time", place={"type": "string"}, zone={"enum": ["utc", "local"]})


@asynccontextmanager
async def serving() -> AsyncIterator[Models]:
    library = DirectoryLibrary()
    library.add("demo", demo_directory())
    service = Models(library, SystemClock(), SystemEntropy())
    async with trio.open_nursery() as nursery:
        await nursery.start(service.run)
        yield service
        nursery.cancel_scope.cancel()


def chat(text: str, **fields: Any) -> GenerateRequest:
    options = {"temperature": 0, "num_predict": 200, **fields.pop("options", {})}
    return GenerateRequest("demo", messages=[{"role": "user", "content": text}], options=options, **fields)


async def said(service: Models, request: GenerateRequest) -> list[Piece]:
    async with service.generate(request) as pieces:
        return [piece async for piece in pieces]


def text_of(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces if not piece.thinking)


def calls_of(pieces: list[Piece]) -> list[Call]:
    return [piece.call for piece in pieces if piece.call is not None]


def reason_of(pieces: list[Piece]) -> str:
    assert pieces[-1].ending is not None
    return pieces[-1].ending.reason


async def refusal_of(service: Models, request: GenerateRequest) -> str:
    """Give why a format was refused; empty: it was answered."""
    try:
        await said(service, request)
    except FormatInvalid as error:
        return str(error)
    return ""


async def test_json_under_a_schema_is_what_the_model_knows() -> None:
    async with serving() as service:
        for format_ in (PERSON, "json"):
            pieces = await said(service, chat(ANN, format=format_))
            assert json.loads(text_of(pieces)) == {"name": "Ann", "age": 30}
            assert reason_of(pieces) == "stop"


async def test_an_answer_that_is_whole_with_its_last_token_was_not_cut_off() -> None:
    async with serving() as service:
        free = await said(service, chat(ANN, format=PERSON))
        assert free[-1].ending is not None
        tokens = free[-1].ending.eval_tokens - 1  # without the model's end of the answer
        for most, reason in ((tokens, "stop"), (tokens - 1, "length")):
            pieces = await said(service, chat(ANN, format=PERSON, options={"num_predict": most}))
            assert reason_of(pieces) == reason
        async with service.generate(chat("x", tools=[WEATHER], tool_choice="none", options={"num_predict": 1})) as one:
            assert reason_of([piece async for piece in one]) == "length"


async def test_a_schema_holds_against_what_the_model_would_say() -> None:
    schema = {"type": "object", "properties": {"colour": {"enum": ["red", "blue"]}}, "required": ["colour"]}
    async with serving() as service:
        pieces = await said(service, chat("What is the capital of France?", format=schema))
        assert json.loads(text_of(pieces))["colour"] in ("red", "blue")
        assert reason_of(pieces) == "stop"
        assert text_of(await said(service, chat("What is the capital of France?"))) == "Paris."


async def test_the_thinking_comes_before_the_format() -> None:
    async with serving() as service:
        pieces = await said(service, chat("What is 7 + 5?", format={"type": "integer"}, thinking=True))
        assert "".join(piece.text for piece in pieces if piece.thinking).strip() == "7 plus 5 is 12."
        assert isinstance(json.loads(text_of(pieces)), int)
        free = await said(service, chat("What is 7 + 5?", thinking=True))
        assert text_of(free) == "7 + 5 = 12."


async def test_a_required_tool_is_called_whatever_is_asked() -> None:
    async with serving() as service:
        pieces = await said(service, chat("Hello!", tools=[WEATHER], tool_choice="required", parallel_tool_calls=False))
        assert [call.name for call in calls_of(pieces)] == ["get_weather"]
        jsonschema_rs.validate(WEATHER["function"]["parameters"], json.loads(calls_of(pieces)[0].arguments_json))
        assert not text_of(pieces).strip()
        assert reason_of(pieces) == "stop"
        free = await said(service, chat("Hello!"))
        assert text_of(free) == "Hello! How can I help you?"


async def test_a_required_tool_gets_the_arguments_that_the_model_would_give() -> None:
    async with serving() as service:
        for choice in ("auto", "required", "function:get_weather"):
            pieces = await said(service, chat("What is the weather in Paris?", tools=[WEATHER], tool_choice=choice))
            assert [(call.name, json.loads(call.arguments_json)) for call in calls_of(pieces)][:1] == [
                ("get_weather", {"city": "Paris"})
            ]


async def test_a_named_tool_is_called_and_no_other() -> None:
    async with serving() as service:
        pieces = await said(
            service,
            chat("What is the weather in Paris?", tools=[WEATHER, CLOCK], tool_choice="function:get_time"),
        )
        assert [call.name for call in calls_of(pieces)] == ["get_time"]
        jsonschema_rs.validate(CLOCK["function"]["parameters"], json.loads(calls_of(pieces)[0].arguments_json))


async def test_none_calls_nothing() -> None:
    async with serving() as service:
        pieces = await said(service, chat("What is the weather in Paris?", tools=[WEATHER], tool_choice="none"))
        assert calls_of(pieces) == []
        assert text_of(pieces)
        assert "<tool_call>" not in text_of(pieces)


async def test_parallel_calls_are_all_told_and_one_is_enough_where_they_are_not() -> None:
    tools = [tool("ping", times={"type": "integer", "minimum": 1, "maximum": 9}), tool("pong")]
    schemas = {each["function"]["name"]: each["function"]["parameters"] for each in tools}
    hot = {"temperature": 5.0, "top_k": 0, "top_p": 1.0}
    counts: dict[bool, set[int]] = {True: set(), False: set()}

    async def ask(parallel: bool, seed: int) -> None:
        wanted = chat(
            "Ping.",
            tools=tools,
            tool_choice="required",
            parallel_tool_calls=parallel,
            options={**hot, "seed": seed, "num_predict": 400},
        )
        pieces = await said(service, wanted)
        if reason_of(pieces) == "stop":
            counts[parallel].add(len(calls_of(pieces)))
            assert not text_of(pieces).strip()
        for call in calls_of(pieces):
            jsonschema_rs.validate(schemas[call.name], json.loads(call.arguments_json))

    async with serving() as service, trio.open_nursery() as nursery:
        for parallel in (True, False):
            for seed in range(8):
                nursery.start_soon(ask, parallel, seed)
    assert counts[False] == {1}
    assert max(counts[True]) > 1


async def test_held_and_free_answers_share_a_batch() -> None:
    async with serving() as service:
        answers: dict[int, list[Piece]] = {}

        async def ask(number: int, request: GenerateRequest) -> None:
            answers[number] = await said(service, request)

        async with trio.open_nursery() as nursery:
            for number in range(12):
                kinds = (
                    chat(ANN, format=PERSON),
                    chat("What is the capital of France?"),
                    chat("Hello!", tools=[WEATHER], tool_choice="function:get_weather"),
                )
                nursery.start_soon(ask, number, kinds[number % 3])
        for number, pieces in answers.items():
            if number % 3 == 0:
                assert json.loads(text_of(pieces)) == {"name": "Ann", "age": 30}
            elif number % 3 == 1:
                assert text_of(pieces) == "Paris."
            else:
                assert [call.name for call in calls_of(pieces)] == ["get_weather"]


HOSTILE: list[tuple[str, object, str]] = [
    ("huge multiple", {"type": "integer", "multipleOf": 9_999_991}, "too long"),
    (
        "10,000 properties",
        {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(9_000)}},
        "too long",
    ),
    ("long enum", {"enum": [f"value number {i}" for i in range(19_000)]}, ""),
    ("huge text", {"enum": ["x" * 600_000]}, "bytes"),
    ("many values", {"enum": list(range(30_000))}, "values"),
    ("nested repetitions", {"type": "string", "pattern": "^(([a-z]{1,100}){1,100}){1,100}$"}, ""),
    ("intersections", {"allOf": [{"type": "string", "pattern": f".*{c}.{{12}}"} for c in "abcdefghij"]}, "regex"),
    ("crossed choices", {"allOf": [{"oneOf": [{"const": n} for n in range(40)]} for _ in range(10)]}, ""),
    ("parentheses", {"type": "string", "pattern": "(" * 5000 + ")" * 5000}, "pattern"),
    ("not", {"not": {}}, "not"),
    ("unique", {"type": "array", "uniqueItems": True}, "uniqueItems"),
    ("itself", {"$ref": "#"}, "no answer"),
    ("elsewhere", {"$ref": "file:///etc/passwd"}, "passwd"),
    ("false", False, "false"),
    ("a number", 5, "expected"),
    ("a list", [PERSON], "expected"),
]


def deep(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    return schema


@pytest.mark.parametrize("levels", [200, 5000])
async def test_a_deep_schema_is_refused(levels: int) -> None:
    async with serving() as service:
        with pytest.raises(FormatInvalid, match="levels deep"):
            await said(service, chat(ANN, format=deep(levels)))


async def test_hostile_schemas_end_in_an_answer_or_a_refusal_and_the_worker_lives(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    async with serving() as service:
        await said(service, chat(ANN))
        [pid] = service.worker_pids()
        before = psutil.Process(pid).memory_info().rss
        for name, schema, reason in HOSTILE:
            with trio.fail_after(40):
                refusal = await refusal_of(service, chat(ANN, format=schema, options={"num_predict": 40}))
            assert reason in refusal, f"{name}: {refusal}"
            assert "\n" not in refusal
        assert json.loads(text_of(await said(service, chat(ANN, format=PERSON)))) == {"name": "Ann", "age": 30}
        assert service.worker_pids() == [pid]
        assert psutil.Process(pid).memory_info().rss - before < 200 * 1024 * 1024
    assert "value number" not in caplog.text


async def test_a_step_that_goes_over_its_limits_fails_its_request_only() -> None:
    schema = {"type": "string", "pattern": "^(([a-z ]{1,90}){1,90}){1,90}$"}
    async with serving() as service:
        await refusal_of(service, chat("Tell me a story about a fox.", format=schema))
        assert text_of(await said(service, chat("What is the capital of France?"))) == "Paris."


@pytest.mark.parametrize(
    ("tools", "choice", "reason"),
    [
        ([WEATHER, WEATHER], "auto", "two are named"),
        ([{"type": "function", "function": {"description": "no name"}}], "auto", "no name"),
        ([WEATHER], "function:other", "none of them"),
        ([], "required", "there are none"),
    ],
)
async def test_tools_that_cannot_be_offered_are_refused_before_a_worker_is_asked(
    tools: list[dict[str, Any]], choice: str, reason: str
) -> None:
    async with serving() as service:
        with pytest.raises(ToolsInvalid, match=reason):
            await said(service, chat("Hello!", tools=tools, tool_choice=choice))
        assert service.worker_pids() == []


async def test_a_tools_schema_counts_only_where_its_call_is_demanded() -> None:
    odd = {"type": "function", "function": {"name": "odd", "parameters": {"type": "object", "not": {}}}}
    async with serving() as service:
        assert text_of(await said(service, chat("Hello!", tools=[odd], tool_choice="none")))
        with pytest.raises(FormatInvalid, match="not"):
            await said(service, chat("Hello!", tools=[odd], tool_choice="required"))
