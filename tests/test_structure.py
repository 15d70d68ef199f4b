"""The house stays visible: short files, a known top level, and no finding ignored without its reason."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAX_LINES = 400
PACKAGES = ("identity", "protocol", "store", "node")
PROSE = {"CHANGELOG.md", "CONTRIBUTING.md", "LICENSE-APACHE.txt", "LICENSE-MIT.txt", "README.md", "SECURITY.md"}
SETTINGS = {".ci", ".gitignore", "Makefile", "pyproject.toml", "requirements.lock"}
TOP_LEVEL = {*PROSE, *SETTINGS, *PACKAGES, "specs", "tests"}


def _sources() -> list[Path]:
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("path", _sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_is_short_or_says_why_it_is_not(path: Path) -> None:
    text = path.read_text()
    lines = text.count("\n")
    assert lines <= MAX_LINES or "Longer than most files:" in text, f"{lines} lines and no reason"


def test_the_top_level_is_the_known_one() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("not a git checkout: apt install git, and clone")
    assert {name.split("/")[0] for name in listed.stdout.splitlines()} <= TOP_LEVEL


def test_every_ignored_finding_has_its_reason() -> None:
    ignored = re.compile(r"#\s*(?:type: ignore\[[^\]]+\]|noqa: [A-Z0-9, ]+)(?P<reason>.*)")
    for path in _sources():
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if match := ignored.search(line):
                assert len(match["reason"].strip(" -#:")) > 5, (
                    f"{path.relative_to(ROOT)}:{number} ignores without a reason"
                )


def test_a_wide_except_says_why_and_nothing_sleeps() -> None:
    for path in _sources():
        text = path.read_text()
        assert not re.search(r"except\s*:", text), path
        assert not re.search(r"except Exception( as \w+)?:\s*$", text, re.MULTILINE), path
        assert "time.sleep(" not in text, path


def test_what_is_raised_out_of_a_group_is_raised_by_itself() -> None:
    """Before Python 3.11.4 whatever an `except*` raises comes in a group again, and a person reads "(1 sub-exception)".

    Debian's Python is such a one; this test, unlike one that runs into it, fails on every Python.
    """
    for path in _sources():
        starred = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.TryStar)]
        raising = [node.lineno for node in starred for part in ast.walk(node) if isinstance(part, ast.Raise)]
        assert not raising, f"{path}:{raising} raises out of except*"
