"""Starts the node in the background and returns once it said that it accepts work."""

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from node.cli.client import ControlClient
from node.cli.exit_codes import ExitCode
from node.cli.invocation import Invocation
from node.config import Home, make_private_directory
from node.errors import ControlFailed, NodeNotRunning, NodeStartFailed

MAX_PASSPHRASE_ATTEMPTS: Final = 3


def running_node(invocation: Invocation) -> ControlClient | None:
    """Return a client of the node that runs on this home, or None."""
    if not invocation.home.control_socket.exists():
        return None
    client = ControlClient(invocation.home)
    try:
        client.get("/v1/ping")
    except NodeNotRunning:
        return None
    return client


def ensure_node(invocation: Invocation, *, warm: bool = False) -> ControlClient:
    """Return a client of this home's node, which is started in the background where it does not run.

    `warm`: a question comes next, so that a model worker starts beside a node that must be started.

    Raises:
        NodeStartFailed: it ended before it was ready.
        ControlFailed: it said why it cannot start; kind, hint and exit code are its own.
    """
    make_private_directory(invocation.home.root)
    with _one_starter(invocation.home):
        client = running_node(invocation)
        if client is not None:
            return client
        _start(invocation, warm)
        return ControlClient(invocation.home)


@contextmanager
def _one_starter(home: Home) -> Iterator[None]:
    """Let one command at a time look and start: the second finds the node that the first one started."""
    with open(home.start_lock, "ab", opener=_open_private) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)


def _start(invocation: Invocation, warm: bool) -> None:
    """Start the node; where a person is there to ask, a passphrase is asked for when it is needed or was wrong."""
    passphrase = _known_passphrase(invocation)
    for attempt in range(1, MAX_PASSPHRASE_ATTEMPTS + 1):
        try:
            _start_once(invocation, passphrase, warm)
            return
        except ControlFailed as error:
            asked = error.exit_code in (ExitCode.NO_SECRET_STORE, ExitCode.PASSPHRASE_WRONG)
            given = invocation.passphrase_source() is not None
            if not asked or given or not invocation.screen.interactive or attempt == MAX_PASSPHRASE_ATTEMPTS:
                raise
            invocation.screen.fail(error)
            passphrase = invocation.ask_passphrase(new=not invocation.home.vault.exists())


def _known_passphrase(invocation: Invocation) -> bytes | None:
    source = invocation.passphrase_source()
    if source is not None:
        return source()
    typed = invocation.typed_passphrase()
    if typed is None and invocation.home.vault.exists():
        return invocation.ask_passphrase(new=False)
    return typed


def _start_once(invocation: Invocation, passphrase: bytes | None, warm: bool) -> None:
    """Start `tilenode serve` as its own session and read its first line; the passphrase goes through a pipe."""
    home = invocation.home
    make_private_directory(home.logs)
    command = [sys.executable, "-m", "node.cli.main", "serve", "--json", "--background", "--home", str(home.root)]
    command += ["--warm"] if warm else []
    inherited: tuple[int, ...] = ()
    if passphrase is not None:
        reader = _pipe_holding(passphrase)
        command += ["--passphrase-fd", str(reader)]
        inherited = (reader,)
    with (home.logs / "stderr.log").open("wb") as errors:
        process = subprocess.Popen(  # noqa: S603 - this very interpreter and program, no shell
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
            pass_fds=inherited,
            cwd=home.root,
        )
    for descriptor in inherited:
        os.close(descriptor)
    import httpx  # noqa: F401 - while the node starts, this process has nothing better to do than what comes next

    _read_first_line(process)


def _pipe_holding(passphrase: bytes) -> int:
    """Return a descriptor from which `passphrase` can be read once; it is far below a pipe's capacity."""
    reader, writer = os.pipe()
    os.write(writer, passphrase)
    os.close(writer)
    return reader


def _read_first_line(process: "subprocess.Popen[bytes]") -> None:
    assert process.stdout is not None
    with process.stdout as pipe:
        line = pipe.readline()
    event = _parsed(line)
    if event.get("event") == "ready":
        return
    code = process.wait()
    error = event.get("error")
    if isinstance(error, dict):
        raise ControlFailed(str(error["kind"]), str(error["message"]), str(error["hint"]), int(error["exit_code"]))
    raise NodeStartFailed(f"it ended with code {code} and said nothing")


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        event = json.loads(line)
    except ValueError:
        return {}
    return event if isinstance(event, dict) else {}
