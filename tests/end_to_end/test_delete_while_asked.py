"""Clients that delete, copy and ask one model at once: answers, or a clear word that it is gone."""

import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from node.cli.demo_node import running
from tests.end_to_end.nodes import NodeProcess

pytestmark = [pytest.mark.processes, pytest.mark.model, pytest.mark.timeout(600)]

HELLO = "Hello! How can I help you?"
ROUNDS = 8


def test_deleting_and_asking_at_once_is_an_answer_or_a_not_found(tmp_path: Path) -> None:
    node = NodeProcess(tmp_path, "shared")
    with running([node]):
        node.command("account", "create", "--nickname", "shared")
        url = node.serve()["api"]
        body = {"messages": [{"role": "user", "content": "Hello!"}], "stream": False, "options": {"temperature": 0}}
        assert httpx.post(f"{url}/api/chat", json={"model": "demo", **body}, timeout=120).status_code == 200
        seen: Counter[tuple[str, int]] = Counter()

        def client(number: int) -> None:
            chance = random.Random(number)
            with httpx.Client(base_url=url, timeout=120) as http:
                for _ in range(ROUNDS):
                    what = chance.choice(["ask", "ask", "copy", "delete"])
                    if what == "ask":
                        answer = http.post("/api/chat", json={"model": "two", **body})
                        assert answer.status_code == 404 or answer.json()["message"]["content"] == HELLO, answer.text
                    elif what == "copy":
                        answer = http.post("/api/copy", json={"source": "demo", "destination": "two"})
                    else:
                        answer = http.request("DELETE", "/api/delete", json={"model": "two"})
                    seen[what, answer.status_code] += 1

        with ThreadPoolExecutor(6) as pool:
            list(pool.map(client, range(6)))
        assert {status for _, status in seen} <= {200, 404}, seen
        assert seen["ask", 200], seen
        assert httpx.post(f"{url}/api/chat", json={"model": "demo", **body}, timeout=120).status_code == 200
