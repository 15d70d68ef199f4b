"""The transcripts beside this file are documentation that is executed: each `$` line is run and its output compared.

In a `console` block, `$ command` is run by a shell in a fresh directory with an empty HOME; the lines after it are what
it prints, both streams together. `…` stands for any text within a line, a line `...` for any number of lines, and
`[exit N]` as the last line for an exit code other than 0. All blocks of a file are one session; what it started is
stopped at its end.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

HERE = Path(__file__).parent
FILES = sorted(HERE.glob("*.md"))
COMMAND_S = 120


@dataclass(frozen=True)
class Step:
    """One command and what it prints."""

    line: int
    command: str
    expected: tuple[str, ...]
    code: int


def steps_of(path: Path) -> Iterator[Step]:
    """Read the steps of one transcript."""
    command, line_number, expected, inside = "", 0, list[str](), False
    for number, line in enumerate([*path.read_text().splitlines(), "```"], 1):
        fence = line.startswith("```")
        if command and (fence or line.startswith("$ ")):
            yield _step(line_number, command, expected)
            command = ""
        if fence:
            inside = line == "```console"
        elif inside and line.startswith("$ "):
            command, line_number, expected = line[2:], number, []
        elif inside:
            expected.append(line)


def _step(line: int, command: str, expected: list[str]) -> Step:
    code = 0
    if expected and (found := re.fullmatch(r"\[exit (\d+)\]", expected[-1])):
        code = int(found[1])
        expected = expected[:-1]
    return Step(line, command, tuple(expected), code)


def matches(expected: tuple[str, ...], found: list[str]) -> bool:
    """Compare output with its pattern, line by line; `...` stands for any number of lines."""
    if not expected:
        return not found
    if expected[0] == "...":
        return any(matches(expected[1:], found[skipped:]) for skipped in range(len(found) + 1))
    if not found or not _line_pattern(expected[0]).fullmatch(found[0]):
        return False
    return matches(expected[1:], found[1:])


def _line_pattern(line: str) -> re.Pattern[str]:
    return re.compile(".*".join(map(re.escape, line.split("…"))))


@pytest.fixture
def session(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Give the environment of one session: its own HOME, data root, passphrase and program; stops its node."""
    programs = tmp_path / "bin"
    programs.mkdir()
    program = programs / "tilenode"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m node.cli.main "$@"\n')
    program.chmod(0o755)
    passphrase = tmp_path / "passphrase"
    passphrase.touch(mode=0o600)
    passphrase.write_text("correct horse battery staple\n")
    environment = {
        "HOME": str(tmp_path),
        "PATH": f"{programs}:{os.environ['PATH']}",
        "TILENODE_HOME": str(tmp_path / "home"),
        "TILENODE_PASSPHRASE_FILE": str(passphrase),
        "LANG": "C.UTF-8",
    }
    yield environment
    if (tmp_path / "home" / "node.lock").exists():
        subprocess.run([str(program), "stop"], env=environment, capture_output=True, check=False, timeout=COMMAND_S)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_transcript(path: Path, session: dict[str, str], tmp_path: Path) -> None:
    for step in steps_of(path):
        done = subprocess.run(
            ["sh", "-c", step.command],
            env=session,
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=COMMAND_S,
        )
        found = done.stdout.splitlines()
        where = f"{path.name}:{step.line}: $ {step.command}\n{done.stdout}[exit {done.returncode}]"
        assert done.returncode == step.code, where
        assert matches(step.expected, found), where


def test_there_are_transcripts() -> None:
    assert all(list(steps_of(path)) for path in FILES)
    assert len(FILES) >= 3


def test_the_comparison_can_fail() -> None:
    assert matches(("a…c", "...", "z"), ["abc", "x", "y", "z"])
    assert not matches(("a…c",), ["abd"])
    assert not matches(("a",), ["a", "b"])
    assert not matches(("a", "b"), ["a"])
