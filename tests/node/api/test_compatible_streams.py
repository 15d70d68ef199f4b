"""Streams of the compatible APIs that end early: the client leaves, or the worker dies; and the line that is full."""

import os
import signal
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx
import openai
import pytest

pytestmark = pytest.mark.model

STORY: Any = [{"role": "user", "content": "Tell me a story about a fox."}]
HELLO: Any = [{"role": "user", "content": "Hello!"}]
HELLO_BACK = "Hello! How can I help you?"
# Answers that do not end by themselves: without the token that ends one, with more numbers than there is room for, or
# with so many words to say again that the demo model never comes to their end.
NO_END = {"2": -100}
MANY: dict[str, Any] = {"type": "array", "items": {"type": "integer"}, "minItems": 5_000}
NUMBERS: Any = {"format": {"type": "json_schema", "name": "numbers", "schema": MANY}}
RIVERS: Any = [{"role": "user", "content": "Repeat after me: " + "river stone " * 300}]
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": STORY, "logit_bias": NO_END},
    "/v1/completions": {"prompt": "Once", "max_tokens": 2000, "logit_bias": NO_END},
    "/v1/responses": {"input": STORY, "text": NUMBERS},
    "/v1/messages": {"messages": RIVERS, "max_tokens": 2000},
}


@pytest.fixture
def client(api: Any) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{api.url}/v1", api_key="any", max_retries=0) as client:
        yield client


@pytest.fixture
def other(api: Any) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=api.url, api_key="any", max_retries=0) as client:
        yield client


@pytest.mark.parametrize("path", BODIES)
def test_a_client_that_leaves_ends_the_generation(api: Any, path: str) -> None:
    body = {"model": "demo", "temperature": 0, "stream": True, **BODIES[path]}
    with httpx.stream("POST", f"{api.url}{path}", json=body, timeout=60) as told:
        next(told.iter_bytes())
    assert api.next_ended()["reason"] == "cancelled"


def test_the_choices_of_a_client_that_leaves_all_end(api: Any) -> None:
    body = {"model": "demo", "temperature": 0, "stream": True, "n": 2, **BODIES["/v1/chat/completions"]}
    with httpx.stream("POST", f"{api.url}/v1/chat/completions", json=body, timeout=60) as told:
        next(told.iter_bytes())
    ended = api.next_ended()
    assert ended["reason"] == "cancelled"
    told = httpx.post(f"{api.url}/v1/chat/completions", json={"model": "demo", "messages": HELLO}, timeout=60)
    assert told.status_code == 200


def kill_worker(api: Any) -> None:
    (pid,) = api.worker_pids()
    os.kill(pid, signal.SIGKILL)


def test_a_worker_that_dies_is_an_error_of_the_stream(api: Any, client: openai.OpenAI) -> None:
    api.only_demo()
    endless = client.chat.completions.create(model="demo", messages=STORY, stream=True, logit_bias=NO_END)
    with endless as stream:
        next(stream)
        kill_worker(api)
        with pytest.raises(openai.APIError, match="SIGKILL"):
            list(stream)
    patient = client.with_options(max_retries=10)  # a model that fails often rests a while, and says how long
    told = patient.chat.completions.create(model="demo", messages=HELLO, temperature=0)
    assert told.choices[0].message.content == HELLO_BACK


def test_a_worker_that_dies_fails_the_response(api: Any, client: openai.OpenAI) -> None:
    api.only_demo()
    with client.responses.create(model="demo", input=STORY, text=NUMBERS, stream=True) as stream:
        next(stream)
        kill_worker(api)
        *_, last = stream
    assert last.type == "response.failed"
    assert last.response.error is not None
    assert last.response.error.code == "server_error"
    assert "SIGKILL" in last.response.error.message
    patient = client.with_options(max_retries=10)
    assert patient.responses.create(model="demo", input="Hello!", temperature=0).output_text == HELLO_BACK


def test_a_worker_that_dies_is_an_error_of_the_message(api: Any, other: anthropic.Anthropic) -> None:
    api.only_demo()
    greedy = {"temperature": 0}
    endless = other.messages.create(model="demo", messages=RIVERS, max_tokens=2000, stream=True, extra_body=greedy)
    with endless as stream:
        next(stream)
        kill_worker(api)
        with pytest.raises(anthropic.APIStatusError, match="SIGKILL"):
            list(stream)
    patient = other.with_options(max_retries=10)
    told: Any = patient.messages.create(model="demo", messages=HELLO, max_tokens=50, extra_body={"temperature": 0})
    assert told.content[0].text == HELLO_BACK


@pytest.mark.parametrize("path", BODIES)
def test_ten_thousand_messages_are_too_many_for_the_window(api: Any, path: str) -> None:
    body: dict[str, Any] = {"model": "demo", "max_tokens": 5, "messages": HELLO * 10_000}
    if path == "/v1/completions":
        body = {"model": "demo", "prompt": "Hello! " * 10_000}
    if path == "/v1/responses":
        body = {"model": "demo", "input": HELLO * 10_000}
    told = httpx.post(f"{api.url}{path}", json=body, timeout=120)
    assert told.status_code == 400
    assert "the context window has 2048" in told.json()["error"]["message"]
