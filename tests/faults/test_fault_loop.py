"""A thousand SIGKILLs, and calls that fail, at random disk calls of the store's operations.

Longer, with other seeds: `python -m tests.faults.fault_loop`.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.store.registry.docker_registry import NEEDED, is_installed, open_registry

SEED = 20261121
OPERATIONS = {"create", "rm", "gc", "verify", "set-path", "pull"}

pytestmark = [
    pytest.mark.skipif(not is_installed(), reason=NEEDED),
    pytest.mark.platform,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        (sys.platform, platform.machine()) != ("linux", "x86_64"), reason="reads the registers of Linux on x86_64"
    ),
]


@pytest.fixture
def elsewhere() -> Iterator[Path]:
    """Give a directory on another file system than the tests' own."""
    directory = Path("/dev/shm") / f"tilenode-faults-{os.getpid()}"
    directory.mkdir()
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


def run_loop(tmp_path: Path, elsewhere: Path, *options: str) -> dict[str, dict[str, int]]:
    """Return how often which operation was struck, and at which calls."""
    home = tmp_path / "home"
    home.mkdir()
    with open_registry(tmp_path / "registry") as registry:
        command = [sys.executable, "-m", "tests.faults.fault_loop", str(home), "--elsewhere", str(elsewhere)]
        finished = subprocess.run(
            [*command, "--registry", registry.host, "--seed", str(SEED), *options],
            capture_output=True,
            text=True,
            cwd=Path(__file__).parents[2],
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},  # the loop forks: it has to stay one thread
        )
    assert finished.returncode == 0, finished.stderr[-4000:]
    result: dict[str, dict[str, int]] = json.loads(finished.stdout.splitlines()[-1])
    return result


def test_nothing_that_was_acknowledged_is_lost_by_a_thousand_kills(tmp_path: Path, elsewhere: Path) -> None:
    result = run_loop(tmp_path, elsewhere, "--faults", "1000")
    assert sum(result["faults"].values()) == 1000
    assert set(result["faults"]) == OPERATIONS
    assert {"rename", "fsync", "write", "unlink"} <= set(result["at"])


def test_a_disk_that_refuses_costs_a_named_error_and_nothing_else(tmp_path: Path, elsewhere: Path) -> None:
    result = run_loop(tmp_path, elsewhere, "--faults", "200", "--errors")
    assert set(result["faults"]) == OPERATIONS
    assert {"rename", "fsync", "pwrite64", "unlink"} <= set(result["at"])
