"""A disk that fills up under a real node: named with what is missing, nothing lost, and the same command works later.

The node runs in a user and mount namespace of its own, on a small file system in memory; no root is needed.
"""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.cli.demo_node import running
from node.cli.exit_codes import ExitCode
from tests.end_to_end.nodes import NodeProcess, link, wait_for_offer, write_bulk_model
from tests.end_to_end.refusals import check_logs, refused


def _can_mount() -> bool:
    if sys.platform != "linux" or shutil.which("unshare") is None:
        return False
    trial = ["unshare", "--user", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return subprocess.run(trial, capture_output=True, check=False).returncode == 0


pytestmark = [
    pytest.mark.processes,
    pytest.mark.timeout(180),
    pytest.mark.skipif(
        not _can_mount(), reason="needs Linux with user namespaces (Debian: apt-get install util-linux)"
    ),
]
if sys.platform != "linux":
    pytestmark.append(pytest.mark.platform)

MIB = 1024 * 1024
DISK_BYTES = 160 * MIB
MODEL_BYTES = 24 * MIB


class SmallDiskNode(NodeProcess):
    """A node whose home lies on a file system of its own, which the test can fill and empty."""

    def __init__(self, directory: Path, nickname: str) -> None:
        super().__init__(directory, nickname)
        # The namespace lives as long as this shell; everything of the node is run inside it.
        self._keeper = subprocess.Popen(
            ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", self._set_up()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._keeper.stdout is not None
        assert self._keeper.stdout.readline() == "mounted\n"

    def _set_up(self) -> str:
        mount = f"mount -t tmpfs -o size={DISK_BYTES},mode=700 tmpfs '{self.home}'"
        return f"mkdir '{self.home}' && {mount} && echo mounted && read line"

    def inside(self, *command: str) -> list[str]:
        """Return a command line that runs `command` where the disk is mounted."""
        return ["nsenter", f"--target={self._keeper.pid}", "--user", "--mount", "--preserve-credentials", *command]

    def fill(self, leave_bytes: int) -> None:
        """Use the disk up to `leave_bytes`."""
        code = (
            "import os, sys; disk, leave = sys.argv[1], int(sys.argv[2]); s = os.statvfs(disk); "
            "os.posix_fallocate(os.open(disk + '/ballast', os.O_RDWR | os.O_CREAT), 0, s.f_bavail * s.f_frsize - leave)"
        )
        self._run(sys.executable, "-c", code, str(self.home), str(leave_bytes))

    def empty(self) -> None:
        """Give back what `fill` took."""
        self._run("rm", str(self.home / "ballast"))

    def list_tree(self) -> list[str]:
        """Return the paths of all files of the home."""
        done = self._run("find", str(self.home), "-type", "f")
        return sorted(done.splitlines())

    def read(self, name: str) -> str:
        """Return the text of a file of the home."""
        return self._run("cat", str(self.home / name))

    def release(self) -> None:
        """Let the namespace end."""
        self._keeper.communicate("\n")

    def _run(self, *command: str) -> str:
        return subprocess.run(self.inside(*command), capture_output=True, text=True, check=True).stdout

    def _command_line(self, words: tuple[str, ...]) -> list[str]:
        return self.inside(*super()._command_line(words))


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[tuple[NodeProcess, SmallDiskNode]]:
    """A publisher with room, and a node with little."""
    publisher, small = NodeProcess(tmp_path, "publisher"), SmallDiskNode(tmp_path, "small")
    with running([publisher, small]):
        publisher.start()
        small.command("account", "create", "--nickname", "small")
        small.serve()
        yield publisher, small
        small.stop()
        check_logs_inside(small)
    small.release()


def test_a_disk_that_is_full_costs_nothing_but_time(nodes: tuple[NodeProcess, SmallDiskNode], tmp_path: Path) -> None:
    publisher, small = nodes
    link(publisher, small)
    write_bulk_model(tmp_path / "bulk", MODEL_BYTES)
    (tmp_path / "Modelfile").write_text("FROM ./bulk\n")
    recipe = str(tmp_path / "Modelfile")
    created = publisher.command("create", "bulk", "-f", recipe)
    wait_for_offer(small, created["manifest"])
    asked = small.command("run", "demo", "Hello!")

    for leave_bytes in (MODEL_BYTES // 3, 64 * 1024, 0):
        small.fill(leave_bytes)
        before = small.list_tree()
        for words in (("create", "own", "-f", recipe), ("pull", "bulk", "--from", "publisher")):
            said = refused(small, ExitCode.DISK_FULL, *words)
            assert "bytes" in said.message
            assert "free" in said.hint or "room" in said.hint
        assert set(small.list_tree()) - set(before) == set(), "a refused command left something"
        # What is there is still there, and can be used.
        assert [model["name"] for model in small.command("list")["models"]] == ["demo:latest"]
        assert len(small.command("chats", "show", asked["chat"])["lines"]) == 2
        assert small.command("log", "verify")["size"] == 2
        small.empty()

    small.fill(0)
    said = refused(small, ExitCode.DISK_FULL, "run", "demo", "What is 7 + 5?")
    assert small.command("log", "verify")["size"] == 2
    small.kill()
    small.empty()
    small.serve()

    assert small.command("pull", "bulk", "--from", "publisher")["manifest"] == created["manifest"]
    small.command("verify", "bulk")
    small.command("rm", "bulk")
    assert small.command("create", "own", "-f", recipe)["name"] == "own:latest"
    small.command("verify", "own")
    assert small.command("run", "demo", "What is 7 + 5?")["answer"].strip() == "7 + 5 = 12."
    assert small.command("log", "verify")["size"] == 4


def check_logs_inside(node: SmallDiskNode) -> None:
    """Check the node's log files, which only its own namespace sees."""
    content = node.read("logs/node.jsonl")
    assert content
    assert "Traceback" not in content, content[-4000:]
    assert "crashed" not in content, content[-4000:]


class LimitedNode(NodeProcess):
    """A node whose files cannot grow beyond `limit_bytes`: to a write this is a full disk, but half-way."""

    limit_bytes = 0

    def _command_line(self, words: tuple[str, ...]) -> list[str]:
        command = super()._command_line(words)
        if words[0] != "serve" or not self.limit_bytes:
            return command
        return ["sh", "-c", 'ulimit -f "$0" && exec "$@"', str(self.limit_bytes // 512), *command]


def test_files_that_stop_growing_half_way_lose_nothing(tmp_path: Path) -> None:
    publisher, limited = NodeProcess(tmp_path, "publisher"), LimitedNode(tmp_path, "limited")
    with running([publisher, limited]):
        publisher.start()
        limited.start()
        link(publisher, limited)
        write_bulk_model(tmp_path / "bulk", MODEL_BYTES)
        (tmp_path / "Modelfile").write_text("FROM ./bulk\n")
        recipe = str(tmp_path / "Modelfile")
        created = publisher.command("create", "bulk", "-f", recipe)
        wait_for_offer(limited, created["manifest"])
        limited.command("stop")

        limited.limit_bytes = MODEL_BYTES // 2
        limited.serve()
        for words in (("create", "own", "-f", recipe), ("pull", "bulk", "--from", "publisher")):
            said = refused(limited, ExitCode.DISK_FULL, *words)
            assert "free" in said.hint or "room" in said.hint
        assert [model["name"] for model in limited.command("list")["models"]] == ["demo:latest"]
        limited.command("stop")

        limited.limit_bytes = 0
        limited.serve()
        done = limited.command("pull", "bulk", "--from", "publisher")
        assert done["manifest"] == created["manifest"]
        limited.command("verify", "bulk")
        assert limited.command("create", "own", "-f", recipe)["name"] == "own:latest"
        check_logs(limited)
