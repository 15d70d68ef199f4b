"""What a native request may wish for beyond words: formats, probabilities, degrees of thinking, held tool calls."""

import json
import math
from collections.abc import Iterator
from typing import Any

import httpx
import ollama
import pytest

pytestmark = pytest.mark.model

GREEDY = {"temperature": 0}
SUM = [{"role": "user", "content": "What is 7 + 5?"}]
ANN = [{"role": "user", "content": "Give me JSON with name Ann and age 30."}]
WEATHER = [{"role": "user", "content": "What is the weather in Paris?"}]
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS = [
    {"type": "function", "function": {"name": "get_weather", "description": "Get the weather.", "parameters": CITY}},
    {"type": "function", "function": {"name": "get_time", "description": "Get the time.", "parameters": CITY}},
]


@pytest.fixture
def client(api: Any) -> Iterator[ollama.Client]:
    with ollama.Client(api.url) as client:
        yield client


def ask(api: Any, path: str, **body: Any) -> Any:
    answer = httpx.post(f"{api.url}/api/{path}", json={"model": "demo", "options": GREEDY, **body}, timeout=60)
    lines = [json.loads(line) for line in answer.text.splitlines()]
    return lines[0] if body.get("stream") is False else lines


@pytest.mark.parametrize("stream", [True, False])
def test_the_probabilities_of_an_answers_tokens(api: Any, client: ollama.Client, stream: Any) -> None:
    told: Any = client.chat("demo", SUM, logprobs=True, top_logprobs=3, options=GREEDY, stream=stream)
    chosen = [token for piece in (told if stream else [told]) for token in piece.logprobs or []]
    assert "".join(token.token for token in chosen).removesuffix("<|im_end|>") == "7 + 5 = 12."
    for token in chosen:
        assert token.logprob <= 0
        assert len(token.top_logprobs) == 3
        # Greedy: the token that was taken is the likeliest.
        assert math.isclose(token.top_logprobs[0].logprob, token.logprob, abs_tol=1e-5)
        assert token.top_logprobs[0].token == token.token
    plain = ask(api, "chat", messages=SUM, logprobs=True, stream=False)["logprobs"]
    assert plain[0]["top_logprobs"] == []
    assert bytes(byte for token in plain for byte in token["bytes"]).startswith(b"7 + 5 = 12.")
    generated = ask(api, "generate", prompt="What is 7 + 5?", logprobs=True, top_logprobs=1, stream=False)
    assert "".join(token["token"] for token in generated["logprobs"]).startswith("7 + 5 = 12.")


def test_without_logprobs_there_are_none(api: Any) -> None:
    for line in ask(api, "chat", messages=SUM, top_logprobs=3):
        assert "logprobs" not in line


@pytest.mark.parametrize("stream", [True, False])
def test_a_format_holds_the_answer(client: ollama.Client, stream: Any) -> None:
    formats: list[Any] = ["json", PERSON]
    for wished in formats:
        told: Any = client.chat("demo", ANN, format=wished, options=GREEDY, stream=stream)
        text = "".join(piece.message.content or "" for piece in (told if stream else [told]))
        assert json.loads(text) == {"name": "Ann", "age": 30}
    verdict = {"type": "object", "properties": {"verdict": {"enum": ["yes", "no"]}}, "required": ["verdict"]}
    held = {**verdict, "additionalProperties": False}
    told = client.generate("demo", "What is 7 + 5?", format=held, options=GREEDY, stream=stream)
    text = "".join(piece.response or "" for piece in (told if stream else [told]))
    assert json.loads(text)["verdict"] in ("yes", "no")


def test_a_format_comes_after_the_thinking(client: ollama.Client) -> None:
    told = client.chat("demo", SUM, think=True, format={"type": "integer"}, options={**GREEDY, "num_predict": 200})
    assert (told.message.thinking or "").strip() == "7 plus 5 is 12."
    assert isinstance(json.loads(told.message.content or ""), int)


def test_a_degree_of_thinking_is_thinking(client: ollama.Client) -> None:
    for degree in ("low", "medium", "high"):
        told = client.chat("demo", SUM, think=degree, options=GREEDY)
        assert (told.message.thinking or "").strip() == "7 plus 5 is 12."
    assert client.chat("demo", SUM, think=False, options=GREEDY).message.thinking is None


def test_a_tool_choice_is_kept(api: Any) -> None:
    def called(choice: Any, messages: Any = WEATHER) -> list[Any]:
        told = ask(api, "chat", messages=messages, tools=TOOLS, tool_choice=choice, stream=False)["message"]
        assert all(call["id"].startswith("call_") for call in told.get("tool_calls", []))
        return [(call["function"]["name"], call["function"]["arguments"]) for call in told.get("tool_calls", [])]

    assert called("auto") == [("get_weather", {"city": "Paris"})]
    assert called("none") == []
    ((name, arguments),) = called({"type": "function", "function": {"name": "get_time"}})
    assert (name, list(arguments)) == ("get_time", ["city"])
    assert called("required", SUM)[0][0] in ("get_weather", "get_time")


def test_calls_in_a_stream_have_ids_of_their_own(api: Any) -> None:
    lines = ask(api, "chat", messages=WEATHER, tools=TOOLS)
    calls = [call for line in lines for call in line["message"].get("tool_calls", [])]
    assert [call["function"]["index"] for call in calls] == [0]
    assert len({call["id"] for call in calls}) == len(calls)


def test_what_the_demo_model_cannot_do_is_said(api: Any) -> None:
    told = ask(api, "generate", prompt="def add(", suffix="return", stream=False)
    assert "does not support insert" in told["error"]
