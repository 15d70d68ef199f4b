"""The data directory's lock: one holder, named; free after any kind of death."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from store.errors import HomeLocked
from store.lock import lock_home

HOLDER = """
import sys
from pathlib import Path
from store.lock import lock_home
with lock_home(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_holder_is_refused_and_told_who_holds(tmp_path: Path) -> None:
    path = tmp_path / "home" / "node.lock"
    with lock_home(path):
        with pytest.raises(HomeLocked) as caught:
            lock_home(path)
        assert caught.value.pid == os.getpid()
        assert str(os.getpid()) in str(caught.value)
        assert caught.value.hint
    with lock_home(path):
        pass


def test_another_process_is_named_and_its_death_frees_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "node.lock"
    command = [sys.executable, "-c", HOLDER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(HomeLocked) as caught:
            lock_home(path)
        assert caught.value.pid == holder.pid
        holder.kill()
        holder.wait()
    with lock_home(path):
        pass


@pytest.mark.parametrize("content", ["", "nonsense", "-5\n"])
def test_a_holder_that_cannot_be_named_is_still_one(tmp_path: Path, content: str) -> None:
    path = tmp_path / "node.lock"
    with lock_home(path):
        path.write_text(content)
        with pytest.raises(HomeLocked, match="another process") as caught:
            lock_home(path)
        assert caught.value.pid is None
