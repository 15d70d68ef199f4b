"""What every figure of the bench is given: sizes, a scratch directory, progress, and the two nodes."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from node.cli.demo_node import CommandFailed, DemoNode

ROOT = Path(__file__).parents[2]
END_S = 30.0
"""How long a reference program may take to end once its input has."""


class CannotMeasure(Exception):
    """A figure cannot be measured here; the message says why."""


@dataclass(frozen=True)
class Sizes:
    """How much each figure does; `quick` sizes are held to no limit."""

    fetch_bytes: int = 256_000_000
    fetches: int = 3
    answers: int = 5
    most_tokens: int = 128
    log_entries: int = 1_000
    proofs: int = 300
    idle_s: float = 20.0
    settle_s: float = 5.0
    file_bytes: int = 1_000_000_000
    layer_bytes: int = 4_000_000_000
    turns: int = 5
    manifests: int = 1_000
    chunks: int = 200_000
    quick: bool = False

    @property
    def many_turns(self) -> int:
        """For what many threads do at once: there a machine's own doings cost most, and fewer turns tell less."""
        return 2 * self.turns - 1

    @classmethod
    def small(cls) -> "Sizes":
        """Sizes at which everything runs and nothing is worth reading."""
        return cls(
            fetch_bytes=2_000_000,
            fetches=1,
            answers=1,
            most_tokens=16,
            log_entries=20,
            proofs=10,
            idle_s=0.5,
            settle_s=0.0,
            file_bytes=3_000_000,
            layer_bytes=3_000_000,
            turns=1,
            manifests=20,
            chunks=400,
            quick=True,
        )


class Run:
    """One run of the bench. The two nodes are started, and linked, when a figure first asks for them."""

    def __init__(self, scratch: Path, sizes: Sizes, progress: Callable[[str], None]) -> None:
        self.scratch = scratch
        self.sizes = sizes
        self.progress = progress
        self._started: list[DemoNode] = []
        self._failure: CommandFailed | None = None

    @property
    def nodes(self) -> tuple[DemoNode, DemoNode]:
        """Two node processes with homes of their own, linked as own devices; tried once.

        Raises:
            CommandFailed: a node does not start, or the two do not link.
        """
        if self._failure is not None:
            raise self._failure
        if not self._started:
            try:
                return self._start_nodes()
            except CommandFailed as error:
                self._failure = error
                raise
        first, second = self._started
        return first, second

    def _start_nodes(self) -> tuple[DemoNode, DemoNode]:
        self.progress("starting and linking two nodes")
        first, second = (DemoNode(self.scratch, nickname) for nickname in ("kitchen", "study"))
        for node in (first, second):
            self._started.append(node)
            node.command("account", "create", "--nickname", node.nickname)
            node.serve()
        _link(first, second)
        return first, second

    def stop(self) -> None:
        """Stop the nodes that were started."""
        for node in self._started:
            node.stop()


def _link(first: DemoNode, second: DemoNode) -> None:
    listener = first.follow("link", "enable")
    joiner = second.follow("link", "enable", listener.next_event("ticket")["ticket"], "--yes")
    first.command("link", "approve", listener.next_event("request")["id"])
    listener.next_event("linked")
    joiner.next_event("linked")


@contextmanager
def program(
    module: str, *arguments: str, settings: Mapping[str, str] = MappingProxyType({})
) -> Iterator["subprocess.Popen[str]"]:
    """Run `python -m module` with pipes, and with `settings` in its environment.

    Its input ends with the block, and so must it.

    Raises:
        CannotMeasure: it failed.
    """
    command = [sys.executable, "-m", module, *arguments]
    with subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, **settings}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            status = _end(process)
    if status != 0:
        raise CannotMeasure(f"{module} ended with status {status}")


def _end(process: "subprocess.Popen[str]") -> int:
    assert process.stdin is not None
    with suppress(BrokenPipeError):  # it is gone already, its status says why
        process.stdin.close()
    try:
        return process.wait(END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def output_of(module: str, *arguments: str) -> Any:
    """The one JSON value that `python -m module` prints. Raises as `program`."""
    with program(module, *arguments) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
    return json.loads(line)  # a program that failed was found out above
