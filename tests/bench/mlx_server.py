"""The peer to beat: `mlx_lm.server` as its package installs it, in a process of its own."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from node.models.blas import LIBRARIES
from tests.bench.run import CannotMeasure

START_S = 120.0
POLL_S = 0.1


@dataclass(frozen=True)
class Server:
    """A running server: its address, host:port, and its process."""

    address: str
    process: "subprocess.Popen[bytes]"

    @contextmanager
    def resting(self) -> Iterator[None]:
        """Stop the process for the body: unasked, it looks for requests some hundred times a second."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)


@contextmanager
def mlx_server(directory: Path, scratch: Path, *, fast_blas: bool) -> Iterator[Server]:
    """Serve the model in `directory`; yield the server.

    With `fast_blas` it gets the BLAS that our own worker takes, on Linux; without, it runs as a person gets it.

    Raises:
        CannotMeasure: it did not start.
    """
    with socket.create_server(("127.0.0.1", 0)) as place:
        port = place.getsockname()[1]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(scratch / "hf")}
    if fast_blas and sys.platform == "linux":
        environment["LD_PRELOAD"] = LIBRARIES[0]
    command = [sys.executable, "-m", "mlx_lm", "server", "--model", str(directory), "--port", str(port)]
    # The demo model's template thinks unless told otherwise; ours does not unless asked.
    command += ["--chat-template-args", json.dumps({"enable_thinking": False}), "--log-level", "ERROR"]
    log = scratch / f"mlx-server-{port}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
        try:
            _wait(process, port, log)
            yield Server(f"127.0.0.1:{port}", process)
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait(process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    deadline_s = time.monotonic() + START_S
    while time.monotonic() < deadline_s:
        if process.poll() is not None:
            break
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", "/health")
            if connection.getresponse().status == 200:
                return
        except OSError:
            time.sleep(POLL_S)
        finally:
            connection.close()
    raise CannotMeasure(f"mlx_lm server did not start: {log.read_text(errors='replace')[-300:]}")
