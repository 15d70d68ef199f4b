"""SIGKILL of a real node at times that nobody chose, in all that it does: what was acknowledged is there afterwards."""

import json
import os
import random
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from node.cli.client import ControlClient
from node.cli.demo_node import CommandFailed, Facts
from node.cli.exit_codes import ExitCode
from node.config import Home
from tests.end_to_end.nodes import NodeProcess, link, started, write_bulk_model
from tests.end_to_end.refusals import check_logs, interrupt, refusal_of, run

pytestmark = [pytest.mark.processes, pytest.mark.timeout(300)]

SEED = 20
KILLS = 20
LONGEST_S = 0.9
QUESTION = "What is 7 + 5?"
BULK_BYTES = 8 * 1024 * 1024
# What a command may say of a node that dies under it.
OF_A_KILLED_NODE = {ExitCode.NOT_RUNNING, ExitCode.PEER_UNREACHABLE, ExitCode.LINK_REJECTED}


class Promises:
    """What commands acknowledged before a kill, to be looked for after it."""

    def __init__(self) -> None:
        self.models: dict[str, str] = {}
        self.chats: dict[str, list[str]] = {}
        self.log_size = 0

    def note_model(self, done: Facts) -> None:
        self.models[done["name"]] = done["manifest"]

    def note_answer(self, question: str, done: Facts) -> None:
        self.chats.setdefault(done["chat"], []).extend([question, done["answer"]])

    def check(self, node: NodeProcess) -> None:
        """Check that the node keeps every promise."""
        with ControlClient(Home(node.home, Path("/nowhere"))) as control:  # as every command asks it, and quicker
            verified = control.post("/v1/log/verify")
            listed = {model["name"]: model["manifest"] for model in control.get("/v1/models")["models"]}
            shown = {chat: control.get("/v1/chat", id=chat)["lines"] for chat in self.chats}
        assert verified["size"] >= self.log_size
        self.log_size = verified["size"]
        assert listed | self.models == listed
        for chat, lines in self.chats.items():
            contents = [line["content"] for line in shown[chat]]
            assert [line for line in contents if line in lines] == lines


def test_twenty_kills_lose_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    chance = random.Random(SEED)
    with started(tmp_path, "victim", "other") as (victim, other):
        link(victim, other)
        write_bulk_model(tmp_path / "bulk", BULK_BYTES)
        (tmp_path / "Modelfile").write_text("FROM ./bulk\n")
        other.command("create", "theirs", "-f", str(tmp_path / "Modelfile"))
        promises = Promises()
        promises.note_answer("Hello!", victim.command("run", "demo", "Hello!"))
        for number in range(KILLS):
            work = threading.Thread(target=WORK[number % len(WORK)], args=(victim, tmp_path, number, promises))
            work.start()
            time.sleep(chance.uniform(0.1, LONGEST_S))  # the moment of the kill is what is tried out
            victim.kill()
            work.join()
            _kill_what_a_command_started(victim)
            restart(victim)
            promises.check(victim)
        for name in promises.models:
            victim.command("verify", name)
        _still_works(victim, other)
        check_logs(victim, QUESTION, "river stone")
        check_logs(other)


def restart(victim: NodeProcess) -> None:
    """Start the node's process again on free ports."""
    words = ("serve", "--api", "127.0.0.1:0", "--listen", "/ip4/127.0.0.1/tcp/0")
    victim.ready = victim.follow(*words).next_event("ready")


def _kill_what_a_command_started(victim: NodeProcess) -> None:
    """Kill the node in the background that a command started, where it came only after the kill."""
    holder = int((victim.home / "node.lock").read_text())
    if holder != victim.process.pid:
        with suppress(ProcessLookupError):
            os.kill(holder, signal.SIGKILL)


def _attempt(victim: NodeProcess, *words: str) -> Facts | None:
    """Return what a command says, None where the kill got in between; it then says so in the usual form."""
    done = run(victim, words)
    if done.returncode == 0:
        return dict(json.loads(done.stdout.splitlines()[-1]))
    assert done.returncode in OF_A_KILLED_NODE, done.stderr
    refusal_of(done, ExitCode(done.returncode))
    return None


def _create(victim: NodeProcess, directory: Path, number: int, promises: Promises) -> None:
    recipe = directory / f"Modelfile-{number}"
    recipe.write_text(f"FROM demo\nSYSTEM You are number {number}.\n")
    if (done := _attempt(victim, "create", f"made-{number}", "-f", str(recipe))) is not None:
        promises.note_model(done)


def _pull(victim: NodeProcess, directory: Path, number: int, promises: Promises) -> None:
    if "theirs:latest" in promises.models:
        _attempt(victim, "rm", "theirs")
        promises.models.pop("theirs:latest")
    if (done := _attempt(victim, "pull", "theirs", "--from", "other")) is not None:
        promises.note_model(done)


def _ask(victim: NodeProcess, directory: Path, number: int, promises: Promises) -> None:
    if (done := _attempt(victim, "run", "demo", QUESTION)) is not None:
        promises.note_answer(QUESTION, done)


def _sync(victim: NodeProcess, directory: Path, number: int, promises: Promises) -> None:
    _attempt(victim, "sync", "other")


def _show_ticket(victim: NodeProcess, directory: Path, number: int, promises: Promises) -> None:
    listening = victim.follow("link", "enable")
    try:
        listening.next_event("ticket")
    except CommandFailed:
        assert listening.finish() == ExitCode.NOT_RUNNING
    else:
        assert interrupt(listening) in (ExitCode.NOT_RUNNING, ExitCode.INTERRUPTED)


WORK = (_create, _ask, _pull, _sync, _show_ticket)


def _still_works(victim: NodeProcess, other: NodeProcess) -> None:
    """Check that the link survived every kill: chats and models still go both ways."""
    asked = victim.command("run", "demo", "Repeat after me: river stone 42 Alice")
    other.command("sync", "victim")
    assert len(other.command("chats", "show", asked["chat"])["lines"]) == 2
    victim.command("pull", "theirs", "--from", "other")
    victim.command("verify", "theirs")
