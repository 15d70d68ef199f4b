"""Moving the store: whole on one side or the other, whenever it is killed."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from protocol.model_name import parse_model_name
from store.errors import DiskFailed, DiskFull, FileTooLarge, MoveJournalInvalid, MoveRefused, MoveUnfinished
from store.models import ModelStore
from store.move import Copying, MoveReport, give_up_move, move_store, require_target, settle_move
from store.move_journal import JOURNAL_FILE, How, Move, decode_move, locate_store, read_move, write_move
from store.probe import require_file_size
from store.testing import add_model, make_model_directory, make_tensors

VECTORS = Path(__file__).parents[2] / "specs" / "vectors" / "0027-move-and-repair"
NAME = parse_model_name("a")
SETTING = "setting"


@contextmanager
def mounted(directory: Path, size: str = "256m") -> Iterator[Path]:
    """Give `directory` as a file system of its own."""
    directory.mkdir(exist_ok=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", directory], capture_output=True)
    if done.returncode != 0:
        pytest.skip("needs the right to mount: run as root, `sudo make test`")
    try:
        yield directory
    finally:
        subprocess.run(["umount", "-l", directory], check=True)


class Home:
    """A home with two models, and the one setting."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.source = root / "store"
        root.mkdir()
        store = ModelStore(self.source)
        for number in range(2):
            directory = make_model_directory(root.parent / f"model{number}", make_tensors(number, blocks=24, width=128))
            add_model(store, "ab"[number], directory)
        (store.layout.quarantine / ("0" * 64)).write_bytes(b"damaged")
        store.close()

    def switch(self, path: Path) -> None:
        fresh = self.root / f"{SETTING}.new"
        fresh.write_text(str(path))
        fresh.replace(self.root / SETTING)

    @property
    def set_path(self) -> Path:
        path = self.root / SETTING
        return Path(path.read_text()) if path.exists() else self.source

    def move(self, target: Path) -> MoveReport:
        return move_store(self.root, self.located(), target, self.switch, lambda _: None)

    def located(self) -> Path:
        return locate_store(self.root, self.set_path)

    def verify(self) -> None:
        """Accept only a store in which both models are whole, found as a node finds it."""
        settle_move(self.root, self.set_path, self.switch)
        store = ModelStore(self.located())
        try:
            store.tidy()
            assert len(store.list()) == 2
            for model in store.list():
                store.verify(model.name)
        finally:
            store.close()


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


def test_on_one_file_system_it_is_one_rename(home: Home, tmp_path: Path) -> None:
    before = (home.source / "index.json").stat().st_ino
    report = home.move(tmp_path / "elsewhere")
    assert (report.how, report.copied_bytes) == (How.RENAME, 0)
    assert (tmp_path / "elsewhere" / "index.json").stat().st_ino == before
    assert not home.source.exists()
    assert read_move(home.root) is None
    home.verify()


def test_on_another_file_system_every_blob_is_copied_and_the_old_tree_goes(home: Home, tmp_path: Path) -> None:
    with mounted(tmp_path / "disk") as disk:
        seen: list[Copying] = []
        report = move_store(home.root, home.source, disk / "models", home.switch, seen.append)
        assert report.how is How.COPY
        assert report.copied_bytes > 1_000_000
        assert seen[-1].completed == seen[-1].total == report.copied_bytes
        assert not home.source.exists()
        home.verify()
        assert home.located() == disk / "models"
        # And back again.
        move_store(home.root, disk / "models", home.source, home.switch, seen.append)
        assert not (disk / "models").exists()
        home.verify()


def test_a_mount_point_itself_can_be_the_target_and_stays(home: Home, tmp_path: Path) -> None:
    with mounted(tmp_path / "disk") as disk:
        (disk / "lost+found").mkdir()
        home.move(disk)
        home.verify()
        home.move(tmp_path / "home" / "store")
        assert [path.name for path in disk.iterdir()] == ["lost+found"]
        home.verify()


def test_what_a_killed_try_left_in_the_target_is_no_reason_to_refuse_it(home: Home, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / ".tilenode-probe").touch()
    with mounted(tmp_path / "disk") as disk:
        (disk / ".tilenode-probe-2").touch()
        home.move(disk)
        home.verify()
        assert not (disk / ".tilenode-probe-2").exists()
        home.move(tmp_path / "elsewhere")
        home.verify()


def test_what_it_takes_along(home: Home, tmp_path: Path) -> None:
    store = ModelStore(home.source)
    (store.layout.downloads / f"{'1' * 64}.partial").write_bytes(b"x" + bytes(20 << 20) + b"y")
    (store.layout.temporary / "1-1").write_bytes(b"left by a kill")
    (home.source / "notes.txt").write_text("of another program")
    store.materialize(store.resolve(NAME).digest)
    store.close()
    times = {path.name: path.stat().st_mtime_ns for path in (home.source / "manifests").rglob("*.json")}
    with mounted(tmp_path / "disk") as disk:
        target = disk / "models"
        home.move(target)
        partial = target / "cache" / "downloads" / f"{'1' * 64}.partial"
        assert partial.read_bytes() == b"x" + bytes(20 << 20) + b"y"
        assert partial.stat().st_blocks * 512 < 12 << 20  # the zeros stayed a hole
        assert (target / "notes.txt").read_text() == "of another program"
        assert (target / "quarantine" / ("0" * 64)).read_bytes() == b"damaged"
        assert not any((target / "cache" / "tmp").iterdir())
        assert not any((target / "cache" / "models").iterdir())
        assert {path.name: path.stat().st_mtime_ns for path in (target / "manifests").rglob("*.json")} == times
        blob = next((target / "blobs" / "sha256").iterdir())
        assert blob.stat().st_mode & 0o777 == 0o444


def test_a_blob_that_changed_is_in_quarantine_over_there_and_named(home: Home, tmp_path: Path) -> None:
    store = ModelStore(home.source)
    layer = max(store.resolve(NAME).layers, key=lambda layer: layer.size)
    path = store.layout.blob_path(layer.digest)
    store.close()
    path.chmod(0o600)
    content = bytearray(path.read_bytes())
    content[5000] ^= 1
    path.write_bytes(content)
    with mounted(tmp_path / "disk") as disk:
        report = home.move(disk / "models")
        assert report.damaged == [layer.digest]
        assert (disk / "models" / "quarantine" / layer.digest).read_bytes() == bytes(content)
        assert not (disk / "models" / "blobs" / "sha256" / layer.digest).exists()


@pytest.mark.parametrize("place", ["store/inside", ".", "taken", "no/parent", "file"])
def test_places_that_are_none(home: Home, tmp_path: Path, place: str) -> None:
    (home.root / "taken").mkdir()
    (home.root / "taken" / "x").touch()
    (home.root / "file").touch()
    with pytest.raises(MoveRefused):
        home.move((home.root / place).resolve())
    assert read_move(home.root) is None
    home.verify()


def test_a_disk_that_is_too_small_is_refused_before_anything_is_copied(home: Home, tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "2m") as disk:
        with pytest.raises(DiskFull):
            home.move(disk / "models")
        assert not (disk / "models").exists()
    home.verify()


def test_a_directory_without_the_right_to_write_is_refused(home: Home, tmp_path: Path) -> None:
    with mounted(tmp_path / "disk") as disk:
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        with pytest.raises(MoveRefused, match="read-only"):
            home.move(disk / "models")
    home.verify()


def test_a_file_system_that_takes_no_such_large_file_says_so(tmp_path: Path) -> None:
    image, place = tmp_path / "image", tmp_path / "disk"
    with image.open("wb") as file:
        file.truncate(16 << 20)
    # Block-mapped files of 1 KiB blocks end at about 16 GiB, as FAT32's do at 4 GiB; this kernel has no FAT.
    subprocess.run(["mkfs.ext4", "-q", "-F", "-b", "1024", "-O", "^extent,^64bit", image], check=True)
    place.mkdir()
    if subprocess.run(["mount", "-o", "loop", image, place], capture_output=True).returncode != 0:
        pytest.skip("needs the right to mount: run as root, `sudo make test`")
    try:
        require_file_size(place, 15 << 30)
        with pytest.raises(FileTooLarge):
            require_file_size(place, 20 << 30)
        assert [path.name for path in place.iterdir()] == ["lost+found"]
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def test_a_power_cut_right_after_a_move_loses_nothing(home: Home, tmp_path: Path) -> None:
    image, place = tmp_path / "image", tmp_path / "disk"
    with image.open("wb") as file:
        file.truncate(256 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)
    place.mkdir()
    if subprocess.run(["mount", "-o", "loop", image, place], capture_output=True).returncode != 0:
        pytest.skip("needs the right to mount: run as root, `sudo make test`")
    try:
        home.move(place / "models")
        assert not home.source.exists()
        # What the disk has at this moment, as after a power cut: what was not flushed is not in it.
        subprocess.run(["cp", "--sparse=always", image, tmp_path / "copy"], check=True)
    finally:
        subprocess.run(["umount", "-l", place], check=True)
    (tmp_path / "after").mkdir()
    subprocess.run(["mount", "-o", "loop", tmp_path / "copy", tmp_path / "after"], check=True)
    try:
        store = ModelStore(tmp_path / "after" / "models")
        assert len(store.list()) == 2
        for model in store.list():
            store.verify(model.name)
        store.close()
    finally:
        subprocess.run(["umount", "-l", tmp_path / "after"], check=True)


def test_a_link_in_the_place_of_the_store_is_seen_through(home: Home, tmp_path: Path) -> None:
    (tmp_path / "home" / "store").rename(tmp_path / "real")
    home.source.symlink_to(tmp_path / "real")
    home.move(tmp_path / "elsewhere")
    assert not (tmp_path / "elsewhere").is_symlink()
    assert not home.source.is_symlink()
    assert not list((tmp_path / "real").iterdir())
    home.verify()


def test_an_old_tree_that_cannot_be_removed_keeps_nobody_from_the_new_one(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(root: Path) -> None:
        raise DiskFailed(root, OSError(errno.EIO, "Input/output error"))

    monkeypatch.setattr("store.move._remove_tree", fails)
    with mounted(tmp_path / "disk") as disk:
        report = home.move(disk / "models")
        assert report.left is not None
        assert home.located() == disk / "models"
        home.verify()
        assert read_move(home.root) is None


def test_the_old_tree_stays_while_the_disk_with_the_new_one_is_away(home: Home, tmp_path: Path) -> None:
    target = tmp_path / "disk" / "models"
    write_move(home.root, Move(home.source, target, How.COPY))
    home.switch(target)  # killed right after this, and started again without the disk
    settle_move(home.root, home.set_path, home.switch)
    assert (home.source / "oci-layout").is_file()
    assert read_move(home.root) is not None


def test_another_move_waits_until_the_first_is_finished_or_given_up(home: Home, tmp_path: Path) -> None:
    with mounted(tmp_path / "disk") as disk:
        target = disk / "models"
        target.mkdir()
        write_move(home.root, Move(home.source, target, How.COPY))
        (target / "half").touch()
        home.verify()  # a node that starts now works on the old side
        with pytest.raises(MoveUnfinished):
            home.move(tmp_path / "other")
        assert give_up_move(home.root).target == target
        assert not target.exists()
        home.move(tmp_path / "other")
        home.verify()


def test_a_move_that_goes_on_sees_what_changed_meanwhile(home: Home, tmp_path: Path) -> None:
    with mounted(tmp_path / "disk") as disk:
        target = disk / "models"

        def stop(copying: Copying) -> None:
            if copying.completed > copying.total // 2:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            move_store(home.root, home.source, target, home.switch, stop)
        home.verify()
        store = ModelStore(home.source)
        store.remove(NAME)
        add_model(store, "c", make_model_directory(tmp_path / "c", make_tensors(9, blocks=2)))
        store.close()
        report = home.move(target)
        assert report.kept_bytes > 0
        store = ModelStore(target)
        assert sorted(model.name.name for model in store.list()) == ["b", "c"]
        for model in store.list():
            store.verify(model.name)
        store.close()
        wanted = {path.name for path in (target / "blobs" / "sha256").iterdir()}
        assert len(wanted) == len(set(wanted))


MOVER = """
import os, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from store.move import move_store
from store.move_journal import locate_store
root, target = Path(sys.argv[1]), Path(sys.argv[2])
setting = root / "setting"
def switch(path):
    fresh = root / "setting.new"
    fresh.write_text(str(path))
    fresh.replace(setting)
set_path = Path(setting.read_text()) if setting.exists() else root / "store"
move_store(root, locate_store(root, set_path), target, switch, lambda _: None)
"""


def run_mover(home: Home, target: Path, inject: str | None = None) -> int:
    """Run a move in a process of its own, killed at the system call that `inject` says; return its code."""
    command = [sys.executable, "-c", MOVER.format(tests=str(Path(__file__).parents[2])), str(home.root), str(target)]
    if inject is not None:
        command = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"inject={inject}", *command]
    return subprocess.run(command, capture_output=True, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}).returncode


@pytest.mark.parametrize(
    "call", ["rename,renameat,renameat2", "fsync,fdatasync", "unlink,unlinkat,rmdir", "write,pwrite64"]
)
def test_killed_at_any_system_call_it_goes_on(home: Home, tmp_path: Path, call: str) -> None:
    numbers = sorted(random.Random(call).sample(range(1, 60), 5))
    with mounted(tmp_path / "disk") as disk:
        target = disk / "models"
        for number in numbers:
            code = run_mover(home, target, f"{call}:signal=SIGKILL:when={number}")
            home.verify()
            if code == 0:
                break
        if home.located() != target:
            assert run_mover(home, target) == 0
        home.verify()
        assert home.located() == target
        assert not home.source.exists()
        assert read_move(home.root) is None


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_a_rename_that_is_killed_is_found_on_the_side_where_it_is(home: Home, tmp_path: Path, number: int) -> None:
    target = tmp_path / "elsewhere"
    run_mover(home, target, f"rename,renameat,renameat2:signal=SIGKILL:when={number}")
    assert home.located().is_dir()
    home.verify()
    if home.located() != target:
        assert run_mover(home, target) == 0
    home.verify()
    assert home.located() == target


def test_killed_by_time_while_a_person_waits(home: Home, tmp_path: Path) -> None:
    with mounted(tmp_path / "disk") as disk:
        target = disk / "models"
        for delay in (0.25, 0.3, 0.35):
            code = MOVER.format(tests=str(Path(__file__).parents[2]))
            process = subprocess.Popen(
                [sys.executable, "-c", code, str(home.root), str(target)], stderr=subprocess.DEVNULL
            )
            try:
                process.wait(delay)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
            home.verify()
        if home.located() != target:
            assert run_mover(home, target) == 0
        home.verify()


CASES = json.loads((VECTORS / "journals.json").read_text())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["comment"])
def test_journal_vectors(tmp_path: Path, case: dict[str, str]) -> None:
    path = tmp_path / JOURNAL_FILE
    if case["expect"] == "ok":
        move = decode_move(path, case["input"].encode())
        write_move(tmp_path, move)
        assert path.read_text() == case["input"]
        assert read_move(tmp_path) == move
        return
    with pytest.raises(MoveJournalInvalid):
        decode_move(path, case["input"].encode())


def test_the_kind_of_move_is_told_before_it_begins(home: Home, tmp_path: Path) -> None:
    assert require_target(home.source, tmp_path / "elsewhere") is How.RENAME
    assert not (tmp_path / "elsewhere").exists()
