"""A worker process as the system sees it: started with nothing of the node's, its socket, and its burial."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from node.models.errors import WorkerNotStarted

BURIAL_PATIENCE_S: Final = 10.0
MLX_SETTINGS: Final[Mapping[str, str]] = (
    {
        # MLX would call a C++ compiler at the first token: half a second for no gain on a CPU.
        "MLX_DISABLE_COMPILE": "1",
        # The threads of OpenBLAS wait busily for so many cycles, as a power of two. Its own 26 (some 20 ms) takes a
        # core from the node while it reads the next requests; a third of a millisecond still bridges the gaps between
        # two products.
        "OPENBLAS_THREAD_TIMEOUT": "20",
    }
    if sys.platform == "linux"
    else {}
)
"""What MLX, and what is below it, is told in the environment; it must be there when the process starts."""


@dataclass(eq=False)
class WorkerProcess:
    """A running worker process: our end of its socket, and the private directory that it lives in."""

    process: "subprocess.Popen[bytes]"
    connection: socket.socket
    scratch: "tempfile.TemporaryDirectory[str]"

    @classmethod
    def start(cls) -> "WorkerProcess":
        """Start a process that reads what a worker needs and then waits to be told which model to load.

        Raises:
            WorkerNotStarted: the system does not let it.
        """
        try:
            scratch = tempfile.TemporaryDirectory(prefix="tilenode-worker-", ignore_cleanup_errors=True)
            ours, theirs = socket.socketpair()
        except OSError as error:
            raise WorkerNotStarted(error.strerror or type(error).__name__) from error
        try:
            with theirs:
                return cls(_start(theirs, Path(scratch.name)), ours, scratch)
        except OSError as error:
            ours.close()
            scratch.cleanup()
            raise WorkerNotStarted(error.strerror or type(error).__name__) from error

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self.process.pid

    def bury(self, *, leaving: bool) -> int:
        """Return the code with which the process ended, once it has; blocking.

        `leaving`: it closed its socket itself, and has a moment to end. Its private directory goes with it.
        """
        if not leaving:
            self.process.kill()
        try:
            code = self.process.wait(timeout=BURIAL_PATIENCE_S)
        except subprocess.TimeoutExpired:
            # It closed its socket, or we did, and it lives on all the same.
            os.kill(self.process.pid, signal.SIGKILL)
            code = self.process.wait()
        self.scratch.cleanup()
        return code


def _start(theirs: socket.socket, scratch: Path) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(  # noqa: S603 - our own interpreter on our own module
        [sys.executable, "-I", "-m", "node.models.worker", str(theirs.fileno())],
        stdin=subprocess.DEVNULL,
        # What libraries print may hold words of a prompt: nobody keeps it.
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=[theirs.fileno()],
        cwd=scratch,
        env=worker_environment(scratch),
        start_new_session=True,  # Ctrl-C at the terminal is for the node, which then ends the worker
    )


def worker_environment(scratch: Path) -> Mapping[str, str]:
    """Return all of the environment that a process for a stranger's model gets; `scratch` is its home."""
    # Nothing of the node's own environment: no home, no proxies, no tokens, no library overrides.
    return {
        "PATH": os.defpath,
        "HOME": str(scratch),
        "TMPDIR": str(scratch),
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "TOKENIZERS_PARALLELISM": "false",
        "LANG": "C.UTF-8",
        **MLX_SETTINGS,
    }
