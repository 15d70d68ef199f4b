"""A download that is taken up again: whoever held it before, and however that one ended."""

import fcntl
import os
from pathlib import Path

import pytest

from protocol.digest import digest_of
from store.errors import PartialBusy
from store.hub_download import Download
from store.models import ModelStore

CONTENT = b"weights" * 1000
DIGEST = digest_of(CONTENT)


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "store")


def place(store: ModelStore) -> Path:
    return store.layout.downloads / f"{DIGEST}.download"


def test_one_that_was_killed_at_its_last_step_is_taken_up_by_any_user(
    store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    place(store).write_bytes(CONTENT)
    place(store).chmod(0o444)  # as blobs are; it had not got their name yet
    real = os.open

    def as_no_root(path: Path, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_RDWR and Path(path).exists() and not Path(path).stat().st_mode & 0o200:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, flags, mode)

    monkeypatch.setattr(os, "open", as_no_root)
    with Download(store.blobs, DIGEST, len(CONTENT)) as download:
        assert download.resumed_bytes == len(CONTENT)
        assert download.finish() == DIGEST
    assert store.blobs.read(DIGEST, len(CONTENT)) == CONTENT


def test_one_that_ends_elsewhere_while_it_is_opened_is_left_alone(
    store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    place(store).write_bytes(CONTENT)
    real = fcntl.flock

    def later(descriptor: int, operation: int) -> None:
        if place(store).exists() and operation & fcntl.LOCK_NB:
            place(store).replace(store.layout.blob_path(DIGEST))  # the other one is done just now
        real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", later)
    with pytest.raises(PartialBusy):
        Download(store.blobs, DIGEST, 10)  # which would cut the blob to the size that a stranger says
    assert store.blobs.read(DIGEST, len(CONTENT)) == CONTENT
