"""`tilenode env`: stock clients that are told nothing else find the node."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.end_to_end.nodes import NodeProcess, started

pytestmark = [pytest.mark.processes, pytest.mark.timeout(120)]

ASK_ALL = """
import anthropic, ollama, openai
print(ollama.list().models[0].model, openai.OpenAI().models.list().data[0].id, anthropic.Anthropic().base_url)
"""


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    with started(tmp_path_factory.mktemp("env"), "ann") as (ann,):
        yield ann


def printed(node: NodeProcess, *options: str) -> str:
    command = [word for word in node._command_line(("env", *options)) if word != "--json"]
    done = subprocess.run(command, env=node._environment, capture_output=True, text=True, check=True)
    return done.stdout


def test_a_shell_takes_the_variables_and_clients_find_the_node(node: NodeProcess) -> None:
    api = node.ready["api"]
    script = 'eval "$1"; exec "$2" -W ignore -c "$3"'
    bare = {name: value for name, value in os.environ.items() if not name.startswith(("OLLAMA", "OPENAI", "ANTHROPIC"))}
    words = ["sh", "-c", script, "sh", printed(node), sys.executable, ASK_ALL]
    done = subprocess.run(words, env=bare, capture_output=True, text=True, check=True)
    assert [word.rstrip("/") for word in done.stdout.split()] == ["demo:latest", "demo:latest", api]


def test_other_shells_and_programs(node: NodeProcess) -> None:
    api = node.ready["api"]
    assert f"set -gx OLLAMA_HOST {api}\n" in printed(node, "--shell", "fish")
    assert f'$env:OPENAI_BASE_URL = "{api}/v1"\n' in printed(node, "--shell", "powershell")
    assert f"ANTHROPIC_BASE_URL={api}\n" in printed(node, "--shell", "dotenv")
    assert node.command("env")["variables"]["OLLAMA_HOST"] == api


def test_where_no_node_runs_that_is_said(node: NodeProcess) -> None:
    stopped = NodeProcess(node.home.parent, "bob")
    stopped.command("account", "create", "--nickname", "bob")
    assert "tilenode serve" in stopped.fails("env")["stderr"]
