"""What every refused command owes its caller: a code, a message, a hint, the same as JSON, no secret in the logs."""

import json
import re
import signal
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from node.cli.demo_node import DemoNode, Lines
from node.cli.exit_codes import MEANINGS, ExitCode

COMMAND_S = 60


@dataclass(frozen=True)
class Refusal:
    """How a command failed, as a person and as a script see it."""

    code: ExitCode
    kind: str
    message: str
    hint: str


def run(
    node: DemoNode, words: Iterable[str], *, prefix: Iterable[str] = (), environment: Mapping[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    """Run `tilenode WORDS --json` on the home of `node`, without a terminal, under `prefix` where one is given."""
    return subprocess.run(
        [*prefix, *node._command_line(tuple(words))],
        env={**node._environment, **(environment or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=COMMAND_S,
    )


def refused(node: DemoNode, code: ExitCode, *words: str, **how: Mapping[str, str]) -> Refusal:
    """Run a command that must be refused with `code`, and return how; everything that holds for all is checked."""
    return refusal_of(run(node, words, environment=how.get("environment")), code)


def refusal_of(done: "subprocess.CompletedProcess[str]", code: ExitCode) -> Refusal:
    """Check what every refusal owes its caller and return it."""
    said = f"{done.stdout}\n{done.stderr}"
    assert done.returncode == code, f"ended with {done.returncode}, expected {code.value} ({MEANINGS[code]}): {said}"
    assert "Traceback" not in said
    last = json.loads(done.stdout.splitlines()[-1])
    assert last["schema"] == 1
    assert last["error"].keys() == {"kind", "message", "hint", "exit_code"}
    refusal = Refusal(
        ExitCode(last["error"]["exit_code"]), last["error"]["kind"], last["error"]["message"], last["error"]["hint"]
    )
    check(refusal, code)
    assert done.stderr.splitlines()[-2:] == [f"error: {refusal.message}", f"hint: {refusal.hint}"]
    return refusal


def check(refusal: Refusal, code: ExitCode) -> None:
    """Check the words of a refusal: what, where and why on one line, and a hint."""
    assert refusal.code == code
    assert refusal.kind.isidentifier()
    assert refusal.message.strip(), refusal
    assert "\n" not in refusal.message
    assert refusal.hint.strip(), refusal
    assert not re.search(r"\w+Error\b|0x[0-9a-f]{6,}|object at", refusal.message), refusal


def check_logs(node: DemoNode, *canaries: str) -> None:
    """Check that the node's log files say something, show no crash, and hold neither passphrase nor `canaries`."""
    secret = (node.directory / "passphrase").read_text().strip()
    content = "".join(path.read_text() for path in log_files(node.home))
    assert content
    assert "Traceback" not in content, content[-4000:]
    assert "crashed" not in content, content[-4000:]
    for canary in (secret, *canaries):
        assert canary not in content


def log_files(home: Path) -> list[Path]:
    """Return every log file of a home."""
    return [path for path in (home / "logs").rglob("*") if path.is_file()]


def interrupt(command: Lines) -> int:
    """Press Ctrl-C in a running command and return its exit code."""
    command._process.send_signal(signal.SIGINT)
    return command.finish()
