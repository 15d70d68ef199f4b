"""Taking files of other programs: linked where that is safe, copied where it is not, believed only when hashed."""

import io
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from protocol.digest import Digest, digest_of
from store import take
from store.blobs import hash_file
from store.errors import DiskFailed, LayerCorrupt
from store.gc import collect
from store.models import ModelStore
from store.take import Way, take_file

CONTENT = b"some weights" * 10_000
DIGEST = digest_of(CONTENT)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ModelStore]:
    opened = ModelStore(tmp_path / "store")
    yield opened
    opened.close()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "theirs"
    path.write_bytes(CONTENT)
    path.chmod(0o644)
    return path


@pytest.fixture
def no_reflinks(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("not on this file system")

    monkeypatch.setattr(take, "reflink", refuse)


@pytest.fixture
def no_links(no_reflinks: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("not on this file system")

    monkeypatch.setattr(os, "link", refuse)


def blob(store: ModelStore) -> Path:
    return store.layout.blob_path(DIGEST)


def test_a_hard_link_shares_the_bytes_and_makes_them_read_only(
    store: ModelStore, file: Path, no_reflinks: None
) -> None:
    assert take_file(store.blobs, file, DIGEST) is Way.HARD_LINK
    assert blob(store).stat().st_ino == file.stat().st_ino
    assert file.stat().st_mode & 0o777 == 0o444
    assert store.blobs.verify(DIGEST) == len(CONTENT)
    assert not any(store.layout.temporary.iterdir())


def test_a_copy_is_made_where_no_link_can_be(store: ModelStore, file: Path, no_links: None) -> None:
    assert take_file(store.blobs, file, DIGEST) is Way.COPY
    assert blob(store).stat().st_ino != file.stat().st_ino
    assert file.stat().st_mode & 0o777 == 0o644
    assert store.blobs.verify(DIGEST) == len(CONTENT)


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666])
def test_a_file_that_others_may_write_is_copied(store: ModelStore, file: Path, no_reflinks: None, mode: int) -> None:
    file.chmod(mode)
    assert take_file(store.blobs, file, DIGEST) is Way.COPY
    assert file.stat().st_mode & 0o777 == mode


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file to somebody else")
def test_a_file_of_another_user_is_copied(store: ModelStore, file: Path, no_reflinks: None) -> None:
    os.chown(file, 12345, -1)
    assert take_file(store.blobs, file, DIGEST) is Way.COPY
    assert file.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("links", ["no_reflinks", "no_links"])
def test_other_bytes_are_refused_and_their_file_is_left_as_it_was(
    store: ModelStore, file: Path, links: str, request: pytest.FixtureRequest
) -> None:
    request.getfixturevalue(links)
    wrong = Digest("ab" * 32)
    with pytest.raises(LayerCorrupt):
        take_file(store.blobs, file, wrong)
    assert list(store.blobs.list()) == []
    assert file.read_bytes() == CONTENT
    assert file.stat().st_mode & 0o777 == 0o644
    assert file.stat().st_nlink == 1
    assert not any(store.layout.temporary.iterdir())


def test_a_symbolic_link_is_not_followed(store: ModelStore, file: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(file)
    with pytest.raises(DiskFailed):
        take_file(store.blobs, link, DIGEST)


def test_no_pipe_stops_it(store: ModelStore, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(DiskFailed):
        take_file(store.blobs, pipe, DIGEST)


def test_a_file_that_is_replaced_while_it_is_linked_is_not_taken_for_the_other(
    store: ModelStore, file: Path, tmp_path: Path, no_reflinks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"?" * len(CONTENT))
    link = os.link

    def replace_first(source: Path, target: Path, **options: bool) -> None:
        other.replace(file)
        link(source, target, **options)

    monkeypatch.setattr(os, "link", replace_first)
    with pytest.raises(LayerCorrupt):
        take_file(store.blobs, file, DIGEST)
    assert list(store.blobs.list()) == []


def test_collecting_takes_nothing_from_who_is_just_hashing_an_old_file(
    store: ModelStore, file: Path, no_reflinks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.utime(file, (1_000_000_000, 1_000_000_000))  # a hard link to it is as old

    def hashing(opened: io.FileIO) -> tuple[Digest, int]:
        collect(store)
        return hash_file(opened)

    monkeypatch.setattr(take, "hash_file", hashing)
    with store.lease([DIGEST]):
        assert take_file(store.blobs, file, DIGEST) is Way.HARD_LINK
    assert store.blobs.verify(DIGEST) == len(CONTENT)
    assert list(store.layout.temporary.iterdir()) == []
