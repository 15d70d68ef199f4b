"""SIGKILL of the puller and of the source in the middle of a pull: what arrived stays, and the rest comes."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from protocol.model_name import parse_model_name
from store.models import ModelStore
from store.testing import make_model_directory, make_tensors

pytestmark = [pytest.mark.processes, pytest.mark.timeout(120)]
ROOT = Path(__file__).parents[3]
DEMO = parse_model_name("demo")
Event = dict[str, Any]


@contextmanager
def process(*arguments: str) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-m", "tests.node.peer.pull_process", *arguments]
    running = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        yield running
    finally:
        running.kill()
        running.wait()
        assert running.stdout is not None
        running.stdout.close()


def next_event(running: "subprocess.Popen[str]", wanted: Callable[[Event], bool]) -> Event:
    """Return the next event that is wanted; fail when the process ends before."""
    assert running.stdout is not None
    for line in running.stdout:
        event: Event = json.loads(line)
        if wanted(event):
            return event
    raise AssertionError("the process ended without the event")


def in_the_middle(event: Event) -> bool:
    return bool(3_000_000 < event.get("completed", 0) < event.get("total", 0))


def succeeded(event: Event) -> bool:
    return bool(event.get("status") == "success")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Sixteen megabytes: about five seconds at the pace of the slow source."""
    return make_model_directory(tmp_path / "model", make_tensors(blocks=8, width=1000))


def test_a_killed_puller_takes_up_what_had_arrived(tmp_path: Path, model: Path) -> None:
    with process("serve", str(tmp_path / "source"), "0", str(model), "slow") as source:
        address = next_event(source, lambda event: "address" in event)["address"]
        with process("pull", str(tmp_path / "puller"), address) as puller:
            next_event(puller, in_the_middle)
        with process("pull", str(tmp_path / "puller"), address) as puller:
            done = next_event(puller, succeeded)
    assert done["bytes_resumed"] > 1_000_000
    assert done["bytes_resumed"] + done["bytes_moved"] < 17_000_000
    assert verified_size(tmp_path / "puller") > 16_000_000


def test_a_killed_source_is_waited_for_and_the_pull_goes_on(tmp_path: Path, model: Path) -> None:
    with process("serve", str(tmp_path / "source"), "0", str(model), "slow") as source:
        listening = next_event(source, lambda event: "address" in event)
        with process("pull", str(tmp_path / "puller"), listening["address"]) as puller:
            next_event(puller, in_the_middle)
            source.kill()
            next_event(puller, lambda event: event["status"] == "waiting for source")
            with process("serve", str(tmp_path / "source"), str(listening["port"]), "", "quick"):
                done = next_event(puller, succeeded)
    assert done["bytes_moved"] < 25_000_000
    assert verified_size(tmp_path / "puller") > 16_000_000


def verified_size(home: Path) -> int:
    store = ModelStore(home / "store")
    try:
        return store.verify(DEMO).size_bytes
    finally:
        store.close()
