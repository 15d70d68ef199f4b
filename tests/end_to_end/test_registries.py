"""Two nodes and a real registry that wants a login: pushed by one, pulled by the other, by command and by API."""

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import ollama
import psutil
import pytest

from node.cli.demo_node import CommandFailed
from node.cli.exit_codes import ExitCode
from tests.end_to_end.nodes import Facts, NodeProcess, started
from tests.store.registry import docker_registry
from tests.store.registry.docker_registry import RunningRegistry

pytestmark = [pytest.mark.processes, pytest.mark.model, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
HOSTILE = ROOT / "tests" / "store" / "registry" / "hostile_registry.py"


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[NodeProcess]]:
    with started(tmp_path_factory.mktemp("nodes"), "kitchen", "study") as running:
        yield running


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRegistry]:
    if not docker_registry.is_installed():
        pytest.skip(f"needs docker-registry: {docker_registry.NEEDED}")
    with docker_registry.login_registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture
def client(nodes: list[NodeProcess]) -> Iterator[ollama.Client]:
    """Ollama's own client, speaking to the second node."""
    stock = ollama.Client(host=nodes[1].ready["api"])
    yield stock
    stock._client.close()


def log_in(node: NodeProcess, registry: RunningRegistry, password: str) -> "subprocess.CompletedProcess[str]":
    words = ("registry", "login", registry.host, "--username", docker_registry.USER, "--password-stdin")
    return subprocess.run(
        node._command_line(words), env=node._environment, input=f"{password}\n", capture_output=True, text=True
    )


def test_a_model_goes_through_a_registry_that_wants_a_login(
    nodes: list[NodeProcess], registry: RunningRegistry, tmp_path: Path
) -> None:
    kitchen, study = nodes
    target = f"{registry.host}/ann/demo"
    kitchen.command("show", "demo")  # embeds it
    refused = kitchen.fails("push", "demo", target)
    assert refused["code"] == ExitCode.NOT_ALLOWED
    assert f"hint: log in: tilenode registry login {registry.host}" in refused["stderr"]
    wrong = log_in(kitchen, registry, "a wrong canary password")
    assert wrong.returncode == ExitCode.NOT_ALLOWED
    assert kitchen.command("registry", "list")["logins"] == []
    for node in nodes:
        assert log_in(node, registry, docker_registry.WORD).returncode == 0

    pushed = kitchen.command("push", "demo", target)
    assert pushed["referrers"] == 2  # chunk maps, provenance
    pulled = study.command("pull", target)
    assert (pulled["name"], pulled["publisher"]) == (f"{target}:latest", kitchen.ready["did"])
    assert study.command("verify", f"{target}:latest")["manifest"] == pushed["manifest"]
    again = study.command("pull", target, "--as", "mine")
    assert (again["name"], again["bytes_moved"] < 20_000) == ("mine:latest", True)
    answer = study.command("run", f"{target}:latest", "hello")
    assert answer

    packed = kitchen.command("pack", "demo", "--to", str(tmp_path / "packed"))
    assert (tmp_path / "packed" / "index.json").is_file()
    assert packed["manifest"] == pushed["manifest"]
    assert kitchen.fails("pack", "demo", "--to", str(tmp_path / "packed"))["code"] == ExitCode.USAGE

    assert study.command("registry", "logout", registry.host)["forgotten"]
    assert study.fails("pull", target)["code"] == ExitCode.NOT_ALLOWED
    for node in nodes:
        _holds_no_password(node.directory)


def _holds_no_password(directory: Path) -> None:
    """No file that a node has written, logs and database included, has a password in it."""
    for path in directory.rglob("*"):
        if path.is_file() and path.stat().st_size < 32 << 20:
            content = path.read_bytes()
            assert docker_registry.WORD.encode() not in content, path
            assert b"canary" not in content, path


def test_ollamas_own_client_pushes_and_pulls(
    nodes: list[NodeProcess], registry: RunningRegistry, client: ollama.Client
) -> None:
    kitchen = nodes[0]
    for node in nodes:
        assert log_in(node, registry, docker_registry.WORD).returncode == 0
    target = f"{registry.host}/ann/other"
    kitchen.command("show", "demo")
    kitchen.command("push", "demo", target)
    pulling = [dict(step) for step in client.pull(f"{target}:latest", stream=True)]
    statuses = [step["status"] for step in pulling]
    assert (statuses[0], statuses[-2:]) == ("pulling manifest", ["writing manifest", "success"])
    layers = [step for step in pulling if step.get("digest") and step.get("total")]
    assert layers
    assert all(step["completed"] <= step["total"] and str(step["digest"]).startswith("sha256:") for step in layers)
    pushing = [dict(step) for step in client.push(f"{target}:latest", stream=True)]
    assert [pushing[0]["status"], pushing[-1]["status"]] == ["retrieving manifest", "success"]
    with pytest.raises(ollama.ResponseError) as unknown:
        client.pull(f"{registry.host}/ann/nothing", stream=False)
    assert unknown.value.status_code == 404
    with pytest.raises(ollama.ResponseError) as nowhere:
        client.push("demo", stream=False)
    assert nowhere.value.status_code == 400


def test_whoever_leaves_ends_the_pull_and_what_came_is_kept(nodes: list[NodeProcess]) -> None:
    study = nodes[1]
    process = subprocess.Popen([sys.executable, str(HOSTILE)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        port = int(process.stdout.readline())
        node = psutil.Process(study.process.pid)

        def connections() -> int:
            return sum(bool(found.raddr) and found.raddr.port == port for found in node.net_connections())

        body = {"model": f"127.0.0.1:{port}/slow/blob"}
        with httpx.stream("POST", f"{study.ready['api']}/api/pull", json=body, timeout=30) as answer:
            lines = answer.iter_lines()
            assert "pulling manifest" in next(lines)
            assert any(json.loads(line).get("total") == 1 << 20 for line in lines)  # the weights have begun
            assert connections() > 0
        _until(lambda: connections() == 0, 3)
        (partial,) = (study.home / "store" / "cache" / "downloads").glob("*.partial")
        assert partial.stat().st_size > 0
    finally:
        process.stdin.close()
        process.wait()
        process.stdout.close()


def _until(holds: Callable[[], bool], seconds: float) -> None:
    """Wait for what another process does, which tells nobody."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        threading.Event().wait(0.05)


def test_what_leads_nowhere_says_what_to_do(nodes: list[NodeProcess]) -> None:
    kitchen: NodeProcess = nodes[0]
    cases: list[tuple[tuple[str, ...], int, str]] = [
        (("pull", "127.0.0.1:9/a/b"), ExitCode.PEER_UNREACHABLE, "connection refused"),
        (("pull", "127.0.0.1:9/a/b/c"), ExitCode.USAGE, "--as NAME"),
        (("pull", "127.0.0.1:9/a/b", "--from", "study"), ExitCode.PEER_UNKNOWN, "study"),
        (("pull", "demo", "--as", "x"), ExitCode.USAGE, "not fetched from a registry"),
        (("push", "nothing", "127.0.0.1:9/a/b"), ExitCode.MODEL_NOT_FOUND, "nothing"),
        (("push", "demo"), ExitCode.USAGE, "tilenode push demo:latest HOST/REPOSITORY"),
        (("registry", "login", "127.0.0.1:9"), ExitCode.TERMINAL_NEEDED, "--username"),
        (("registry", "logout", "not a host"), ExitCode.USAGE, "no host"),
    ]
    for words, code, said in cases:
        told: Facts = kitchen.fails(*words)
        assert (told["code"], said.lower() in told["stderr"].lower()) == (code, True), (words, told)
    with pytest.raises(CommandFailed):
        kitchen.command("pull", "https://127.0.0.1/a/b")


def test_a_registry_that_does_not_answer_is_told_as_that(nodes: list[NodeProcess]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    body = {"model": f"127.0.0.1:{port}/gone/model", "stream": False}
    answer = httpx.post(f"{nodes[1].ready['api']}/api/pull", json=body, timeout=60)
    assert answer.status_code == 502
    assert "cannot be reached" in answer.json()["error"]
