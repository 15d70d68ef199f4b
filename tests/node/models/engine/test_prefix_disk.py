"""Kept prefixes on the disk: there after a restart, sealed, bounded, and sound however the last life ended."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from node.models.blas import preload_blas
from protocol.worker.messages import DiskCache
from tests.node.models.engine.test_prefix import KINDS, answer, model_of, without
from tests.node.models.engine.tiny_models import words

if TYPE_CHECKING:
    from node.models.engine.prefix import KeptPrefixes

pytestmark = pytest.mark.model
KEY = bytes(range(32))


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def life(
    directory: Path,
    kind: str = "demo",
    *,
    key: bytes = KEY,
    shape: str = "float32",
    max_bytes: int = 1 << 28,
    memory_bytes: int = 1 << 28,
    now_s: Callable[[], float] = time.time,
) -> "KeptPrefixes":
    """Return the prefixes of a new life of the worker."""
    preload_blas()
    from node.models.engine.prefix import KeptPrefixes
    from node.models.engine.prefix_disk import PrefixDisk

    disk = PrefixDisk(DiskCache(str(directory), key, max_bytes), now_s)
    return KeptPrefixes(model_of(kind)[1], shape, memory_bytes, disk)


def files(directory: Path) -> list[Path]:
    return sorted(directory.iterdir())


def test_the_next_life_goes_on(tmp_path: Path, kind: str) -> None:
    prompt = words(1, 400)
    expected = without(kind, prompt)
    first = life(tmp_path, kind)
    answer(first, kind, prompt)
    first.idle()
    first.close()
    assert all(os.stat(path).st_mode & 0o777 == 0o600 for path in files(tmp_path))
    second = life(tmp_path, kind)
    assert second.nbytes == 0
    assert answer(second, kind, prompt) == (expected, 399)
    longer = [*prompt, *expected, *words(2, 50)]
    assert answer(second, kind, longer) == (without(kind, longer), 411)
    second.close()
    third = life(tmp_path, kind)
    assert answer(third, kind, longer)[1] == 461
    third.close()


def test_what_left_memory_comes_back_from_the_disk(tmp_path: Path, kind: str) -> None:
    prefixes = life(tmp_path, kind)
    prompts = [words(seed, 200) for seed in range(4)]
    for prompt in prompts:
        answer(prefixes, kind, prompt)
        prefixes.idle()
    prefixes.limit(0)
    assert prefixes.nbytes == 0
    prefixes.limit(1 << 28)
    for prompt in prompts:
        assert answer(prefixes, kind, prompt) == (without(kind, prompt), 199)
    prefixes.close()


def test_nothing_readable_lies_there(tmp_path: Path) -> None:
    prompt = [77] * 300
    prefixes = life(tmp_path)
    answer(prefixes, "demo", prompt, "an adapter's name")
    prefixes.close()
    for path in files(tmp_path):
        content = path.read_bytes()
        assert bytes([0, 0, 0, 77] * 4) not in content
        assert bytes([77, 0, 0, 0] * 4) not in content
        assert b"adapter" not in content
        assert b"float32" not in content


def test_other_keys_and_other_engines_find_nothing_and_remove_it(tmp_path: Path) -> None:
    for changed in ({"key": bytes(32)}, {"shape": "bfloat16"}):
        prefixes = life(tmp_path)
        answer(prefixes, "demo", words(1, 300))
        prefixes.close()
        other = life(tmp_path, **changed)
        assert answer(other, "demo", words(1, 300)) == (without("demo", words(1, 300)), 0)
        other.limit(0)
        other.close()
        assert life(tmp_path, **changed).take("", words(1, 300)) is None
        for path in files(tmp_path):
            path.unlink()


@pytest.mark.parametrize("place", [0, 5, 30, 40, 300, 5000, -1])
def test_a_damaged_file_costs_only_itself_and_what_lies_behind(tmp_path: Path, place: int) -> None:
    prompt = words(1, 500)
    expected = without("demo", prompt)
    prefixes = life(tmp_path)
    answer(prefixes, "demo", prompt)
    prefixes.close()
    for number, path in enumerate(files(tmp_path)):
        copy = tmp_path.parent / f"{tmp_path.name}-{number}"
        shutil.copytree(tmp_path, copy)
        content = bytearray((copy / path.name).read_bytes())
        content[place] ^= 1
        (copy / path.name).write_bytes(content)
        again = life(copy)
        tokens, taken = answer(again, "demo", prompt)
        assert tokens == expected
        assert taken in (0, 128, 256, 384)
        again.close()
        whole = life(copy)
        assert answer(whole, "demo", prompt)[1] == 499
        whole.close()


def test_cut_off_foreign_and_strange_files_are_removed(tmp_path: Path) -> None:
    prefixes = life(tmp_path)
    answer(prefixes, "demo", words(1, 300))
    prefixes.close()
    cut_off, other, *_ = files(tmp_path)
    whole = {path.name for path in files(tmp_path)}
    cut_off.write_bytes(cut_off.read_bytes()[:-1])
    (tmp_path / ("0" * 32 + ".prefix")).write_bytes(b"TNPX")
    (tmp_path / ("1" * 32 + ".prefix")).symlink_to("/dev/zero")
    os.mkfifo(tmp_path / ("2" * 32 + ".prefix"))
    (tmp_path / f"{'3' * 32}.4711").write_bytes(b"half")
    (tmp_path / "notes.txt").write_bytes(b"somebody's")
    (tmp_path / "folder").mkdir()
    shutil.copy(other, tmp_path / ("4" * 32 + ".prefix"))
    prefixes = life(tmp_path)
    assert answer(prefixes, "demo", words(1, 300))[0] == without("demo", words(1, 300))
    prefixes.close()
    assert {path.name for path in files(tmp_path)} - {"folder"} <= whole


def test_the_disk_keeps_the_newest_within_its_cap(tmp_path: Path) -> None:
    one = life(tmp_path)
    answer(one, "demo", words(1, 250))
    one.close()
    cap = int(3.5 * sum(path.stat().st_size for path in files(tmp_path)))
    for seed in range(2, 9):
        prefixes = life(tmp_path, max_bytes=cap)
        answer(prefixes, "demo", words(seed, 250))
        answer(prefixes, "demo", words(1, 250))
        prefixes.close()
        assert sum(path.stat().st_size for path in files(tmp_path)) <= cap
    prefixes = life(tmp_path, max_bytes=cap)
    assert [answer(prefixes, "demo", words(seed, 250))[1] for seed in (1, 8, 2)] == [249, 249, 0]
    prefixes.close()


def test_what_nobody_came_back_to_for_a_week_goes(tmp_path: Path) -> None:
    prefixes = life(tmp_path)
    answer(prefixes, "demo", words(1, 200))
    prefixes.close()
    later = life(tmp_path, now_s=lambda: time.time() + 8 * 24 * 3600)
    assert later.take("", words(1, 200)) is None
    later.close()
    assert files(tmp_path) == []


def test_a_directory_that_takes_nothing_costs_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    prefixes = life(tmp_path / "file" / "inside")
    answer(prefixes, "demo", words(1, 200))
    prefixes.idle()
    answer(prefixes, "demo", words(2, 200))
    prefixes.idle()
    assert answer(prefixes, "demo", words(1, 200)) == (without("demo", words(1, 200)), 199)
    prefixes.close()
    lost = life(tmp_path / "gone")
    answer(lost, "demo", words(1, 200))
    shutil.rmtree(tmp_path / "gone")
    lost.idle()
    lost.close()
    lost_again = life(tmp_path / "gone")
    assert lost_again.take("", words(1, 200)) is None
    lost_again.close()


def test_a_worker_that_is_never_idle_writes_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from node.models.engine import prefix_disk

    monkeypatch.setattr(prefix_disk, "PATIENCE_S", 0.001)
    prefixes = life(tmp_path, "gemma3_text")
    for seed in range(12):
        answer(prefixes, "gemma3_text", words(seed, 600))
    deadline = time.monotonic() + 20
    while len(files(tmp_path)) < 16:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    prefixes.close()
    again = life(tmp_path, "gemma3_text")
    assert answer(again, "gemma3_text", words(0, 600))[0] == without("gemma3_text", words(0, 600))
    again.close()


WRITER = """
import sys
from pathlib import Path
from tests.node.models.engine.test_prefix import answer
from tests.node.models.engine.test_prefix_disk import life
from tests.node.models.engine.tiny_models import words
prefixes = life(Path(sys.argv[1]), sys.argv[2], max_bytes=int(sys.argv[3]))
for turn in range(10_000):
    answer(prefixes, sys.argv[2], words(turn % 7, 150 + 61 * (turn % 5)))
    prefixes.idle()
    print(turn, flush=True)
"""


@pytest.mark.processes
@pytest.mark.parametrize("writer", ["demo", "qwen3_next"])
def test_a_kill_at_any_moment_leaves_what_is_right(tmp_path: Path, writer: str) -> None:
    directory = tmp_path / "kept"
    expected: dict[tuple[int, ...], list[int]] = {}
    found = 0
    for number in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(directory), writer, str(3 << 20)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        for _ in range(2 + number):
            process.stdout.readline()
        time.sleep(0.003 * number)  # anywhere within a turn
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        prefixes = life(directory, writer, max_bytes=3 << 20)
        for turn in range(5):
            prompt = words(turn % 7, 150 + 61 * (turn % 5))
            if tuple(prompt) not in expected:
                expected[tuple(prompt)] = without(writer, prompt)
            tokens, taken = answer(prefixes, writer, prompt)
            assert tokens == expected[tuple(prompt)]
            found += taken
        prefixes.close()
        assert sum(path.stat().st_size for path in files(directory)) <= 3 << 20
    assert found > 0


def test_no_thread_of_a_disk_stays(tmp_path: Path) -> None:
    import threading

    before: set[Any] = set(threading.enumerate())
    prefixes = life(tmp_path)
    answer(prefixes, "demo", words(1, 100))
    prefixes.close()
    assert set(threading.enumerate()) <= before


def test_what_was_read_ahead_is_not_taken_for_what_was_written_since(tmp_path: Path) -> None:
    from node.models.engine.prefix_disk import PrefixDisk
    from protocol.prefix_file import PrefixHeader, Tensor

    place = DiskCache(str(tmp_path), KEY, 1 << 28)

    def keep(disk: PrefixDisk, body: bytes) -> tuple[bytes, tuple[Tensor, ...]]:
        tensors = (Tensor("uint8", (len(body),)),)
        header = PrefixHeader("page", "", "x", bytes(16), 0, bytes(8), tensors)
        disk.write(header, [memoryview(body)], [])
        return disk.keys.name("page", bytes(16), bytes(8)), tensors

    before = PrefixDisk(place)
    keep(before, b"long before")
    before.close()
    disk = PrefixDisk(place)
    (found,) = disk.found()
    disk.remove(found.name)
    file = keep(disk, b"since")
    disk.set_quiet(True)
    while disk.pending:
        time.sleep(0.001)
    assert disk.read([file]) == [b"since"]
    disk.close()
