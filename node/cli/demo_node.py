"""One of the demo's two nodes: a process of its own, spoken to only as a person or a script would, by commands."""

import json
import queue
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from node.config import child_environment

STOP_WAIT_S: Final = 15.0
Facts = dict[str, Any]


class CommandFailed(Exception):
    """A command of one node failed, or what it was to bring about did not happen."""


class DemoNode:
    """A node with its own directory, identity and process."""

    def __init__(self, directory: Path, nickname: str) -> None:
        self.nickname: Final = nickname
        self.directory: Final = directory / nickname
        self.directory.mkdir(mode=0o700)
        passphrase = self.directory / "passphrase"
        passphrase.touch(mode=0o600)
        passphrase.write_text(secrets.token_urlsafe(24) + "\n")
        self.home: Final = self.directory / "home"
        self._environment = child_environment(self.home, passphrase)
        self._processes: list[subprocess.Popen[str]] = []
        self._collectors: list[threading.Thread] = []
        self._events: queue.Queue[Facts] = queue.Queue()
        self.ready: Facts = {}

    def command(self, *words: str) -> Facts:
        """Return the last line of JSON that `tilenode WORDS --json` prints.

        Raises:
            CommandFailed: another exit code than 0; the message is the command's own.
        """
        done = subprocess.run(  # noqa: S603 - this very interpreter and program, no shell
            self._command_line(words),
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise CommandFailed(f"`tilenode {words[0]}` ended with code {done.returncode}: {done.stderr.strip()}")
        lines = done.stdout.splitlines()
        return _object(lines[-1]) if lines else {}

    def follow(self, *words: str) -> "Lines":
        """Start `tilenode WORDS --json` and return its lines as they come."""
        return Lines(self._start(words), words[0])

    def serve(self) -> Facts:
        """Start the node on free loopback ports, follow its events, and return what it says once it accepts work."""
        words = ("serve", "--api", "127.0.0.1:0", "--listen", "/ip4/127.0.0.1/tcp/0")
        self.ready = self.follow(*words).next_event("ready")
        events = self.follow("events")
        events.next_event("listening")
        collector = threading.Thread(target=self._collect, args=(events,), daemon=True)
        collector.start()
        self._collectors.append(collector)
        return self.ready

    def _collect(self, events: "Lines") -> None:
        for event in events:
            self._events.put(event)

    def wait_for(self, what: str, wanted: Callable[[Facts], bool], seconds: float) -> Facts:
        """Return the first event of this node that is `wanted`.

        Raises:
            CommandFailed: it did not come within `seconds`.
        """
        deadline = time.monotonic() + seconds
        while True:
            try:
                event = self._events.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise CommandFailed(f"{self.nickname}: {what} did not happen within {seconds:.0f} s") from None
            if wanted(event):
                return event

    def stop(self) -> None:
        """End every process of this node; the last started first, each asked before it is killed."""
        for process in reversed(self._processes):
            if process.poll() is None:
                process.terminate()
        for process in reversed(self._processes):
            try:
                process.wait(STOP_WAIT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for collector in self._collectors:
            collector.join()  # at the end of the stream that it reads
        for process in self._processes:
            if process.stdout is not None:
                process.stdout.close()

    def restart(self) -> Facts:
        """Stop the node in order and start it again on new ports; return what `serve` returns."""
        self.stop()
        self._processes.clear()
        self._collectors.clear()
        return self.serve()

    def _start(self, words: tuple[str, ...]) -> "subprocess.Popen[str]":
        with (self.directory / f"{words[0]}.stderr").open("ab") as errors:
            process = subprocess.Popen(  # noqa: S603 - this very interpreter and program, no shell
                self._command_line(words),
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,  # Ctrl-C is for the demo, which then stops its nodes in order
            )
        self._processes.append(process)
        return process

    def _command_line(self, words: tuple[str, ...]) -> list[str]:
        return [sys.executable, "-m", "node.cli.main", *words, "--json"]


class Lines:
    """The lines of JSON that a running command prints."""

    def __init__(self, process: "subprocess.Popen[str]", name: str) -> None:
        assert process.stdout is not None
        self._process = process
        self._stream = process.stdout
        self._name = name

    def __iter__(self) -> Iterator[Facts]:
        for line in self._stream:
            yield _object(line)

    def next_event(self, kind: str) -> Facts:
        """Return the next event of this kind.

        Raises:
            CommandFailed: the command ended, or reported an error, before it.
        """
        for event in self:
            if event.get("event") == kind:
                return event
            if "error" in event:
                raise CommandFailed(f"`tilenode {self._name}`: {event['error']['message']}")
        raise CommandFailed(f"`tilenode {self._name}` ended with code {self._process.wait()} before {kind!r}")

    def finish(self) -> int:
        """Return the exit code once the command has ended."""
        return self._process.wait()


def _object(line: str) -> Facts:
    value = json.loads(line)
    if not isinstance(value, dict):
        raise CommandFailed("a command printed JSON that is no object")
    return value


@contextmanager
def running(nodes: list[DemoNode]) -> Iterator[None]:
    """Stop every node at the end of the block, however it ends."""
    try:
        yield
    finally:
        for node in nodes:
            node.stop()
