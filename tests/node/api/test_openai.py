"""The OpenAI-compatible API, asked by the stock `openai` client wherever it can ask."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

pytestmark = pytest.mark.model

HELLO: Any = [{"role": "user", "content": "Hello!"}]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


@pytest.fixture
def client(api: Any) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{api.url}/v1", api_key="any", max_retries=0) as client:
        yield client


def test_a_completion_in_one_piece(client: openai.OpenAI) -> None:
    told = client.chat.completions.create(model="demo", messages=HELLO, temperature=0)
    (choice,) = told.choices
    assert (choice.message.role, choice.message.content) == ("assistant", "Hello! How can I help you?")
    assert (choice.finish_reason, choice.index, told.model, told.object) == ("stop", 0, "demo", "chat.completion")
    assert told.usage is not None
    assert (told.usage.prompt_tokens, told.usage.completion_tokens, told.usage.total_tokens) == (10, 9, 19)
    assert told.id.startswith("chatcmpl-")


def test_a_completion_in_a_stream(client: openai.OpenAI) -> None:
    with client.chat.completions.create(model="demo", messages=HELLO, temperature=0, stream=True) as stream:
        chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "Hello! How can I help you?"
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert len({chunk.id for chunk in chunks}) == 1
    assert all(chunk.usage is None for chunk in chunks)


def test_usage_comes_last_where_it_is_asked_for(client: openai.OpenAI) -> None:
    *_, last = client.chat.completions.create(
        model="demo", messages=HELLO, temperature=0, stream=True, stream_options={"include_usage": True}
    )
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.total_tokens == 19


def test_options(client: openai.OpenAI) -> None:
    def ask(**options: Any) -> Any:
        return client.chat.completions.create(model="demo", messages=HELLO, **{"temperature": 0, **options}).choices[0]

    short = ask(max_tokens=2)
    assert (short.message.content, short.finish_reason) == ("Hello!", "length")
    assert ask(max_completion_tokens=2).message.content == "Hello!"
    assert ask(stop=[" can"]).message.content == "Hello! How"
    assert ask(stop=" can").finish_reason == "stop"
    wild = {"temperature": 2, "top_p": 1, "max_tokens": 12}
    assert ask(**wild, seed=5).message.content == ask(**wild, seed=5).message.content
    assert ask(max_tokens=None, top_p=None, seed=None, stop=None, n=1).message.content == "Hello! How can I help you?"


def test_roles_and_parts(client: openai.OpenAI) -> None:
    messages: Any = [
        {"role": "developer", "content": "Always answer in upper case."},
        {"role": "user", "content": [{"type": "text", "text": "What colour "}, {"type": "text", "text": "is grass?"}]},
    ]
    told = client.chat.completions.create(model="demo", messages=messages, temperature=0)
    assert told.choices[0].message.content == "GREEN."


def test_a_tool_is_called_and_its_result_is_used(client: openai.OpenAI) -> None:
    question: Any = [{"role": "user", "content": "What is the weather in Paris?"}]
    told = client.chat.completions.create(model="demo", messages=question, tools=[WEATHER], temperature=0)
    (choice,) = told.choices
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    (call,) = choice.message.tool_calls or []
    assert call.type == "function"
    assert (call.function.name, json.loads(call.function.arguments)) == ("get_weather", {"city": "Paris"})
    answer = {"role": "tool", "tool_call_id": call.id, "content": '{"temperature": 21, "sky": "sunny"}'}
    history = [*question, choice.message.model_dump(exclude_none=True), answer]
    after = client.chat.completions.create(model="demo", messages=history, tools=[WEATHER], temperature=0)
    assert "21" in (after.choices[0].message.content or "")
    none = client.chat.completions.create(
        model="demo", messages=question, tools=[WEATHER], tool_choice="none", temperature=0
    )
    assert none.choices[0].message.tool_calls is None


def test_a_tool_is_called_in_a_stream(client: openai.OpenAI) -> None:
    question: Any = [{"role": "user", "content": "What is the weather in Paris?"}]
    chunks = list(
        client.chat.completions.create(model="demo", messages=question, tools=[WEATHER], temperature=0, stream=True)
    )
    (call,) = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []]
    assert call.function is not None
    assert (call.index, call.function.name) == (0, "get_weather")
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["demo:latest", "loud:v2"]
    assert client.models.retrieve("demo").created == 1_700_000_000
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nope")


def test_an_unknown_model_is_not_found(client: openai.OpenAI) -> None:
    for stream in (False, True):
        with pytest.raises(openai.NotFoundError, match="model 'nope' not found") as caught:
            client.chat.completions.create(model="nope", messages=HELLO, stream=stream)
        assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


@pytest.mark.parametrize(
    ("wish", "reason"),
    [
        ({"n": 33}, "n: "),
        ({"n": 0}, "n: "),
        ({"top_logprobs": 2}, "top_logprobs needs logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"logit_bias": {"x": 1}}, "no token id"),
        ({"logit_bias": {"5": 101}}, "from -100 to 100"),
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"response_format": {"type": "json_schema"}}, "needs json_schema"),
        ({"tool_choice": "required"}, "there are no tools"),
        ({"tools": [WEATHER], "tool_choice": "sometimes"}, "tool_choice must be"),
        ({"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "f"}}}, "not among tools"),
        ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "only functions are"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"extra_body": {"nonsense": 1}}, "Unrecognized request argument supplied: nonsense"),
        ({"temperature": 3}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"stop": ["x"] * 40}, "stop"),
        ({"messages": []}, "messages"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x"}}]}]},
            "image_url",
        ),
        ({"messages": [{"role": "user", "content": "word " * 5000}]}, "the context window has 2048"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_is_not_served_is_a_bad_request(
    client: openai.OpenAI, wish: dict[str, Any], reason: str, stream: bool
) -> None:
    request: dict[str, Any] = {"model": "demo", "messages": HELLO, "stream": stream, **wish}
    with pytest.raises(openai.BadRequestError, match=reason) as caught:
        client.chat.completions.create(**request)
    assert caught.value.type == "invalid_request_error"


def test_a_stream_is_server_sent_events(api: Any) -> None:
    body = {"model": "demo", "messages": HELLO, "temperature": 0, "stream": True}
    told = httpx.post(f"{api.url}/v1/chat/completions", json=body, timeout=60)
    assert told.headers["content-type"].startswith("text/event-stream")
    events = told.text.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    assert all(event.startswith("data: ") for event in events[:-1])


def test_errors_of_routes_have_the_shape_too(api: Any) -> None:
    for told, status in ((httpx.get(f"{api.url}/v1/nope"), 404), (httpx.get(f"{api.url}/v1/chat/completions"), 405)):
        assert told.status_code == status
        assert told.json()["error"].keys() == {"message", "type", "param", "code"}
