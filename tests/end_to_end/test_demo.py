"""The demo itself, as `make demo` runs it: every step verified, nothing left behind, and a failure that is named."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.cli.exit_codes import ExitCode

pytestmark = [pytest.mark.processes, pytest.mark.timeout(300)]

STEPS = [
    "identity",
    "start",
    "link",
    "build, sign, log",
    "gossip",
    "fetch",
    "verify",
    "answer",
    "sync",
    "second version",
]


@pytest.fixture
def temporary() -> Iterator[Path]:
    """Give a directory with a short path, as a person's is: sockets lie in it, and their paths have a limit."""
    with tempfile.TemporaryDirectory(prefix="td-") as directory:
        yield Path(directory).resolve()


def _demo(temporary: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "node.cli.main", "demo", "--json", *arguments],
        env={**os.environ, "HOME": str(temporary), "TMPDIR": str(temporary)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_demo_goes_the_whole_way_and_leaves_nothing_behind(temporary: Path) -> None:
    done = _demo(temporary)
    assert done.returncode == 0, done.stderr
    steps = [json.loads(line) for line in done.stdout.splitlines()]
    assert [step["step"] for step in steps] == STEPS
    assert all(any(sign.isdigit() for sign in step["figure"]) for step in steps)
    assert not list(temporary.glob("tilenode-demo-*"))
    assert not _processes_with(str(temporary))


def test_a_step_that_fails_is_named_and_its_logs_are_kept(temporary: Path) -> None:
    # The demo expects another answer than the model gives.
    expectation = temporary / "sitecustomize.py"
    expectation.write_text("import node.cli.demo as demo\ndemo.ANSWER = 'YELLOW.'\n")
    done = subprocess.run(
        [sys.executable, "-m", "node.cli.main", "demo", "--json"],
        env={**os.environ, "HOME": str(temporary), "TMPDIR": str(temporary), "PYTHONPATH": str(temporary)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == ExitCode.DEMO_STEP_FAILED
    assert "demo step 'answer'" in done.stderr
    assert "'YELLOW.'" in done.stderr
    assert list(temporary.glob("tilenode-demo-*/kitchen/home/logs/node.jsonl"))
    assert not _processes_with(str(temporary))


def _processes_with(text: str) -> list[str]:
    """Return the command lines of running processes whose environment or arguments mention `text`."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if text.encode() in path.read_bytes():
                found.append((path.parent / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue  # another user's, or gone meanwhile
    return found
