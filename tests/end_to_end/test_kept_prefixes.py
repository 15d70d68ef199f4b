"""A real node keeps what it read of prompts: over a restart and a kill, within its home, and not where that is off."""

import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.end_to_end.nodes import NodeProcess, started

pytestmark = [pytest.mark.model, pytest.mark.processes, pytest.mark.timeout(240)]
RULES = "You are a helpful assistant. Answer each question in one short sentence and be friendly. " * 12


@pytest.fixture
def node(tmp_path: Path) -> Iterator[NodeProcess]:
    with started(tmp_path, "kitchen") as (each,):
        yield each


def ask(api: str, question: str) -> tuple[str, int]:
    """Return the answer, and how many tokens of the prompt were read before."""
    messages = [{"role": "system", "content": RULES}, {"role": "user", "content": question}]
    body = {"model": "demo", "messages": messages, "temperature": 0}
    answer: dict[str, Any] = httpx.post(f"{api}/v1/chat/completions", json=body, timeout=120).json()
    usage = answer["usage"]
    return answer["choices"][0]["message"]["content"], usage["prompt_tokens_details"]["cached_tokens"]


def kept_files(node: NodeProcess) -> list[Path]:
    return sorted((node.home / "prefixes").rglob("*.prefix"))


def wait_for_files(node: NodeProcess) -> None:
    deadline = time.monotonic() + 30
    while len(kept_files(node)) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    time.sleep(0.5)


def test_it_is_there_after_a_restart_and_after_a_kill(node: NodeProcess) -> None:
    api = str(node.ready["api"]).rstrip("/")
    expected, cached = ask(api, "What is the capital of France?")
    assert cached == 0
    assert ask(api, "What is 7 + 5?")[1] > 200
    wait_for_files(node)
    usage = node.command("du")
    assert usage["prefix_bytes"] > 100_000
    assert b"friendly" not in b"".join(path.read_bytes() for path in kept_files(node))
    for end in (signal.SIGTERM, signal.SIGKILL):
        node.process.send_signal(end)
        node.process.wait()
        api = str(node.serve()["api"]).rstrip("/")
        answer, cached = ask(api, "What is the capital of France?")
        assert answer == expected
        assert cached > 200
        assert "tilenode_prompt_tokens_cached_total" in httpx.get(f"{api}/metrics").text


def test_nothing_is_kept_where_that_is_off(node: NodeProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    expected, _ = ask(str(node.ready["api"]).rstrip("/"), "What is the capital of France?")
    wait_for_files(node)
    node.process.terminate()
    node.process.wait()
    switches = {"TILENODE_PREFIX_CACHE": "off", "TILENODE_KV_CACHE": "8"}
    monkeypatch.setattr(node, "_environment", {**node._environment, **switches})
    api = str(node.serve()["api"]).rstrip("/")
    assert ask(api, "What is the capital of France?") == (expected, 0)
    # In memory it is known all the same.
    assert ask(api, "What is the capital of France?")[1] > 200
    assert kept_files(node) == []
