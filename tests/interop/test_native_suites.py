"""Programs that speak Ollama's API, on a real node: LangChain's suite for chat models, and `llm` with its plugin."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.end_to_end.nodes import NodeProcess, started

pytestmark = [pytest.mark.processes, pytest.mark.model, pytest.mark.timeout(600)]

SUITE = Path(__file__).with_name("langchain_ollama_chat.py")
SETTINGS = """[pytest]
asyncio_mode = auto
asyncio_default_fixture_loop_scope = function
"""
GET_WEATHER = """
def get_weather(city: str) -> str:
    "Get the weather."
    return '{"temperature": 21, "sky": "sunny"}'
"""


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    with started(tmp_path_factory.mktemp("suites"), "ann") as (ann,):
        yield ann


def test_langchains_suite(node: NodeProcess, tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text(SETTINGS)
    command = [sys.executable, "-m", "pytest", "-q", "-c", str(tmp_path / "pytest.ini"), str(SUITE)]
    command += ["-p", "no:trio", "-p", "no:cacheprovider", "--import-mode=importlib"]
    # Without CI: what may not be skipped is said below, and not to this suite.
    environment = {**os.environ, "TILENODE_API": node.ready["api"], "CI": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-4000:]
    # What is skipped needs pictures, sounds, documents, a second model, or recordings of another server.
    assert "31 passed, 12 skipped, 6 xfailed" in done.stdout, done.stdout[-2000:]


@pytest.fixture
def llm(node: NodeProcess, tmp_path: Path) -> Callable[..., str]:
    environment = {**os.environ, "LLM_USER_PATH": str(tmp_path), "OLLAMA_HOST": node.ready["api"]}

    def run(*words: str) -> str:
        command = [sys.executable, "-W", "ignore", "-m", "llm", *words]
        done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return run


def test_llm_through_its_plugin(llm: Callable[..., str]) -> None:
    assert "completion, thinking, tools" in llm("ollama", "models")
    greedy = ("-m", "ollama/demo", "-o", "temperature", "0")
    assert llm(*greedy, "What is 7 + 5?") == "7 + 5 = 12."
    assert llm(*greedy, "--no-stream", "My name is Rosa.") == "Nice to meet you, Rosa!"
    assert llm("-c", "-o", "temperature", "0", "What is my name?") == "Your name is Rosa."
    ann = "Give me JSON with name Ann and age 30."
    assert llm(*greedy, "--schema", "name, age int", ann) == '{"name": "Ann", "age": 30}'
    told = llm(*greedy, "--functions", GET_WEATHER, "What is the weather in Paris?")
    assert told == "It is 21 degrees and sunny in Paris."
