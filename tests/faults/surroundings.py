"""The fault loop with everything around it: a home, a second file system, a real registry, and a process of its own."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from tests.store.registry.docker_registry import open_registry

ROOT: Final = Path(__file__).parents[2]
IN_MEMORY: Final = Path("/dev/shm")


def run_loop(faults: int, seed: int, *, errors: bool = False) -> dict[str, dict[str, int]]:
    """Return how often which operation was struck and at which calls, after `faults` of them.

    Raises:
        AssertionError: something that was promised is not so; it says what it takes to run it again.
    """
    elsewhere = Path(tempfile.mkdtemp(prefix="tilenode-faults-", dir=IN_MEMORY))
    try:
        with tempfile.TemporaryDirectory() as directory, open_registry(Path(directory) / "registry") as registry:
            home = Path(directory) / "home"
            home.mkdir()
            command = [sys.executable, "-m", "tests.faults.fault_loop", str(home), "--elsewhere", str(elsewhere)]
            command += ["--registry", registry.host, "--faults", str(faults), "--seed", str(seed)]
            # The loop forks, so it has to stay one thread.
            environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
            finished = subprocess.run(
                [*command, *(["--errors"] if errors else [])], capture_output=True, text=True, cwd=ROOT, env=environment
            )
    finally:
        shutil.rmtree(elsewhere, ignore_errors=True)
    assert finished.returncode == 0, finished.stderr[-4000:]
    result: dict[str, dict[str, int]] = json.loads(finished.stdout.splitlines()[-1])
    return result
