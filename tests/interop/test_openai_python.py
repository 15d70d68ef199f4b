"""PyPI's `openai` on a real node: chat completions, completions and responses, each with the demo model's own words."""

import json
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import httpx
import openai
import pytest
from pydantic import BaseModel

from tests.end_to_end.nodes import NodeProcess, started

pytestmark = [pytest.mark.processes, pytest.mark.model, pytest.mark.timeout(300)]

HELLO: Any = [{"role": "user", "content": "Hello!"}]
HELLO_BACK = "Hello! How can I help you?"
SUM: Any = [{"role": "user", "content": "What is 7 + 5?"}]
ANN: Any = [{"role": "user", "content": "Give me JSON with name Ann and age 30."}]
WEATHER: Any = [{"role": "user", "content": "What is the weather in Paris?"}]
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL: Any = {"type": "function", "function": {"name": "get_weather", "parameters": CITY}}
OTHER: Any = {"type": "function", "function": {"name": "get_time", "parameters": CITY}}
FLAT: Any = {"type": "function", "name": "get_weather", "parameters": CITY}
NAMED: Any = {"type": "function", "function": {"name": "get_weather"}}


class Person(BaseModel):
    """What the demo model can say of Ann."""

    name: str
    age: int


class Verdict(BaseModel):
    """What the demo model would not say by itself."""

    verdict: Literal["yes", "no"]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    with started(tmp_path_factory.mktemp("openai"), "ann") as (ann,):
        yield ann


@pytest.fixture(scope="module")
def client(node: NodeProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{node.ready['api']}/v1", api_key="any", max_retries=0) as client:
        yield client


def chat(client: openai.OpenAI, messages: Any, **wishes: Any) -> Any:
    return client.chat.completions.create(model="demo", messages=messages, temperature=0, **wishes)


def streamed(client: openai.OpenAI, messages: Any, **wishes: Any) -> Any:
    """Return what the client itself makes of a stream."""
    with client.chat.completions.stream(model="demo", messages=messages, temperature=0, **wishes) as stream:
        for _ in stream:
            continue
        return stream.get_final_completion()


@pytest.mark.parametrize("ask", [chat, streamed])
def test_a_chat_completion(client: openai.OpenAI, ask: Any) -> None:
    (choice,) = ask(client, HELLO).choices
    assert (choice.message.content, choice.finish_reason) == (HELLO_BACK, "stop")


def test_several_choices(client: openai.OpenAI) -> None:
    told = chat(client, HELLO, n=3)
    assert [choice.message.content for choice in told.choices] == [HELLO_BACK] * 3
    assert (told.usage.prompt_tokens, told.usage.completion_tokens) == (10, 27)
    texts: dict[int, str] = {}
    for chunk in chat(client, HELLO, n=3, stream=True, stream_options={"include_usage": True}):
        for choice in chunk.choices:
            texts[choice.index] = texts.get(choice.index, "") + (choice.delta.content or "")
        usage = chunk.usage
    assert texts == dict.fromkeys(range(3), HELLO_BACK)
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens) == (10, 27)


def test_choices_with_a_seed_differ_and_come_again(client: openai.OpenAI) -> None:
    def told() -> list[str]:
        wild: Any = {"temperature": 2, "max_tokens": 12, "seed": 5, "n": 4}
        answer = client.chat.completions.create(model="demo", messages=HELLO, **wild)
        return [choice.message.content or "" for choice in answer.choices]

    first = told()
    assert len(set(first)) > 1
    assert told() == first


@pytest.mark.parametrize("ask", [chat, streamed])
def test_log_probabilities(client: openai.OpenAI, ask: Any) -> None:
    (choice,) = ask(client, HELLO, logprobs=True, top_logprobs=3).choices
    tokens = choice.logprobs.content
    assert "".join(token.token for token in tokens) == HELLO_BACK
    assert b"".join(bytes(token.bytes) for token in tokens).decode() == HELLO_BACK
    for token in tokens:
        assert len(token.top_logprobs) == 3
        assert token.top_logprobs[0].logprob == pytest.approx(token.logprob)
        assert token.logprob <= 0
        assert sum(math.exp(likely.logprob) for likely in token.top_logprobs) <= 1.001


def test_a_bias_bans_a_token(client: openai.OpenAI) -> None:
    said = {
        chat(client, HELLO, logit_bias={str(token): -100 for token in range(start, start + 1024)})
        .choices[0]
        .message.content
        for start in (0, 1024)
    }
    assert HELLO_BACK not in said


@pytest.mark.parametrize("ask", [chat, streamed])
def test_json(client: openai.OpenAI, ask: Any) -> None:
    (choice,) = ask(client, ANN, response_format={"type": "json_object"}).choices
    assert json.loads(choice.message.content) == {"name": "Ann", "age": 30}


def test_a_schema_parsed_by_the_client(client: openai.OpenAI) -> None:
    told = client.chat.completions.parse(model="demo", messages=ANN, temperature=0, response_format=Person)
    assert told.choices[0].message.parsed == Person(name="Ann", age=30)
    # To a question that has another answer, the answer has that form all the same.
    other = client.chat.completions.parse(model="demo", messages=SUM, temperature=0, response_format=Verdict)
    assert isinstance(other.choices[0].message.parsed, Verdict)


def test_a_schema_that_cannot_be_kept_to_is_refused(client: openai.OpenAI) -> None:
    schema = {"name": "x", "schema": {"type": "object", "not": {"required": ["a"]}}}
    with pytest.raises(openai.BadRequestError):
        chat(client, HELLO, response_format={"type": "json_schema", "json_schema": schema})
    assert chat(client, HELLO).choices[0].message.content == HELLO_BACK


@pytest.mark.parametrize("ask", [chat, streamed])
def test_a_tool_that_the_model_chooses(client: openai.OpenAI, ask: Any) -> None:
    (choice,) = ask(client, WEATHER, tools=[TOOL, OTHER]).choices
    (call,) = choice.message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("get_weather", {"city": "Paris"})
    assert (choice.finish_reason, choice.message.content or None) == ("tool_calls", None)


@pytest.mark.parametrize("ask", [chat, streamed])
@pytest.mark.parametrize("choice", ["required", NAMED])
def test_a_tool_that_the_model_must_call(client: openai.OpenAI, ask: Any, choice: Any) -> None:
    told = ask(client, HELLO, tools=[TOOL], tool_choice=choice).choices[0]
    (call,) = told.message.tool_calls
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments).keys() == {"city"}


def test_a_named_tool_is_called_where_another_would_do_better(client: openai.OpenAI) -> None:
    named = {"type": "function", "function": {"name": "get_time"}}
    (call,) = chat(client, WEATHER, tools=[TOOL, OTHER], tool_choice=named).choices[0].message.tool_calls
    assert call.function.name == "get_time"
    allowed = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [named]}}
    (call,) = chat(client, WEATHER, tools=[TOOL, OTHER], tool_choice=allowed).choices[0].message.tool_calls
    assert call.function.name == "get_time"


def test_no_tool_where_none_may_be_called(client: openai.OpenAI) -> None:
    assert chat(client, WEATHER, tools=[TOOL], tool_choice="none").choices[0].message.tool_calls is None


def test_a_tools_result_is_used(client: openai.OpenAI) -> None:
    asked = chat(client, WEATHER, tools=[TOOL]).choices[0].message
    result = {"role": "tool", "tool_call_id": asked.tool_calls[0].id, "content": '{"temperature": 21, "sky": "sunny"}'}
    told = chat(client, [*WEATHER, asked.model_dump(exclude_none=True), result], tools=[TOOL])
    assert told.choices[0].message.content == "It is 21 degrees and sunny in Paris."


@pytest.mark.parametrize("ask", [chat, streamed])
def test_thinking(client: openai.OpenAI, ask: Any) -> None:
    told = ask(client, SUM, reasoning_effort="high")
    message = told.choices[0].message
    assert message.content == "7 + 5 = 12."
    assert "7 plus 5 is 12." in message.reasoning_content
    assert not getattr(chat(client, SUM, reasoning_effort="none").choices[0].message, "reasoning_content", None)


def test_how_many_tokens_were_thought(client: openai.OpenAI) -> None:
    usage = chat(client, SUM, reasoning_effort="high").usage
    assert 0 < usage.completion_tokens_details.reasoning_tokens < usage.completion_tokens


def test_completions_continue_texts_as_they_stand(client: openai.OpenAI) -> None:
    prompt = "<|im_start|>user\nHello!<|im_end|>\n<|im_start|>assistant\n"
    (choice,) = client.completions.create(model="demo", prompt=prompt, temperature=0).choices
    assert choice.text == HELLO_BACK
    echoed = client.completions.create(model="demo", prompt=[prompt, "Hello"], temperature=0, echo=True, n=2).choices
    assert [choice.text for choice in echoed[:2]] == [prompt + HELLO_BACK] * 2
    assert all(choice.text.startswith("Hello") for choice in echoed[2:])
    chunks = client.completions.create(model="demo", prompt=prompt, temperature=0, stream=True)
    assert "".join(chunk.choices[0].text for chunk in chunks) == HELLO_BACK


def test_completions_with_log_probabilities(client: openai.OpenAI) -> None:
    (choice,) = client.completions.create(model="demo", prompt="Hello", temperature=0, logprobs=2, max_tokens=3).choices
    assert choice.logprobs is not None
    tokens = choice.logprobs.tokens or []
    assert "".join(tokens) == choice.text
    assert choice.logprobs.text_offset == [sum(map(len, tokens[:place])) for place in range(len(tokens))]


def test_completions_of_token_ids(client: openai.OpenAI) -> None:
    (choice,) = client.completions.create(model="demo", prompt=[5, 6, 7], temperature=0, max_tokens=2).choices
    (again,) = client.completions.create(model="demo", prompt=[[5, 6, 7]], temperature=0, max_tokens=2).choices
    assert choice.text == again.text
    with pytest.raises(openai.BadRequestError):
        client.completions.create(model="demo", prompt=[4_000_000_000])


def test_a_response(client: openai.OpenAI) -> None:
    told = client.responses.create(model="demo", input="Hello!", temperature=0)
    assert (told.output_text, told.status, told.model) == (HELLO_BACK, "completed", "demo")
    assert told.usage is not None
    assert (told.usage.input_tokens, told.usage.output_tokens) == (10, 9)
    counted = client.responses.input_tokens.count(model="demo", input="Hello!")
    assert counted.input_tokens == told.usage.input_tokens


def test_a_streamed_response(client: openai.OpenAI) -> None:
    with client.responses.stream(model="demo", input="What is 7 + 5?", temperature=0) as stream:
        deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
        told = stream.get_final_response()
    assert "".join(deltas) == told.output_text == "7 + 5 = 12."
    assert client.responses.retrieve(told.id).output_text == told.output_text


def test_a_response_with_tools(client: openai.OpenAI) -> None:
    question: Any = [{"role": "user", "content": "What is the weather in Paris?"}]
    asked = client.responses.create(model="demo", input=question, tools=[FLAT], temperature=0)
    (call,) = asked.output
    assert call.type == "function_call"
    assert (call.name, json.loads(call.arguments)) == ("get_weather", {"city": "Paris"})
    result: Any = {
        "type": "function_call_output",
        "call_id": call.call_id,
        "output": '{"temperature": 21, "sky": "sunny"}',
    }
    told = client.responses.create(
        model="demo", input=[result], tools=[FLAT], previous_response_id=asked.id, temperature=0
    )
    assert told.output_text == "It is 21 degrees and sunny in Paris."
    by_hand: Any = [*question, *[item.model_dump(exclude_none=True) for item in asked.output], result]
    assert client.responses.create(model="demo", input=by_hand, tools=[FLAT], temperature=0).output_text == (
        told.output_text
    )
    referred: Any = [*question, {"type": "item_reference", "id": call.id}, result]
    assert client.responses.create(model="demo", input=referred, tools=[FLAT], temperature=0).output_text == (
        told.output_text
    )


def test_a_response_that_must_call_a_tool(client: openai.OpenAI) -> None:
    named: Any = {"type": "function", "name": "get_weather"}
    with client.responses.stream(model="demo", input="Hello!", tools=[FLAT], tool_choice=named) as stream:
        (call,) = stream.get_final_response().output
    assert call.type == "function_call"
    assert json.loads(call.arguments).keys() == {"city"}
    custom: Any = {"type": "custom", "name": "shout"}
    told = client.responses.create(model="demo", input="Hello!", tools=[custom], tool_choice=custom, temperature=0)
    called: Any = told.output[0]
    assert (called.type, called.name) == ("custom_tool_call", "shout")


def test_a_response_parsed_by_the_client(client: openai.OpenAI) -> None:
    told = client.responses.parse(model="demo", input=ANN, text_format=Person, temperature=0)
    assert told.output_parsed == Person(name="Ann", age=30)


def test_a_response_that_thinks(client: openai.OpenAI) -> None:
    told = client.responses.create(model="demo", input="What is 7 + 5?", reasoning={"effort": "low"}, temperature=0)
    reasoning, message = told.output
    assert reasoning.type == "reasoning"
    assert reasoning.content is not None
    assert "7 plus 5 is 12." in reasoning.content[0].text
    assert (message.type, told.output_text) == ("message", "7 + 5 = 12.")


def test_log_probabilities_of_a_response(client: openai.OpenAI) -> None:
    told = client.responses.create(
        model="demo", input="Hello!", temperature=0, top_logprobs=2, include=["message.output_text.logprobs"]
    )
    message: Any = told.output[0]
    assert "".join(token.token for token in message.content[0].logprobs) == HELLO_BACK


def test_a_conversation_goes_on_after_the_node_was_killed(client: openai.OpenAI, node: NodeProcess) -> None:
    first = client.responses.create(model="demo", input="My name is Rosa.", temperature=0)
    second = client.responses.create(model="demo", input="Hello!", previous_response_id=first.id, temperature=0)
    forgotten = client.responses.create(model="demo", input="Hello!", store=False, temperature=0)
    node.kill()
    node.serve()
    with openai.OpenAI(base_url=f"{node.ready['api']}/v1", api_key="any", max_retries=0) as client:
        told = client.responses.create(
            model="demo", input="What is my name?", previous_response_id=second.id, temperature=0
        )
        assert told.output_text == "Your name is Rosa."
        items: Any = client.responses.input_items.list(told.id).data
        assert [item.content[0].text for item in items] == ["What is my name?"]
        with pytest.raises(openai.BadRequestError) as caught:
            client.responses.create(model="demo", input="Hello!", previous_response_id=forgotten.id)
        assert (caught.value.code, caught.value.param) == ("previous_response_not_found", "previous_response_id")
        client.responses.delete(first.id)
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve(first.id)
        with pytest.raises(openai.BadRequestError):
            client.responses.create(model="demo", input="Hello!", previous_response_id=second.id)


def test_many_streams_at_once_say_what_one_says(node: NodeProcess) -> None:
    def told(number: int) -> str:
        with openai.OpenAI(base_url=f"{node.ready['api']}/v1", api_key="any", max_retries=0) as client:
            messages: Any = [{"role": "user", "content": f"What is {number} + 5?"}]
            chunks = client.chat.completions.create(model="demo", messages=messages, temperature=0, stream=True)
            return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(told, range(16))) == [f"{number} + 5 = {number + 5}." for number in range(16)]


def test_bodies_that_break_other_servers(node: NodeProcess) -> None:
    """Each is refused in this API's shape, and the next request works."""
    url = f"{node.ready['api']}/v1/chat/completions"
    good = {"model": "demo", "messages": HELLO, "temperature": 0}
    wishes: list[Any] = [
        {"stop": 5},
        {"seed": 2**70},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x"}}]}]},
        {"max_tokens": -1},
        {"top_p": "all"},
        {"model": 5},
        {"messages": [{"role": "nobody", "content": "x"}]},
        {"tools": [TOOL, TOOL]},
        {"tools": [{"type": "function", "function": {}}]},
    ]
    bodies: list[bytes] = [
        b"",
        b"[]",
        b"\xff\xfe",
        b'{"model": "demo", "messages": "\xff"}',
        b'{"a":' * 1000 + b"1" + b"}" * 1000,
        json.dumps({**good, "temperature": math.nan}).encode(),
        *(json.dumps({**good, **wrong}).encode() for wrong in wishes),
    ]
    headers = {"content-type": "application/json"}
    for body in bodies:
        told = httpx.post(url, content=body, headers=headers, timeout=60)
        assert (told.status_code, told.json()["error"]["type"]) == (400, "invalid_request_error"), body[:80]
    assert httpx.post(url, json={**good, "seed": -1, "max_tokens": None}, timeout=60).status_code == 200
    too_large = httpx.post(url, content=b" " * (17 * 1024 * 1024), headers=headers, timeout=60)
    assert too_large.status_code == 413
    assert httpx.post(url, json=good, timeout=60).json()["choices"][0]["message"]["content"] == HELLO_BACK
