import stat
from pathlib import Path

import pytest

from identity.durable import make_directory, read_file, replace_file
from identity.errors import SecretsFileFailed


def test_a_file_is_replaced_whole_and_private(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    replace_file(path, b"one")
    replace_file(path, b"two")
    assert read_file(path, 10) == b"two"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".file.0011.tmp").write_bytes(b"half")
    (tmp_path / ".other.0011.tmp").write_bytes(b"not ours")
    replace_file(tmp_path / "file", b"whole")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [".other.0011.tmp", "file"]


def test_refusals_are_named(tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    with pytest.raises(SecretsFileFailed):
        replace_file(tmp_path / "directory", b"")
    with pytest.raises(SecretsFileFailed):
        read_file(tmp_path / "directory", 10)
    assert [entry.name for entry in tmp_path.iterdir()] == ["directory"]


def test_a_file_has_a_cap(tmp_path: Path) -> None:
    assert read_file(tmp_path / "file", 3) is None
    replace_file(tmp_path / "file", b"1234")
    with pytest.raises(SecretsFileFailed):
        read_file(tmp_path / "file", 3)
    assert read_file(tmp_path / "file", 4) == b"1234"


def test_directories_are_made_as_deep_as_needed(tmp_path: Path) -> None:
    make_directory(tmp_path / "a" / "b" / "c")
    make_directory(tmp_path / "a" / "b" / "c")
    assert (tmp_path / "a" / "b" / "c").is_dir()
