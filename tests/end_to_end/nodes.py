"""Real node processes for tests: started, driven and killed as a person's own would be."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from node.cli.demo_node import CommandFailed, DemoNode, running
from node.models.demo import demo_directory

Facts = dict[str, Any]


class NodeProcess(DemoNode):
    """A node whose process a test can kill, and whose commands may be meant to fail."""

    process: "subprocess.Popen[str]"

    def start(self) -> Facts:
        """Make the identity where there is none and start the process."""
        if not self.home.exists():
            self.command("account", "create", "--nickname", self.nickname)
        return self.serve()

    def kill(self) -> None:
        """SIGKILL the node's process and wait for its end."""
        self.process.kill()
        self.process.wait()

    def fails(self, *words: str) -> Facts:
        """Return `{code, stderr}` of a command that must fail."""
        done = subprocess.run(
            self._command_line(words), env=self._environment, stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
        assert done.returncode != 0, f"`tilenode {' '.join(words)}` succeeded: {done.stdout}"
        assert "Traceback" not in done.stderr
        return {"code": done.returncode, "stderr": done.stderr}

    def _start(self, words: tuple[str, ...]) -> "subprocess.Popen[str]":
        process = super()._start(words)
        if words[0] == "serve":
            self.process = process
        return process


@contextmanager
def started(directory: Path, *nicknames: str) -> Iterator[list[NodeProcess]]:
    """Yield running nodes with these nicknames, each with its own home, and stop them at the end."""
    nodes = [NodeProcess(directory, nickname) for nickname in nicknames]
    with running(list(nodes)):
        for node in nodes:
            node.start()
        yield nodes


def link(listener: NodeProcess, joiner: NodeProcess, *flags: str) -> None:
    """Link two nodes by ticket, with consent on both sides and equal digits."""
    listening = listener.follow("link", "enable", *flags)
    ticket = listening.next_event("ticket")["ticket"]
    joining = joiner.follow("link", "enable", ticket, "--yes", *flags)
    theirs, ours = joining.next_event("request"), listening.next_event("request")
    assert theirs["digits"] == ours["digits"]
    listener.command("link", "approve", ours["id"])
    listening.next_event("linked")
    joining.next_event("linked")
    assert (listening.finish(), joining.finish()) == (0, 0)


def write_bulk_model(directory: Path, size_bytes: int) -> None:
    """Write a model directory whose weights are `size_bytes` of finite random float16, in 16 tensors."""
    directory.mkdir()
    for file in demo_directory().iterdir():
        if file.suffix == ".json":
            shutil.copyfile(file, directory / file.name)
    generator = np.random.default_rng(7)
    count = size_bytes // 2 // 16
    # The cleared bit keeps the exponent below that of infinities and NaN.
    tensors = {
        f"layer.{index:02}.weight": (
            generator.integers(0, 2**16, (count // 1024, 1024), dtype=np.uint16) & np.uint16(0xBFFF)
        ).view(np.float16)
        for index in range(16)
    }
    save_file(tensors, directory / "model.safetensors", metadata={"format": "mlx"})


def wait_for_offer(node: NodeProcess, manifest: str, seconds: float = 60.0) -> Facts:
    """Return the event by which `node` learned of a manifest."""
    return node.wait_for(
        f"news of {manifest[:12]}",
        lambda event: event.get("event") == "offer" and event["manifest"] == manifest,
        seconds,
    )


def wait_for_lines(node: NodeProcess, chat: str, count: int, seconds: float = 30.0) -> None:
    """Return once a chat has `count` lines on `node`, looked at now and after each sync that touched it."""
    while {found["id"]: found["lines"] for found in node.command("chats")["chats"]}.get(chat, 0) < count:
        node.wait_for(
            f"{count} lines of a chat",
            lambda event: event.get("event") == "synced" and chat in event["chats"],
            seconds,
        )


__all__ = ["CommandFailed", "NodeProcess", "link", "started", "wait_for_lines", "wait_for_offer", "write_bulk_model"]
