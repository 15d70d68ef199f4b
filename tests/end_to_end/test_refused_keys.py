"""Keys that cannot be opened: a locked keychain, a wrong passphrase. Real nodes, and nothing is made instead."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.cli.demo_node import running
from node.cli.exit_codes import ExitCode
from tests.end_to_end.nodes import NodeProcess
from tests.end_to_end.refusals import check_logs, refusal_of, refused

NEEDED = ("dbus-run-session", "gnome-keyring-daemon")
pytestmark = [pytest.mark.processes, pytest.mark.timeout(120)]

needs_secret_service = [
    pytest.mark.skipif(sys.platform != "linux", reason="the Secret Service is Linux's"),
    pytest.mark.skipif(
        any(shutil.which(program) is None for program in NEEDED),
        reason="install a Secret Service (Debian: apt-get install gnome-keyring dbus)",
    ),
]

# The session's shell unlocks the keyring with its first argument, where that is not empty, and runs the rest.
SESSION = """
password=$1; shift
if [ -n "$password" ]; then
    printf %s "$password" | gnome-keyring-daemon --unlock --components=secrets --daemonize > /dev/null || exit 99
fi
exec "$@"
"""


@pytest.fixture
def node(tmp_path: Path) -> Iterator[NodeProcess]:
    node = NodeProcess(tmp_path, "keys")
    with running([node]):
        yield node


def in_session(node: NodeProcess, password: str, *words: str) -> "subprocess.CompletedProcess[str]":
    """Run `tilenode WORDS --json` in a bus session of its own, whose keyring is unlocked with `password` if any."""
    runtime = node.directory / "run"
    runtime.mkdir(mode=0o700, exist_ok=True)
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(node.directory),
        "TILENODE_HOME": str(node.home),
        "XDG_RUNTIME_DIR": str(runtime),
        "XDG_DATA_HOME": str(node.directory / "data"),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    return subprocess.run(
        ["dbus-run-session", "--", "sh", "-c", SESSION, "sh", password, *node._command_line(words)],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize("password", ["", "wrong"])
class TestLockedKeychain:
    """What every command says while the keychain that holds the keys is locked."""

    pytestmark = needs_secret_service

    def test_it_is_named_makes_no_key_and_opens_again(self, node: NodeProcess, password: str) -> None:
        made = in_session(node, "right", "account", "create", "--nickname", "keys")
        assert made.returncode == 0, made.stderr
        assert '"rung": "keychain"' in made.stdout
        before = sorted(path.name for path in node.home.iterdir())
        for words in (("serve", "--api", "127.0.0.1:0"), ("run", "demo", "Hello!"), ("log", "verify")):
            said = refusal_of(in_session(node, password, *words), ExitCode.KEYCHAIN_LOCKED)
            assert "lock" in said.message
            assert "unlock" in said.hint
        assert not (node.home / "vault").exists()
        assert not (node.home / "node.db").exists()
        assert set(before) <= {path.name for path in node.home.iterdir()}
        shown = in_session(node, "right", "log", "verify")
        assert shown.returncode == 0, shown.stderr
        assert in_session(node, "right", "stop").returncode == 0


def test_a_wrong_passphrase_opens_nothing_and_the_right_one_everything(node: NodeProcess) -> None:
    node.start()
    asked = node.command("run", "demo", "What is 7 + 5?")
    node.command("stop")
    wrong = node.directory / "wrong"
    wrong.touch(mode=0o600)
    wrong.write_text("sesame-4711\n")
    environment = {"TILENODE_PASSPHRASE_FILE": str(wrong)}
    before = {node.home / name: (node.home / name).read_bytes() for name in ("vault", "node.db", "settings.json")}
    for words in (("serve", "--api", "127.0.0.1:0"), ("chats",), ("link", "enable")):
        said = refused(node, ExitCode.PASSPHRASE_WRONG, *words, environment=environment)
        assert str(node.home / "vault") in said.message
    assert {path: path.read_bytes() for path in before} == before
    node.serve()
    assert len(node.command("chats", "show", asked["chat"])["lines"]) == 2
    check_logs(node, "sesame-4711", "7 + 5")
