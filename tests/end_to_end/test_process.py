"""The node as a process: how it starts, what it refuses, how it ends, and that a kill at any time loses nothing."""

import os
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from node.cli.demo_node import DemoNode, running
from node.cli.exit_codes import ExitCode
from node.config import Home
from tests.end_to_end.nodes import NodeProcess

pytestmark = [pytest.mark.processes, pytest.mark.timeout(240)]

STOP_S = 12.0


@pytest.fixture
def node(tmp_path: Path) -> Iterator[NodeProcess]:
    each = NodeProcess(tmp_path, "kitchen")
    with running([each]):
        each.command("account", "create", "--nickname", "kitchen")
        yield each


def test_the_ready_line_is_true(node: NodeProcess) -> None:
    ready = node.serve()
    assert ready["did"].startswith("did:key:z6Mk")
    assert ready["home"] == str(node.home)
    assert httpx.get(f"{ready['api']}/api/version").status_code == 200
    host, port = ready["addresses"][0].split("/")[2], int(ready["addresses"][0].split("/")[4])
    socket.create_connection((host, port), 5).close()
    assert node.command("status")["did"] == ready["did"]


def test_only_its_owner_can_reach_the_control_socket(node: NodeProcess) -> None:
    node.serve()
    path = Home(node.home, Path("/nowhere")).control_socket
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(node.home.stat().st_mode) == 0o700


def test_a_home_too_deep_for_a_socket_works_all_the_same(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 90)
    deep.mkdir()
    node = DemoNode(deep, "deep")
    with running([node]):
        node.command("account", "create", "--nickname", "deep")
        assert not (node.home / "control.sock").exists()
        node.serve()
        assert node.command("status")["running"]


def test_a_second_node_on_the_home_is_refused_by_name(node: NodeProcess) -> None:
    node.serve()
    failed = node.fails("serve", "--api", "127.0.0.1:0")
    assert failed["code"] == ExitCode.ALREADY_RUNNING
    assert str(node.process.pid) in failed["stderr"]
    assert node.command("status")["pid"] == node.process.pid


@pytest.mark.parametrize("what", ["--api", "--listen"])
def test_a_port_in_use_is_refused_with_a_hint(node: NodeProcess, what: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        address = f"127.0.0.1:{port}" if what == "--api" else f"/ip4/127.0.0.1/tcp/{port}"
        rest = [] if what == "--api" else ["--api", "127.0.0.1:0"]
        failed = node.fails("serve", what, address, *rest)
    assert failed["code"] == ExitCode.PORT_IN_USE
    assert str(port) in failed["stderr"]
    assert f"hint: take any free port: tilenode serve {what}" in failed["stderr"]


def test_a_wrong_passphrase_starts_nothing(node: NodeProcess) -> None:
    (node.directory / "passphrase").write_text("another\n")
    vault = (node.home / "vault").read_bytes()
    assert node.fails("serve", "--api", "127.0.0.1:0")["code"] == ExitCode.PASSPHRASE_WRONG
    assert node.fails("run", "demo", "Hello!")["code"] == ExitCode.PASSPHRASE_WRONG
    assert (node.home / "vault").read_bytes() == vault


def test_sigterm_ends_it_in_time_even_while_somebody_listens(node: NodeProcess) -> None:
    node.serve()
    follower = node.follow("events")
    follower.next_event("listening")
    node.process.send_signal(signal.SIGTERM)
    assert node.process.wait(STOP_S) == 0
    assert [event["event"] for event in follower][-1] == "stopping"
    assert follower.finish() == 0
    assert not (node.home / "control.sock").exists()


def test_stop_returns_when_the_process_has_ended(node: NodeProcess) -> None:
    node.serve()
    assert node.command("stop")["stopped"]
    assert node.process.wait(STOP_S) == 0
    assert node.fails("stop")["code"] == ExitCode.NOT_RUNNING


def test_after_a_kill_it_starts_with_everything_that_was_acknowledged(node: NodeProcess) -> None:
    node.serve()
    asked = node.command("run", "demo", "What is the capital of France?")
    root = node.command("log", "verify")["root"]
    node.kill()
    assert (node.home / "control.sock").exists()  # stale: nobody could remove it

    node.serve()
    shown = node.command("chats", "show", asked["chat"])
    assert [line["content"] for line in shown["lines"]] == ["What is the capital of France?", "Paris."]
    assert node.command("log", "verify")["root"] == root
    assert node.command("verify", "demo")["manifest"]


def test_two_commands_at_once_start_one_node(node: NodeProcess) -> None:
    found: list[int] = []

    def ask() -> None:
        found.append(int(node.command("chats")["schema"]))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [1, 1, 1]
    pid = int(node.command("status")["pid"])
    assert node.command("stop")["pid"] == pid


def test_the_passphrase_is_in_no_argument_and_no_environment(node: NodeProcess) -> None:
    if not Path("/proc/self/environ").exists():
        pytest.skip("needs /proc to look into a process")
    secret = (node.directory / "passphrase").read_text().strip().encode()
    node.command("chats")
    pid = int(node.command("status")["pid"])
    try:
        for name in ("cmdline", "environ"):
            assert secret not in Path(f"/proc/{pid}/{name}").read_bytes()
    finally:
        node.command("stop")


def test_ctrl_c_ends_a_question_and_keeps_what_was_answered(node: NodeProcess) -> None:
    node.serve()
    node.command("run", "demo", "Hello!")  # the model is loaded, so that the next answer begins soon
    process = subprocess.Popen(
        [sys.executable, "-m", "node.cli.main", "run", "demo", "Count from 1 to 20."],
        env=node._environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
    )
    assert process.stdout is not None
    assert process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=STOP_S)
    assert process.returncode == ExitCode.INTERRUPTED
    assert b"Traceback" not in errors
    assert node.command("run", "demo", "What is 7 + 5?")["answer"] == "7 + 5 = 12."


def test_a_node_in_the_background_takes_another_port_when_the_usual_one_is_taken(node: NodeProcess) -> None:
    try:
        usual = socket.create_server(("127.0.0.1", 11435))
    except OSError:
        usual = None  # some other program has it, and may let it go at any time: then only the start is tested
    try:
        node.command("chats")
        assert usual is None or not str(node.command("status")["api"]).endswith(":11435")
        node.command("stop")
    finally:
        if usual is not None:
            usual.close()


def test_no_log_file_holds_a_prompt_an_answer_or_the_passphrase(node: NodeProcess) -> None:
    node.serve()
    node.command("run", "demo", "Repeat after me: river stone 42 Alice")
    httpx.post(
        f"{node.ready['api']}/api/generate",
        json={"model": "demo", "prompt": "Repeat after me: river stone 42 Alice", "stream": False},
        timeout=60,
    ).raise_for_status()
    node.command("stop")
    secret = (node.directory / "passphrase").read_text().strip().encode()
    files = [path for path in (node.home / "logs").rglob("*") if path.is_file()]
    assert files
    for path in files:
        content = path.read_bytes()
        assert b"river stone" not in content
        assert secret not in content


def test_requests_over_the_http_api_are_not_kept(node: NodeProcess) -> None:
    node.serve()
    answer = httpx.post(
        f"{node.ready['api']}/api/chat",
        json={"model": "demo", "messages": [{"role": "user", "content": "What is 7 + 5?"}], "stream": False},
        timeout=60,
    ).json()
    assert answer["message"]["content"] == "7 + 5 = 12."
    assert node.command("chats")["chats"] == []


def test_files_of_the_home_are_its_owners_alone(node: NodeProcess) -> None:
    node.serve()
    node.command("run", "demo", "Hello!")
    for name in ("node.db", "vault", "settings.json", "node.lock", "logs/node.jsonl"):
        path = node.home / name
        assert path.stat().st_mode & 0o077 == 0, f"{name} has mode {path.stat().st_mode & 0o777:o}"
    assert os.stat(node.home / "logs").st_mode & 0o077 == 0
