"""A disk that is full or fails: named, with what is missing, and nothing that was there before is lost."""

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from blake3 import blake3

from protocol.chunkmap import make_chunk_map
from protocol.digest import digest_of
from protocol.model_name import parse_model_name
from store.disk import disk_errors, free_bytes, replace_file
from store.errors import DiskFailed, DiskFull
from store.models import ModelStore
from store.partial import PartialLayer
from store.testing import add_model, make_model_directory

DEMO = parse_model_name("demo")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ModelStore]:
    store = ModelStore(tmp_path / "store")
    yield store
    store.close()


@contextmanager
def file_size_limit(limit: int) -> Iterator[None]:
    """Let every write beyond `limit` bytes of a file fail, as a full disk does, with EFBIG."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_build_that_does_not_fit_says_how_much_is_missing(store: ModelStore, tmp_path: Path) -> None:
    directory = make_model_directory(tmp_path / "model")
    with file_size_limit(10_000), pytest.raises(DiskFull) as caught:
        add_model(store, "demo", directory)
    assert 0 < caught.value.missing_bytes <= (directory / "model.safetensors").stat().st_size
    assert "bytes more are needed" in str(caught.value)
    assert "free at least" in caught.value.hint
    assert list(store.blobs.list()) == []
    assert list(store.layout.temporary.iterdir()) == []
    add_model(store, "demo", directory)
    assert store.verify(DEMO)


def test_a_pull_that_does_not_fit_keeps_what_it_has(store: ModelStore) -> None:
    pieces = [bytes([number]) * 1000 for number in range(10)]
    content = b"".join(pieces)
    chunk_map = make_chunk_map(digest_of(content), 10_000, [(blake3(piece).digest(), 1000) for piece in pieces])
    with PartialLayer.open(store, chunk_map.blob, 10_000, chunk_map) as layer:
        layer.write_chunk(0, pieces[0])
        layer.sync()
        with file_size_limit(5000), pytest.raises(DiskFull) as caught:
            layer.write_chunk(9, pieces[9])
        assert caught.value.missing_bytes == 1000
        assert 9 in layer.missing()
    with PartialLayer.open(store, chunk_map.blob, 10_000, chunk_map) as layer:
        assert layer.missing() == list(range(1, 10))
        for index in layer.missing():
            layer.write_chunk(index, pieces[index])
        layer.finish()
    assert store.blobs.verify(chunk_map.blob) == 10_000


def test_a_ref_that_does_not_fit_stays_what_it_was(store: ModelStore, tmp_path: Path) -> None:
    directory = make_model_directory(tmp_path / "model")
    old = add_model(store, "demo", directory)
    new = add_model(store, "other", directory, "FROM .\nSYSTEM new")
    with file_size_limit(10), pytest.raises(DiskFull):
        store.refs.set(DEMO, new.manifest)
    assert store.refs.get(DEMO) == old.manifest
    assert store.verify(DEMO)


def test_a_replaced_file_is_the_old_one_or_the_new_one(tmp_path: Path) -> None:
    target = tmp_path / "target"
    replace_file(tmp_path, target, b"old")
    with file_size_limit(3), pytest.raises(DiskFull):
        replace_file(tmp_path, target, b"newer")
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]
    assert target.stat().st_mode & 0o777 == 0o600


def test_other_faults_have_another_name(tmp_path: Path) -> None:
    with pytest.raises(DiskFailed, match="no such file or directory") as caught, disk_errors(tmp_path):
        (tmp_path / "none").read_bytes()
    assert caught.value.place == tmp_path
    assert free_bytes(tmp_path / "none" / "below") > 0


# Adds a second model to a store that has one, under faults; says the error's name and whether the first still holds.
WORKER = """
import sys
from pathlib import Path
from protocol.model_name import parse_model_name
from store.errors import StoreError
from store.models import ModelStore
from store.testing import add_model
root = Path(sys.argv[1])
try:
    store = ModelStore(root / "store")
    add_model(store, "second", root / "model", "FROM .\\nSYSTEM second")
    print("done")
except StoreError as error:
    print(type(error).__name__)
"""


@pytest.mark.parametrize(
    ("inject", "named"),
    [
        ("fsync:error=EIO:when=3", "DiskFailed"),
        ("fsync:error=ENOSPC:when=5", "DiskFull"),
        ("rename:error=ENOSPC:when=2", "DiskFull"),
        ("rename:error=EROFS:when=1", "DiskFailed"),
        ("fchmod:error=EIO:when=1", "DiskFailed"),
        ("fsync:error=EDQUOT:when=1+", "DiskFull"),
    ],
)
def test_faults_of_system_calls_are_named_and_cost_nothing(
    store: ModelStore, tmp_path: Path, inject: str, named: str
) -> None:
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is missing (Debian: apt install strace)")
    first = add_model(store, "first", make_model_directory(tmp_path / "model"))
    command = [strace, "-f", "-qq", "-o", os.devnull, "-e", f"trace={inject.split(':')[0]}", "-e", f"inject={inject}"]
    command += [sys.executable, "-c", WORKER, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == named
    assert store.verify(parse_model_name("first")).digest == first.manifest
    assert store.problems() == []
    assert list(store.layout.temporary.iterdir()) == []
    add_model(store, "second", tmp_path / "model")
    assert store.verify(parse_model_name("second"))
