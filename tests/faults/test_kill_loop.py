"""A thousand SIGKILLs at random disk calls of the store's operations; longer: `python -m tests.faults.kill_loop`."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

KILLS = 1000
SEED = 20261121

pytestmark = [
    pytest.mark.platform,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        (sys.platform, platform.machine()) != ("linux", "x86_64"), reason="reads the registers of Linux on x86_64"
    ),
]


def test_nothing_that_was_acknowledged_is_lost_by_a_thousand_kills(tmp_path: Path) -> None:
    elsewhere = Path("/dev/shm") / f"tilenode-kills-{os.getpid()}"
    elsewhere.mkdir()
    command = [sys.executable, "-m", "tests.faults.kill_loop", str(tmp_path), "--elsewhere", str(elsewhere)]
    finished = subprocess.run(
        [*command, "--kills", str(KILLS), "--seed", str(SEED)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},  # the loop forks: it has to stay one thread
    )
    assert finished.returncode == 0, finished.stderr[-4000:]
    result = json.loads(finished.stdout.splitlines()[-1])
    assert sum(result["kills"].values()) == KILLS
    assert set(result["kills"]) >= {"create", "rm", "gc", "verify", "set-path"}
    assert {"rename", "fsync", "write", "unlink"} <= set(result["at"])
