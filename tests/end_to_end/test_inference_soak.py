"""Many mixed requests with random disconnects against a real node: every answer right, and nothing grows.

`TILENODE_SOAK_REQUESTS=1000` is the long form; `TILENODE_SOAK_SEED` repeats an order.
"""

import json
import os
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from node.cli.demo_node import running
from tests.end_to_end.nodes import NodeProcess

pytestmark = [pytest.mark.processes, pytest.mark.model, pytest.mark.timeout(1800)]

REQUESTS = int(os.environ.get("TILENODE_SOAK_REQUESTS", "120"))
SEED = int(os.environ.get("TILENODE_SOAK_SEED", "7"))
AT_ONCE = 12
GREEDY = {"temperature": 0}
FOX = "Tell me a story about a fox."
KNOWN = {
    "Hello!": "Hello! How can I help you?",
    "What is the capital of France?": "Paris.",
    "What is 7 + 5?": "7 + 5 = 12.",
    "Repeat after me: river stone 42 Alice": "river stone 42 Alice",
    "Explain quantum physics.": "Sorry, I do not know that. I am only a tiny demo model.",
}
ANN = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"type": "function", "function": {"name": "get_weather", "parameters": CITY}}

Ask = Callable[[httpx.Client, random.Random], None]


def said(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def lines(answer: httpx.Response) -> Iterator[dict[str, Any]]:
    assert answer.status_code == 200, answer.read()
    for line in answer.iter_lines():
        text = line.removeprefix("data: ")
        if text.startswith("{"):
            yield json.loads(text)


def native_whole(client: httpx.Client, chance: random.Random) -> None:
    question, expected = chance.choice(list(KNOWN.items()))
    body = {"model": "demo", "messages": said(question), "stream": False, "options": GREEDY}
    answer = client.post("/api/chat", json=body).json()
    assert answer["message"]["content"] == expected
    assert answer["done_reason"] == "stop"


def native_stream(client: httpx.Client, chance: random.Random) -> None:
    question, expected = chance.choice(list(KNOWN.items()))
    body = {"model": "demo", "messages": said(question), "options": GREEDY}
    with client.stream("POST", "/api/chat", json=body) as answer:
        assert "".join(line["message"]["content"] for line in lines(answer)) == expected


def generate(client: httpx.Client, chance: random.Random) -> None:
    question, expected = chance.choice(list(KNOWN.items()))
    body = {"model": "demo", "prompt": question, "stream": False, "options": GREEDY}
    assert client.post("/api/generate", json=body).json()["response"] == expected


def openai_stream(client: httpx.Client, chance: random.Random) -> None:
    question, expected = chance.choice(list(KNOWN.items()))
    body = {"model": "demo", "messages": said(question), "stream": True, "temperature": 0}
    with client.stream("POST", "/v1/chat/completions", json=body) as answer:
        pieces = [line["choices"][0]["delta"].get("content") or "" for line in lines(answer) if line["choices"]]
    assert "".join(pieces) == expected


def openai_logprobs(client: httpx.Client, chance: random.Random) -> None:
    body = {"model": "demo", "messages": said("What is 7 + 5?"), "temperature": 0, "logprobs": True, "top_logprobs": 3}
    choice = client.post("/v1/chat/completions", json=body).json()["choices"][0]
    assert choice["message"]["content"] == "7 + 5 = 12."
    tokens = choice["logprobs"]["content"]
    assert "".join(token["token"] for token in tokens).startswith("7 + 5 = 12.")
    assert all(len(token["top_logprobs"]) == 3 and token["logprob"] <= 0 for token in tokens)


def anthropic(client: httpx.Client, chance: random.Random) -> None:
    question, expected = chance.choice(list(KNOWN.items()))
    body = {"model": "demo", "max_tokens": 100, "messages": said(question), "temperature": 0}
    assert client.post("/v1/messages", json=body).json()["content"][0]["text"] == expected


def count_tokens(client: httpx.Client, chance: random.Random) -> None:
    answer = client.post("/v1/messages/count_tokens", json={"model": "demo", "messages": said("Hello!")})
    assert answer.json()["input_tokens"] == 10


def responses(client: httpx.Client, chance: random.Random) -> None:
    question, expected = chance.choice(list(KNOWN.items()))
    body = {"model": "demo", "input": question, "temperature": 0, "store": False}
    output = client.post("/v1/responses", json=body).json()["output"]
    assert output[-1]["content"][0]["text"] == expected


def schema(client: httpx.Client, chance: random.Random) -> None:
    body = {"model": "demo", "messages": said("Give me JSON with name Ann and age 30."), "stream": False}
    answer = client.post("/api/chat", json={**body, "format": ANN, "options": GREEDY}).json()
    assert json.loads(answer["message"]["content"]) == {"name": "Ann", "age": 30}


def tool(client: httpx.Client, chance: random.Random) -> None:
    body = {"model": "demo", "messages": said("What is the weather in Paris?"), "stream": False, "options": GREEDY}
    answer = client.post("/api/chat", json={**body, "tools": [WEATHER]}).json()
    assert answer["message"]["tool_calls"][0]["function"]["arguments"] == {"city": "Paris"}


def seeded(client: httpx.Client, chance: random.Random) -> None:
    body = {"model": "demo", "messages": said(FOX), "stream": False}
    options = {"temperature": 1.5, "top_k": 0, "top_p": 1.0, "seed": chance.choice([1, 2]), "num_predict": 20}
    one, two = (client.post("/api/chat", json={**body, "options": options}).json() for _ in range(2))
    assert one["message"]["content"] == two["message"]["content"]


def thinking(client: httpx.Client, chance: random.Random) -> None:
    body = {"model": "demo", "messages": said("What is 7 + 5?"), "stream": False, "options": GREEDY, "think": True}
    message = client.post("/api/chat", json=body).json()["message"]
    assert (message["content"], message["thinking"].strip()) == ("7 + 5 = 12.", "7 plus 5 is 12.")


def leaves(client: httpx.Client, chance: random.Random) -> None:
    endless = {"temperature": 2.0, "top_k": 0, "top_p": 1.0}
    body = {"model": "demo", "prompt": "Once", "raw": True, "options": endless}
    with client.stream("POST", "/api/generate", json=body) as answer:
        found = lines(answer)
        for _ in range(chance.randint(0, 20)):
            next(found, None)


def leaves_at_once(client: httpx.Client, chance: random.Random) -> None:
    body = {"model": "demo", "messages": said(FOX * chance.randint(1, 40)), "stream": False}
    with suppress(httpx.TimeoutException):
        client.post("/api/chat", json=body, timeout=chance.choice([0.001, 0.02]))


def refused(client: httpx.Client, chance: random.Random) -> None:
    long = {"model": "demo", "messages": said("word " * 5000)}
    body, status = chance.choice(
        [
            ({"model": "nope", "messages": said("x")}, 404),
            ({"model": "demo", "messages": said("x"), "options": {"top_p": 7}}, 400),
            ({"model": "demo", "messages": said("x"), "format": {"type": "nonsense"}}, 400),
            (long, 400),
        ]
    )
    assert client.post("/api/chat", json=body).status_code == status


KINDS: list[Ask] = [
    *(native_whole, native_stream, generate, openai_stream, openai_logprobs, anthropic, count_tokens, responses),
    *(schema, tool, seeded, thinking, leaves, leaves, leaves_at_once, refused),
]


class Growth:
    """What a node and its worker hold: open files of the node, resident bytes of the worker."""

    def __init__(self, node: NodeProcess, url: str) -> None:
        self._process = psutil.Process(node.process.pid)
        self._url = url

    def worker(self) -> psutil.Process:
        """Return the one worker process."""
        (worker,) = [each for each in self._process.children() if "node.models.worker" in each.cmdline()]
        return worker

    def files(self) -> int:
        """Return how many files the node has open."""
        return int(self._process.num_fds())

    def resident(self) -> int:
        """Return what the worker has in memory beside kept prefixes, which have a cap of their own."""
        metrics = httpx.get(f"{self._url}/metrics").text
        kept = re.findall(r"^tilenode_prefix_cache_bytes\{.*\} (\S+)$", metrics, re.MULTILINE)
        return int(self.worker().memory_info().rss) - sum(int(float(each)) for each in kept)


def soak(url: str, requests: int, seed: int) -> Counter[str]:
    """Ask `requests` things, several at once; return how many of each kind."""
    counts: Counter[str] = Counter()

    def one(number: int) -> None:
        chance = random.Random(f"{seed}.{number}")
        kind = chance.choice(KINDS)
        with httpx.Client(base_url=url, timeout=300, headers={"user-agent": f"soak-{number % 3}"}) as client:
            kind(client, chance)
        counts[kind.__name__] += 1

    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(one, range(requests)))
    return counts


def test_many_mixed_requests_leave_nothing_behind(tmp_path: Path) -> None:
    node = NodeProcess(tmp_path, "soak")
    with running([node]):
        node.command("account", "create", "--nickname", "soak")
        url = node.serve()["api"]
        soak(url, max(60, REQUESTS // 3), SEED)
        growth = Growth(node, url)
        worker, files, resident = growth.worker().pid, growth.files(), growth.resident()
        counts = soak(url, REQUESTS, SEED + 1)
        assert counts.total() == REQUESTS
        assert growth.worker().pid == worker, "the worker that was there at first answered everything"
        assert growth.files() <= files + 3, (files, growth.files())
        assert growth.resident() <= resident * 1.1 + 20_000_000, (resident, growth.resident())
        deadline = time.monotonic() + 20
        while (health := httpx.get(f"{url}/api/health").json())["active"]:
            assert time.monotonic() < deadline, health  # whose client has left ends within a token
        assert health["waiting"] == 0
        assert httpx.get(f"{url}/api/health?deep=1", timeout=60).json()["proof"]["tokens"] == 1
