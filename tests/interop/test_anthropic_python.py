"""PyPI's `anthropic` on a real node: messages streamed and whole, tools, thinking, counted tokens, and errors."""

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx
import pytest
from pydantic import BaseModel

from tests.end_to_end.nodes import NodeProcess, started

pytestmark = [pytest.mark.processes, pytest.mark.model, pytest.mark.timeout(300)]

HELLO: Any = [{"role": "user", "content": "Hello!"}]
HELLO_BACK = "Hello! How can I help you?"
SUM: Any = [{"role": "user", "content": "What is 7 + 5?"}]
WEATHER: Any = [{"role": "user", "content": "What is the weather in Paris?"}]
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL: Any = {"name": "get_weather", "input_schema": CITY}
OTHER: Any = {"name": "get_time", "input_schema": CITY}


class Person(BaseModel):
    """What the demo model can say of Ann."""

    name: str
    age: int


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    with started(tmp_path_factory.mktemp("anthropic"), "ann") as (ann,):
        yield ann


@pytest.fixture(scope="module")
def client(node: NodeProcess) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=node.ready["api"], api_key="any", max_retries=0) as client:
        yield client


def whole(client: anthropic.Anthropic, messages: Any, **wishes: Any) -> Any:
    return client.messages.create(model="demo", messages=messages, **{"max_tokens": 100, **wishes})


def streamed(client: anthropic.Anthropic, messages: Any, **wishes: Any) -> Any:
    """Return what the client itself makes of a stream."""
    with client.messages.stream(model="demo", messages=messages, **{"max_tokens": 100, **wishes}) as stream:
        return stream.get_final_message()


BOTH = pytest.mark.parametrize("ask", [whole, streamed])


@BOTH
def test_a_message(client: anthropic.Anthropic, ask: Any) -> None:
    told = ask(client, HELLO)
    (block,) = told.content
    assert (block.type, block.text, told.stop_reason) == ("text", HELLO_BACK, "end_turn")
    assert told.usage.output_tokens == 9


def prompt_tokens(usage: Any) -> int:
    return int(usage.input_tokens + usage.cache_read_input_tokens + usage.cache_creation_input_tokens)


@BOTH
@pytest.mark.parametrize(
    "wishes",
    [
        {},
        {"system": "Always answer in upper case."},
        {"tools": [TOOL, OTHER]},
        {"thinking": {"type": "enabled", "budget_tokens": 1024}},
    ],
)
def test_counted_tokens_are_those_of_the_answer(client: anthropic.Anthropic, ask: Any, wishes: Any) -> None:
    counted = client.messages.count_tokens(model="demo", messages=SUM, **wishes)
    assert counted.input_tokens == prompt_tokens(ask(client, SUM, **wishes).usage)


def test_the_first_event_knows_the_prompts_tokens(client: anthropic.Anthropic) -> None:
    with client.messages.stream(model="demo", messages=HELLO, max_tokens=9) as stream:
        first = next(iter(stream))
    assert first.type == "message_start"
    assert prompt_tokens(first.message.usage) == 10


@BOTH
def test_a_system_prompt(client: anthropic.Anthropic, ask: Any) -> None:
    question: Any = [{"role": "user", "content": [{"type": "text", "text": "What colour is grass?"}]}]
    system: Any = [{"type": "text", "text": "Always answer in upper case.", "cache_control": {"type": "ephemeral"}}]
    assert ask(client, question, system=system).content[0].text == "GREEN."


@BOTH
def test_a_tool_that_the_model_chooses_and_its_result(client: anthropic.Anthropic, ask: Any) -> None:
    asked = ask(client, WEATHER, tools=[TOOL, OTHER])
    (call,) = asked.content
    assert (call.type, call.name, call.input) == ("tool_use", "get_weather", {"city": "Paris"})
    assert asked.stop_reason == "tool_use"
    result = {"type": "tool_result", "tool_use_id": call.id, "content": '{"temperature": 21, "sky": "sunny"}'}
    history = [*WEATHER, {"role": "assistant", "content": asked.content}, {"role": "user", "content": [result]}]
    told = ask(client, history, tools=[TOOL])
    assert told.content[0].text == "It is 21 degrees and sunny in Paris."


@BOTH
@pytest.mark.parametrize(
    ("choice", "name"), [({"type": "any"}, "get_weather"), ({"type": "tool", "name": "get_time"}, "get_time")]
)
def test_a_tool_that_the_model_must_call(client: anthropic.Anthropic, ask: Any, choice: Any, name: str) -> None:
    tools = [TOOL] if choice["type"] == "any" else [TOOL, OTHER]
    (call,) = ask(client, HELLO, tools=tools, tool_choice=choice).content
    assert (call.type, call.name, call.input.keys()) == ("tool_use", name, {"city"})


def test_no_tool_where_none_may_be_called(client: anthropic.Anthropic) -> None:
    told = whole(client, WEATHER, tools=[TOOL], tool_choice={"type": "none"})
    assert all(block.type == "text" for block in told.content)


@BOTH
def test_thinking(client: anthropic.Anthropic, ask: Any) -> None:
    told = ask(client, SUM, thinking={"type": "enabled", "budget_tokens": 1024})
    thinking, text = told.content
    assert thinking.type == "thinking"
    assert "7 plus 5 is 12." in thinking.thinking
    assert text.text == "7 + 5 = 12."
    assert told.usage.output_tokens_details.thinking_tokens > 0
    hidden = ask(client, SUM, thinking={"type": "adaptive", "display": "omitted"})
    assert [getattr(block, "thinking", "") for block in hidden.content] == ["", ""]
    goes_on = [*SUM, {"role": "assistant", "content": told.content}, *HELLO]
    assert ask(client, goes_on).content[0].text == HELLO_BACK


@BOTH
def test_why_it_stopped(client: anthropic.Anthropic, ask: Any) -> None:
    stopped = ask(client, HELLO, stop_sequences=["nothing", " can"])
    assert (stopped.content[0].text, stopped.stop_reason, stopped.stop_sequence) == (
        "Hello! How",
        "stop_sequence",
        " can",
    )
    short = ask(client, HELLO, max_tokens=2)
    assert (short.content[0].text, short.stop_reason, short.stop_sequence) == ("Hello!", "max_tokens", None)


def test_a_schema_parsed_by_the_client(client: anthropic.Anthropic) -> None:
    question: Any = [{"role": "user", "content": "Give me JSON with name Ann and age 30."}]
    told = client.messages.parse(model="demo", max_tokens=100, messages=question, output_format=Person)
    assert told.parsed_output == Person(name="Ann", age=30)


def test_models(client: anthropic.Anthropic) -> None:
    (model,) = client.models.list().data
    assert (model.id, model.type) == ("demo:latest", "model")
    assert client.models.retrieve("demo").id == "demo:latest"
    with pytest.raises(anthropic.NotFoundError):
        client.models.retrieve("nope")


def test_errors_are_raised_as_what_they_are(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError, match="model 'nope' not found"):
        client.messages.create(model="nope", max_tokens=5, messages=HELLO)
    with pytest.raises(anthropic.NotFoundError):
        client.messages.stream(model="nope", max_tokens=5, messages=HELLO).__enter__()
    image: Any = [{"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": "http://x"}}]}]
    with pytest.raises(anthropic.BadRequestError, match="image") as caught:
        client.messages.create(model="demo", max_tokens=5, messages=image)
    body: Any = caught.value.body
    assert (body["type"], body["error"]["type"]) == ("error", "invalid_request_error")
    long: Any = [{"role": "user", "content": "word " * 5000}]
    for ask in (whole, streamed):
        with pytest.raises(anthropic.BadRequestError, match="context window"):
            ask(client, long)


def test_bodies_that_break_other_servers(node: NodeProcess) -> None:
    """Each is refused in this API's shape, and the next request works."""
    url = f"{node.ready['api']}/v1/messages"
    good = {"model": "demo", "messages": HELLO, "max_tokens": 20}
    wishes: list[Any] = [
        {"max_tokens": None},
        {"max_tokens": 0},
        {"temperature": 1.5},
        {"stop_sequences": 5},
        {"messages": []},
        {"messages": [{"role": "nobody", "content": "x"}]},
        {"nonsense": 1},
        {"tools": [TOOL, TOOL]},
        {"tools": [{"input_schema": CITY}]},
        {"thinking": {"type": "enabled", "budget_tokens": -1}},
    ]
    bodies: list[bytes] = [
        b"",
        b"[]",
        b"\xff\xfe",
        b'{"a":' * 1000 + b"1" + b"}" * 1000,
        b'{"model": "demo", "max_tokens": NaN}',
        *(json.dumps({**good, **wrong}).encode() for wrong in wishes),
    ]
    for body in bodies:
        told = httpx.post(url, content=body, headers={"content-type": "application/json"}, timeout=60)
        assert (told.status_code, told.json()["error"]["type"]) == (400, "invalid_request_error"), body[:80]
    assert httpx.get(url).json()["error"]["type"] == "invalid_request_error"
    assert httpx.post(url, json=good, timeout=60).json()["content"][0]["text"] == HELLO_BACK
