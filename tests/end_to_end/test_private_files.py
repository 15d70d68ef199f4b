"""What a node writes is for its own user alone, also where the account's umask would share it."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.nodes import link, started

pytestmark = [pytest.mark.processes, pytest.mark.timeout(120)]

# Content under its digest, and files that are links to it: nobody may change them, the directories above are closed.
READ_ONLY = 0o444


@pytest.fixture
def open_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.usefixtures("open_umask")
def test_every_file_and_directory_is_private(tmp_path: Path) -> None:
    with started(tmp_path, "ann", "ben") as (ann, ben):
        link(ann, ben)
        ann.command("run", "demo", "hello")
        ben.command("pull", "demo", "--from", "ann")
        for home in (ann.home, ben.home):
            shared = [(oct(mode), path.relative_to(home)) for path, mode in _modes(home) if mode & 0o077]
            assert [found for found in shared if found[0] != oct(READ_ONLY)] == []
            assert all(path.parts[0] == "store" for _, path in shared)


def _modes(home: Path) -> list[tuple[Path, int]]:
    return [(path, stat.S_IMODE(path.lstat().st_mode)) for path in (home, *home.rglob("*")) if not path.is_symlink()]
