"""A thousand SIGKILLs at random disk calls of the store's operations; longer: `python -m tests.faults.kill_loop`."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from store.registry.testing import NEEDED, is_installed, open_registry

KILLS = 1000
SEED = 20261121

pytestmark = [
    pytest.mark.skipif(not is_installed(), reason=NEEDED),
    pytest.mark.platform,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        (sys.platform, platform.machine()) != ("linux", "x86_64"), reason="reads the registers of Linux on x86_64"
    ),
]


def test_nothing_that_was_acknowledged_is_lost_by_a_thousand_kills(tmp_path: Path) -> None:
    home, elsewhere = tmp_path / "home", Path("/dev/shm") / f"tilenode-kills-{os.getpid()}"
    home.mkdir()
    elsewhere.mkdir()
    command = [sys.executable, "-m", "tests.faults.kill_loop", str(home), "--elsewhere", str(elsewhere)]
    with open_registry(tmp_path / "registry") as registry:
        finished = subprocess.run(
            [*command, "--registry", registry.host, "--kills", str(KILLS), "--seed", str(SEED)],
            capture_output=True,
            text=True,
            cwd=Path(__file__).parents[2],
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},  # the loop forks: it has to stay one thread
        )
    assert finished.returncode == 0, finished.stderr[-4000:]
    result = json.loads(finished.stdout.splitlines()[-1])
    assert sum(result["kills"].values()) == KILLS
    assert set(result["kills"]) >= {"create", "rm", "gc", "verify", "set-path", "pull"}
    assert {"rename", "fsync", "write", "unlink"} <= set(result["at"])
