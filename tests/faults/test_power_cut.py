"""The power is cut while a store is written: what the disk holds at that moment is copied, mounted and looked at.

The copy of a mounted ext4 image holds what the file system has given to the disk, and nothing that was only in memory.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
IMAGE_BYTES = 192 << 20
CUTS = 6
PROGRAM = [sys.executable, "-m", "tests.faults.power_cut"]

pytestmark = [
    pytest.mark.platform,
    pytest.mark.skipif(
        sys.platform != "linux" or os.geteuid() != 0 or not Path("/dev/loop-control").exists(),
        reason="mounts file systems: needs root on Linux, and loop devices",
    ),
]


@contextmanager
def mounted(image: Path, place: Path) -> Iterator[Path]:
    place.mkdir(exist_ok=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def look(image: Path, place: Path) -> dict[str, str]:
    """Return which names stand for what on a copied disk, after the journal was replayed."""
    with mounted(image, place) as disk:
        finished = subprocess.run([*PROGRAM, "look", str(disk / "home")], capture_output=True, text=True, cwd=ROOT)
    assert finished.returncode == 0, finished.stderr
    answer = json.loads(finished.stdout)
    assert answer["faults"] == []
    found: dict[str, str] = answer["found"]
    return found


@pytest.fixture
def memory() -> Iterator[Path]:
    """Give a directory in memory, where an image is copied in an instant."""
    directory = Path("/dev/shm") / f"tilenode-power-{os.getpid()}"
    directory.mkdir()
    yield directory
    shutil.rmtree(directory)


def make_disk(memory: Path) -> Path:
    image = memory / "disk.img"
    with image.open("wb") as file:
        file.truncate(IMAGE_BYTES)
    subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True)
    return image


def test_the_cut_takes_what_was_not_flushed(tmp_path: Path, memory: Path) -> None:
    image = make_disk(memory)
    with mounted(image, tmp_path / "disk") as disk:
        flushed, lost = disk / "flushed", disk / "lost"
        with flushed.open("wb") as file:
            file.write(b"x" * 100_000)
            file.flush()
            os.fsync(file.fileno())
        lost.write_bytes(b"x" * 100_000)
        copy = shutil.copyfile(image, memory / "cut.img")
    with mounted(copy, tmp_path / "cut") as disk:
        assert (disk / "flushed").read_bytes() == b"x" * 100_000
        assert not (disk / "lost").exists() or (disk / "lost").read_bytes() != b"x" * 100_000


def test_what_was_acknowledged_outlives_a_power_cut(tmp_path: Path, memory: Path) -> None:
    image = make_disk(memory)
    acknowledged: dict[str, str] = {}
    with mounted(image, tmp_path / "disk") as disk:
        (disk / "home").mkdir()
        subprocess.run(["sync", "-f", str(disk)], check=True)
        command = [*PROGRAM, "write", str(disk / "home")]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as writer:
            assert writer.stdout is not None
            try:
                for cut in range(CUTS):
                    acknowledged |= _named(writer, cut + 1)
                    copy = _cut(writer, image)
                    found = look(copy, tmp_path / f"cut{cut}")
                    copy.unlink()
                    assert acknowledged.items() <= found.items()
            finally:
                writer.kill()
    assert len(acknowledged) >= CUTS


def _cut(writer: "subprocess.Popen[str]", image: Path) -> Path:
    """Return a copy of the image of one moment: the writer stands still while it is made."""
    os.kill(writer.pid, signal.SIGSTOP)
    copy = image.with_name("cut.img")
    shutil.copyfile(image, copy)
    os.kill(writer.pid, signal.SIGCONT)
    return copy


def _named(writer: "subprocess.Popen[str]", count: int) -> dict[str, str]:
    """Return the next `count` names that the writer acknowledges."""
    assert writer.stdout is not None
    named: dict[str, str] = {}
    for line in writer.stdout:
        word, *rest = line.split()
        if word == "named":
            named[rest[0]] = rest[1]
        if len(named) == count:
            return named
    raise AssertionError(f"the writer ended with {writer.wait()}")
