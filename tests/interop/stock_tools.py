"""Other people's programs that the registry is tested with; a skip says what to install."""

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

START_S = 20.0
PACKAGES = {"skopeo": "skopeo", "docker-registry": "docker-registry", "curl": "curl"}


def needs(*programs: str) -> None:
    """Skip the test where one of `programs` is not installed."""
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed: apt-get install {PACKAGES[program]}")


def run(*words: str, fails: bool = False) -> str:
    """Return what a program prints; it must succeed, or fail where `fails`."""
    done = subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert (done.returncode != 0) is fails, f"{' '.join(words)}: {done.stderr}"
    return done.stderr if fails else done.stdout


@contextmanager
def docker_registry(directory: Path, *, mirror_of: str = "") -> Iterator[str]:
    """Run Debian's docker-registry on loopback, as a mirror of the registry at `mirror_of`; yield HOST:PORT."""
    needs("docker-registry")
    directory.mkdir()
    address = f"127.0.0.1:{free_port()}"
    proxy = f"proxy: {{remoteurl: {mirror_of}}}\n" if mirror_of else ""
    config = directory / "config.yml"
    config.write_text(
        f"version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {directory / 'data'}}}}}\n"
        f"http: {{addr: '{address}'}}\n{proxy}"
    )
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(["docker-registry", "serve", str(config)], stdout=log, stderr=log)
    try:
        _wait_for(address, process, directory / "log")
        yield address
    finally:
        process.terminate()
        process.wait()


def free_port() -> int:
    """Return a loopback port that nobody uses now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _wait_for(address: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    host, _, port = address.partition(":")
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex((host, int(port))) == 0:
                return
        time.sleep(0.05)  # another program's port: nothing tells when it listens
    raise AssertionError(f"docker-registry does not listen: {log.read_text()}")
