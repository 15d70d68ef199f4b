"""The native API, asked by the stock `ollama` client wherever it can ask."""

import json
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
import ollama
import pytest

pytestmark = pytest.mark.model

GREEDY = {"temperature": 0}
ENDLESS = {"temperature": 2.0, "top_k": 0, "top_p": 1.0}
HELLO = [{"role": "user", "content": "Hello!"}]
SUM = [{"role": "user", "content": "What is 7 + 5?"}]


@pytest.fixture
def client(api: Any) -> Iterator[ollama.Client]:
    with ollama.Client(api.url) as client:
        yield client


@contextmanager
def paused_worker(api: Any) -> Iterator[None]:
    """Run the body while the demo model's worker is loaded and stands still."""
    api.only_demo()
    (pid,) = api.worker_pids()
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def post(api: Any, path: str, **body: Any) -> httpx.Response:
    return httpx.post(api.url + path, json=body, timeout=60)


def test_a_chat_in_one_piece(client: ollama.Client) -> None:
    answer = client.chat("demo", HELLO, options=GREEDY)
    assert answer.message.content == "Hello! How can I help you?"
    assert (answer.model, answer.message.role, answer.done, answer.done_reason) == ("demo", "assistant", True, "stop")
    assert (answer.prompt_eval_count, answer.eval_count) == (10, 9)
    durations = (answer.load_duration, answer.prompt_eval_duration, answer.eval_duration)
    assert answer.total_duration is not None
    assert all(duration is not None and 0 < duration < answer.total_duration for duration in durations)


def test_a_chat_in_a_stream(client: ollama.Client) -> None:
    pieces = list(client.chat("demo", SUM, options=GREEDY, stream=True))
    assert "".join(piece.message.content or "" for piece in pieces) == "7 + 5 = 12."
    assert [piece.done for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert pieces[0].total_duration is None
    assert pieces[-1].eval_count == 10
    # Words that come while the node is busy are one piece: of a long answer there are several however busy it is.
    story = [{"role": "user", "content": "Tell me a story about a fox."}]
    assert len(list(client.chat("demo", story, options=GREEDY, stream=True))) > 3


def test_a_prompt_continued_and_its_history_given_back(client: ollama.Client) -> None:
    told = client.generate("demo", "My name is Rosa.", options=GREEDY)
    assert told.context
    again = list(client.generate("demo", "What is my name?", context=told.context, options=GREEDY, stream=True))
    assert "".join(piece.response or "" for piece in again) == "Your name is Rosa."
    assert again[-1].context[: len(told.context)] == told.context  # type: ignore[index]  # the last piece has one


def test_a_raw_prompt_goes_as_it_stands(client: ollama.Client) -> None:
    prompt = "<|im_start|>user\nWhat is 7 + 5?<|im_end|>\n<|im_start|>assistant\n"
    answer = client.generate("demo", prompt, raw=True, options=GREEDY)
    assert (answer.response, answer.context) == ("7 + 5 = 12.", None)


def test_options_of_a_prompt(client: ollama.Client) -> None:
    short = client.generate("demo", "What is 7 + 5?", options={**GREEDY, "num_predict": 2})
    assert (short.response, short.done_reason) == ("7 +", "length")
    stopped = client.generate("demo", "What is 7 + 5?", options={**GREEDY, "stop": ["= 1"]})
    assert (stopped.response, stopped.done_reason) == ("7 + 5 ", "stop")
    loud = client.generate("demo", "What colour is grass?", system="Always answer in upper case.", options=GREEDY)
    assert loud.response == "GREEN."


def test_a_modelfile_is_applied(client: ollama.Client) -> None:
    assert client.chat("loud:v2", [{"role": "user", "content": "What colour is grass?"}]).message.content == "GREEN."


def test_a_model_is_shown_with_its_licence(client: ollama.Client, api: Any) -> None:
    shown = client.show("loud:v2")
    assert shown.license == "MIT\n\nApache-2.0"
    assert shown.parameters == "temperature 0\nstop END"
    assert shown.modelfile is not None
    assert "SYSTEM Always answer in upper case." in shown.modelfile
    assert shown.details is not None
    assert shown.details.family == "test"
    assert "enable_thinking" in (shown.template or "")
    assert shown.modelinfo == {
        "general.architecture": "qwen3",
        "general.parameter_count": 2_886_400,
        "qwen3.block_count": 4,
        "qwen3.context_length": 2048,
        "qwen3.embedding_length": 256,
        "qwen3.feed_forward_length": 512,
        "qwen3.attention.head_count": 4,
        "qwen3.attention.head_count_kv": 2,
        "qwen3.attention.key_length": 64,
        "qwen3.attention.value_length": 64,
        "qwen3.attention.layer_norm_rms_epsilon": 1e-06,
        "qwen3.rope.freq_base": 10000.0,
        "qwen3.vocab_size": 2048,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.padding_token_id": 0,
    }
    by_name = httpx.post(f"{api.url}/api/show", json={"name": "loud:v2"}).json()
    assert by_name["system"] == "Always answer in upper case."
    with pytest.raises(ollama.ResponseError, match="model 'nope' not found"):
        client.show("nope")
    assert httpx.post(f"{api.url}/api/show", json={}).status_code == 400


def test_thinking(client: ollama.Client) -> None:
    answer = client.chat("demo", SUM, think=True, options=GREEDY)
    assert (answer.message.content, (answer.message.thinking or "").strip()) == ("7 + 5 = 12.", "7 plus 5 is 12.")
    pieces = list(client.generate("demo", "What is 7 + 5?", think=True, options=GREEDY, stream=True))
    assert "".join(piece.thinking or "" for piece in pieces).strip() == "7 plus 5 is 12."


def test_a_tool_is_called_and_its_result_is_used(client: ollama.Client) -> None:
    def get_weather(city: str) -> str:
        """Get the weather.

        Args:
            city: The name of the city.
        """
        return city

    question = [{"role": "user", "content": "What is the weather in Paris?"}]
    for stream in (False, True):
        told: Any = client.chat("demo", question, tools=[get_weather], options=GREEDY, stream=stream)
        messages = [piece.message for piece in told] if stream else [told.message]
        calls = [call for message in messages for call in message.tool_calls or []]
        assert [(call.function.name, call.function.arguments) for call in calls] == [("get_weather", {"city": "Paris"})]
    result = {"role": "tool", "content": '{"temperature": 21, "sky": "sunny"}', "tool_name": "get_weather"}
    history: Any = [*question, {"role": "assistant", "tool_calls": calls}, result]
    answer = client.chat("demo", history, tools=[get_weather], options=GREEDY)
    assert "21" in (answer.message.content or "")


def test_models_in_the_store(client: ollama.Client, api: Any) -> None:
    first, second = client.list().models
    assert (first.model, second.model) == ("demo:latest", "loud:v2")
    assert first.digest is not None
    assert len(first.digest) == 64
    assert first.size is not None
    assert first.size > 5_000_000
    assert first.modified_at is not None
    assert int(first.modified_at.timestamp()) == 1_700_000_000
    head = httpx.head(f"{api.url}/api/tags")
    assert (head.status_code, head.text) == (200, "")


def test_models_in_memory(client: ollama.Client, api: Any) -> None:
    client.chat("demo", HELLO, keep_alive="10m")
    (model,) = [model for model in client.ps().models if model.name == "demo:latest"]
    assert model.context_length == 2048
    assert model.expires_at is not None
    now = parsedate_to_datetime(httpx.get(api.url).headers["date"])
    assert 590 < (model.expires_at - now).total_seconds() < 610
    client.chat("demo", HELLO, keep_alive=-1)
    (forever,) = [model for model in client.ps().models if model.name == "demo:latest"]
    assert forever.expires_at is not None
    assert forever.expires_at.year > 2200


def test_an_empty_question_loads_and_unloads(client: ollama.Client, api: Any) -> None:
    api.unload()
    assert client.generate("demo", "").done_reason == "load"
    assert len(api.worker_pids()) >= 1
    assert client.chat("demo", [], keep_alive=0).done_reason == "unload"
    assert "demo:latest" not in [model.name for model in client.ps().models]
    for path, shape in (
        ("/api/generate", {"response": ""}),
        ("/api/chat", {"message": {"role": "assistant", "content": ""}}),
    ):
        answer = post(api, path, model="demo", keep_alive=0).json()
        assert {**shape, "model": "demo", "done": True, "done_reason": "unload"}.items() <= answer.items()


def test_an_answer_can_let_the_model_go(client: ollama.Client) -> None:
    client.chat("demo", HELLO, keep_alive=0, options=GREEDY)
    assert "demo:latest" not in [model.name for model in client.ps().models]


def test_presence(api: Any) -> None:
    assert httpx.get(api.url).text == "Ollama is running"
    assert httpx.head(api.url).status_code == 200
    assert httpx.get(f"{api.url}/api/version").json() == {"version": "9.8.7"}
    assert httpx.head(f"{api.url}/api/version").status_code == 200


def test_an_unknown_model_is_404(client: ollama.Client) -> None:
    for ask in (lambda: client.chat("nope", HELLO), lambda: list(client.generate("nope", "x", stream=True))):
        with pytest.raises(ollama.ResponseError, match="model 'nope' not found") as caught:
            ask()
        assert caught.value.status_code == 404


@pytest.mark.parametrize(
    ("path", "body", "error"),
    [
        ("chat", {}, "model is required"),
        ("chat", {"model": "demo", "messages": "x"}, "messages"),
        ("chat", {"model": "demo", "messages": [{"role": "king", "content": "x"}]}, r"messages\.0\.role"),
        ("chat", {"model": "demo", "messages": HELLO, "options": {"top_p": 7}}, "option top_p"),
        ("chat", {"model": "demo", "messages": HELLO, "options": {"stop": 5}}, "option stop"),
        ("chat", {"model": "demo", "messages": HELLO, "options": {"num_ctx": 4}}, "the context window has 4"),
        ("chat", {"model": "demo", "messages": HELLO, "keep_alive": "300"}, "missing unit in duration"),
        ("chat", {"model": "demo", "messages": HELLO, "format": "xml"}, "invalid format: 'xml'"),
        ("chat", {"model": "demo", "messages": HELLO, "format": ["json"]}, "invalid format"),
        ("chat", {"model": "demo", "messages": HELLO, "top_logprobs": 21}, "top_logprobs must be between 0 and 20"),
        ("chat", {"model": "demo", "messages": HELLO, "logprobs": 1}, "logprobs"),
        ("chat", {"model": "demo", "messages": HELLO, "tool_choice": "must"}, "tool_choice"),
        ("chat", {"model": "demo", "messages": HELLO, "tool_choice": {"function": {}}}, "tool_choice"),
        ("chat", {"model": "demo", "messages": HELLO, "think": "very"}, "think"),
        ("chat", {"model": "demo", "messages": [{**HELLO[0], "images": ["eA=="]}]}, "does not support images"),
        ("chat", {"model": "../../etc", "messages": HELLO}, "model name"),
        ("generate", {"model": "demo", "prompt": "x", "images": ["eA=="]}, "does not support images"),
        ("generate", {"model": "demo", "prompt": "x", "raw": True, "system": "y"}, "raw mode"),
        ("generate", {"model": "demo", "prompt": "x", "template": "{{ .Prompt }}"}, "Go's template language"),
        ("generate", {"model": "demo", "prompt": "x", "context": [99999]}, "token id"),
        ("generate", {"model": "demo", "prompt": "x", "context": [-1]}, r"context\.0"),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
def test_a_bad_request_is_400_and_says_why(api: Any, path: str, body: dict[str, Any], error: str, stream: bool) -> None:
    answer = post(api, f"/api/{path}", **{**body, "stream": stream})
    assert answer.status_code == 400
    with pytest.raises(ollama.ResponseError, match=error):
        raise ollama.ResponseError(answer.json()["error"])


def test_unknown_fields_and_options_are_ignored(api: Any) -> None:
    body = {"model": "demo", "messages": HELLO, "stream": False, "nonsense": 1, "options": {**GREEDY, "nonsense": 1}}
    assert post(api, "/api/chat", **body).json()["message"]["content"] == "Hello! How can I help you?"


def test_other_routes_and_methods(api: Any) -> None:
    missing, wrong = httpx.get(f"{api.url}/api/nope"), httpx.get(f"{api.url}/api/chat")
    assert (missing.status_code, missing.json()) == (404, {"error": "404 page not found"})
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    assert httpx.get(f"{api.url}/redoc").status_code == 404


@pytest.mark.parametrize("path", ["/api/generate", "/v1/chat/completions"])
def test_leaving_a_stream_stops_the_generation(api: Any, path: str) -> None:
    body: dict[str, Any] = {"model": "demo", "prompt": "Once", "raw": True, "options": ENDLESS}
    if path.startswith("/v1"):
        fox = [{"role": "user", "content": "Tell me a story about a fox."}]
        body = {"model": "demo", "messages": fox, "temperature": 0, "stream": True}
    with httpx.stream("POST", api.url + path, json=body, timeout=60) as answer:
        lines = answer.iter_lines()
        for _ in range(5):
            next(lines)
    ended = api.next_ended()
    assert ended["reason"] == "cancelled"
    assert 0 < int(str(ended["eval_tokens"])) < 1000  # far from the context's end: how soon depends on the machine


def test_leaving_before_the_answer_came_whole_stops_the_generation(api: Any) -> None:
    body = {"model": "demo", "prompt": "Once", "raw": True, "stream": False, "options": ENDLESS}
    with paused_worker(api), pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{api.url}/api/generate", json=body, timeout=0.3)
    ended = api.next_ended()
    assert ended["reason"] == "cancelled"
    assert int(str(ended["eval_tokens"])) < 1000  # the worker may wake before it is told; the context holds 2,048


def test_a_full_queue_is_503(api: Any) -> None:
    body = {"model": "demo", "prompt": "Once", "raw": True, "stream": False, "options": ENDLESS}

    def ask(_: int) -> int:
        try:
            return httpx.post(f"{api.url}/api/generate", json=body, timeout=2).status_code
        except httpx.ReadTimeout:
            return 0

    # One is being answered, two wait, and five come too late.
    with paused_worker(api), ThreadPoolExecutor(8) as together:
        assert sorted(together.map(ask, range(8))) == [0, 0, 0, 503, 503, 503, 503, 503]


def test_a_worker_killed_in_a_stream_ends_it_with_an_error_and_the_next_question_is_answered(
    api: Any, client: ollama.Client
) -> None:
    api.only_demo()
    # The demo model never comes to the end of so many words.
    body = {"model": "demo", "prompt": "Repeat after me: " + "river stone " * 300, "options": GREEDY}
    with httpx.stream("POST", f"{api.url}/api/generate", json=body, timeout=60) as answer:
        lines = answer.iter_lines()
        assert json.loads(next(lines))["done"] is False
        os.kill(api.worker_pids()[0], signal.SIGKILL)
        *_, last = lines
    assert "was ended by SIGKILL while answering" in json.loads(last)["error"]
    assert client.chat("demo", HELLO, options=GREEDY).message.content == "Hello! How can I help you?"


def test_a_worker_killed_before_the_first_piece_is_a_500(api: Any, client: ollama.Client) -> None:
    body = {"model": "demo", "messages": HELLO, "stream": True}
    with ThreadPoolExecutor(1) as background, paused_worker(api):
        asking = background.submit(httpx.post, f"{api.url}/api/chat", json=body, timeout=60)
        api.wait_until_asked()
        os.kill(api.worker_pids()[0], signal.SIGKILL)
        answer = asking.result()
    assert (answer.status_code, "SIGKILL" in answer.json()["error"]) == (500, True)
