"""What clients get wrong: each is refused in words or harmless, and the next question is answered as if nothing was."""

import itertools
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from node.api.schemas import ChatBody, GenerateBody

pytestmark = [pytest.mark.model, pytest.mark.timeout(300)]

HELLO = [{"role": "user", "content": "Hello!"}]
BRIEF = {"temperature": 0, "num_predict": 1}
CITY = {"type": "object", "properties": {"city": {"type": "string"}}}
OTHER = {"type": "function", "function": {"name": "x"}}
TEXT_CALL = {"function": {"name": "x", "arguments": "{}"}}
LOOPS = "{% for i in range(10**9) %}{% for j in range(10**9) %}{% endfor %}{% endfor %}"
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": CITY}}


@pytest.fixture(autouse=True)
def _the_next_question_is_answered(api: Any) -> Iterator[None]:
    yield
    body = {"model": "demo", "messages": HELLO, "stream": False, "options": {"temperature": 0}}
    answer = httpx.post(f"{api.url}/api/chat", json=body, timeout=60)
    assert answer.json()["message"]["content"] == "Hello! How can I help you?"


def post(api: Any, path: str, body: dict[str, Any]) -> httpx.Response:
    question: dict[str, Any] = {"messages": HELLO} if path == "chat" else {"prompt": "x"}
    whole = {"model": "demo", "stream": False, "options": BRIEF, **question, **body}
    return httpx.post(f"{api.url}/api/{path}", json=whole, timeout=60)


def options(**wished: Any) -> dict[str, Any]:
    return {"options": {**BRIEF, **wished}}


@pytest.mark.parametrize("path", ["chat", "generate"])
@pytest.mark.parametrize(
    ("body", "status"),
    [
        (options(top_k=10**6), 200),
        (options(top_k=2**31), 400),
        (options(top_k=-1), 200),
        (options(stop=5), 400),
        (options(stop=[5]), 400),
        (options(stop=["x"] * 33), 400),
        (options(stop="x" * 1025), 400),
        (options(stop=[""]), 200),
        (options(xtc_threshold=0.9), 200),
        (options(seed=-1), 200),
        (options(seed=2**64 - 1), 200),
        (options(seed=2**70), 400),
        (options(seed="x"), 400),
        (options(seed=1.5), 400),
        (options(temperature=-1), 400),
        (options(temperature="hot"), 400),
        (options(temperature=True), 400),
        (options(top_p=2), 400),
        (options(min_p=-0.1), 400),
        (options(repeat_penalty=0), 400),
        (options(num_predict=None), 200),
        (options(num_predict=2**40), 400),
        (options(num_ctx=0), 400),
        (options(num_ctx=2**40), 400),
        (options(mirostat=2), 400),
        ({"options": []}, 400),
        ({"options": None}, 200),
        ({"think": 1}, 400),
        ({"keep_alive": []}, 400),
        ({"keep_alive": "5 minutes"}, 400),
        ({"format": {"type": "object", "properties": 5}}, 400),
        ({"format": {"type": "nonsense"}}, 400),
        ({"format": {"type": "string", "pattern": "("}}, 400),
        ({"format": {"$ref": "#/nowhere"}}, 400),
        ({"format": {"$ref": "http://127.0.0.1:1/schema"}}, 400),
        ({"format": 5}, 400),
        ({"model": "/etc/passwd"}, 400),
        ({"model": "../../demo"}, 400),
        ({"model": "http://127.0.0.1:1/x"}, (400, 404)),
        ({"model": "mlx-community/some-model"}, 404),
        ({"model": 5}, 400),
        ({"model": "x" * 10_000}, 400),
        ({"top_logprobs": -1}, 400),
        ({"top_logprobs": 2**70}, 400),
    ],
)
def test_wishes_out_of_bounds(api: Any, path: str, body: dict[str, Any], status: Any) -> None:
    answer = post(api, path, body)
    assert answer.status_code == status or answer.status_code in (status if isinstance(status, tuple) else ())
    assert answer.status_code == 200 or answer.json()["error"]


@pytest.mark.parametrize(
    ("path", "body", "error"),
    [
        ("generate", {"prompt": ["x"]}, "prompt"),
        ("generate", {"prompt": "x", "images": ["http://127.0.0.1:1/x.png"]}, "does not support images"),
        ("generate", {"prompt": "word " * 5000}, "the context window has"),
        ("generate", {"prompt": "x", "template": LOOPS}, "template"),
        ("generate", {"prompt": "x", "template": "{{ ''.__class__.__mro__[1].__subclasses__() }}"}, "template"),
        ("generate", {"prompt": "x", "template": "{{ messages.__init__.__globals__ }}"}, "template"),
        ("generate", {"prompt": "x", "template": "{% include '/etc/passwd' %}"}, "template"),
        ("chat", {"messages": [*HELLO] * 10_000}, "the context window has"),
        ("chat", {"messages": {"role": "user"}}, "messages"),
        ("chat", {"messages": [5]}, "messages.0"),
        ("chat", {"messages": HELLO, "tools": [TOOL, TOOL]}, "get_weather"),
        ("chat", {"messages": HELLO, "tools": [{"type": "function", "function": {}}]}, "name"),
        ("chat", {"messages": HELLO, "tools": [{"type": "function"}]}, "function"),
        ("chat", {"messages": HELLO, "tools": ["get_weather"]}, "tools.0"),
        ("chat", {"messages": HELLO, "tool_choice": "required"}, "tool"),
        ("chat", {"messages": HELLO, "tools": [TOOL], "tool_choice": OTHER}, "tool"),
        ("chat", {"messages": [{"role": "assistant", "tool_calls": [TEXT_CALL]}]}, "arguments"),
    ],
)  # fmt: skip
def test_bodies_that_ask_for_what_cannot_be(api: Any, path: str, body: dict[str, Any], error: str) -> None:
    answer = post(api, path, body)
    assert answer.status_code == 400, answer.text[:300]
    assert error in answer.json()["error"]


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", "missing request body"),
        (b"   ", "missing request body"),
        (b"[]", "not a JSON object"),
        (b'{"model":', "not JSON"),
        (b'{"model": "demo", "prompt": "\xff"}', "not UTF-8"),
        (b'{"model": "demo", "prompt": "\\ud800"}', "half a character"),
        (b'{"model": "demo", "prompt": "x", "options": {"temperature": NaN}}', "NaN"),
        (b'{"model": "demo", "prompt": "x", "options": {"temperature": Infinity}}', "Infinity"),
        (b'{"model": "demo", "prompt": "x", "options": {"temperature": 1e999}}', "beyond every number"),
        (b'{"model": "demo", "context": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested"),
        (b'{"model": "demo", "options": ' + b'{"a":' * 1000 + b"1" + b"}" * 1000 + b"}", "nested"),
        (b'{"model": "demo", "prompt": "x", "num": ' + b"9" * 5000 + b"}", ""),
    ],
    ids=lambda value: value[:24] if isinstance(value, bytes) else "",
)
@pytest.mark.parametrize("path", ["chat", "generate", "show"])
def test_bodies_that_are_no_requests(api: Any, path: str, content: bytes, error: str) -> None:
    answer = httpx.post(f"{api.url}/api/{path}", content=content, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert error in answer.json()["error"]


def test_a_body_of_100_megabytes(api: Any) -> None:
    body = b'{"model": "demo", "prompt": "' + b"x" * 100_000_000 + b'"}'
    for content in (body, iter([body[:50_000_000], body[50_000_000:]])):
        answer = httpx.post(
            f"{api.url}/api/generate", content=content, headers={"content-type": "application/json"}, timeout=60
        )
        assert (answer.status_code, "16777216" in answer.json()["error"]) == (413, True)


WRONG: list[Any] = [5, -1, 1.5, "x", "", [], [1], ["x"], {}, {"a": 1}, True, None, 2**70, [[]], [None]]
FIELDS = [("chat", name) for name in ChatBody.model_fields] + [("generate", name) for name in GenerateBody.model_fields]


@pytest.mark.parametrize(("path", "name"), FIELDS, ids=lambda value: value)
def test_every_field_takes_any_value_or_refuses_it(api: Any, path: str, name: str) -> None:
    base: dict[str, Any] = {"model": "demo", "options": BRIEF, "keep_alive": "5m"}
    base |= {"messages": HELLO} if path == "chat" else {"prompt": "Hello!"}
    with httpx.Client(base_url=api.url, timeout=60) as client:
        for value, stream in itertools.product(WRONG, (True, False)):
            body = {"stream": stream, **base, name: value}
            if name in ("keep_alive",) and value in (5, 1.5, None, {}, True, -1):
                continue  # these are right, and would let the model go or keep it for ever
            answer = client.post(f"/api/{path}", json=body)
            assert answer.status_code in (200, 400, 404), (value, answer.text[:200])
            for line in answer.text.splitlines():
                assert "error" not in json.loads(line) or answer.status_code != 200, (value, line)
