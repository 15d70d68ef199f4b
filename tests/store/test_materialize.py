"""Materialised models: shared bytes, verified once, made anew when a file is not the one that was verified."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from store import materialize
from store.blobs import Blobs
from store.errors import LayerCorrupt
from store.materialize import WAYS
from store.models import ModelStore
from store.testing import add_model, make_model_directory


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ModelStore]:
    store = ModelStore(tmp_path / "store")
    add_model(store, "demo", make_model_directory(tmp_path / "model"))
    yield store
    store.close()


def count_hashing(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    hashed: list[str] = []
    verify = Blobs.verify

    def counted(blobs: Blobs, digest: str) -> int:
        hashed.append(digest)
        return verify(blobs, digest)  # type: ignore[arg-type]  # the digest that came in

    monkeypatch.setattr(Blobs, "verify", counted)
    return hashed


def files(path: Path) -> dict[str, bytes]:
    return {entry.name: entry.read_bytes() for entry in path.iterdir()}


@pytest.mark.parametrize("refused", range(len(WAYS) + 1))
def test_every_way_gives_the_same_files(store: ModelStore, monkeypatch: pytest.MonkeyPatch, refused: int) -> None:
    """Whatever the file system lacks: without the first ways the next one does, down to a plain copy."""
    model = store.list()[0]
    monkeypatch.setattr(materialize, "WAYS", WAYS[refused:])
    found = files(store.materialize(model.digest))
    assert found == {layer.filepath: store.blobs.read(layer.digest, 1 << 20) for layer in model.layers}
    hashed = count_hashing(monkeypatch)
    store.materialize(model.digest)
    assert hashed == []


def test_the_second_use_hashes_nothing(store: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    model = store.list()[0]
    hashed = count_hashing(monkeypatch)
    path = store.materialize(model.digest)
    assert sorted(hashed) == sorted(layer.digest for layer in model.layers)
    hashed.clear()
    assert store.materialize(model.digest) == path
    assert hashed == []


def _remove_file(path: Path) -> None:
    (path / "config.json").unlink()


def _add_file(path: Path) -> None:
    (path / "extra.py").write_text("import os")


def _replace_file(path: Path) -> None:
    content = (path / "config.json").read_bytes()
    (path / "config.json").unlink()
    (path / "config.json").write_bytes(content[::-1])


def _spoil_stamp(path: Path) -> None:
    path.with_suffix(".json").write_text("{")


def _old_stamp(path: Path) -> None:
    stamp = path.with_suffix(".json")
    stamp.write_text(stamp.read_text().replace('"version":1', '"version":0'))


@pytest.mark.parametrize("change", [_remove_file, _add_file, _replace_file, _spoil_stamp, _old_stamp])
def test_what_is_not_as_it_was_verified_is_made_anew(store: ModelStore, change: Callable[[Path], None]) -> None:
    model = store.list()[0]
    path = store.materialize(model.digest)
    before = files(path)
    change(path)
    assert files(store.materialize(model.digest)) == before


def test_a_changed_blob_is_not_handed_out(store: ModelStore) -> None:
    model = store.list()[0]
    blob = store.layout.blob_path(model.layers[-1].digest)
    blob.chmod(0o644)
    blob.write_bytes(b"x" * blob.stat().st_size)
    with pytest.raises(LayerCorrupt):
        store.materialize(model.digest)
    assert not store.layout.materialized_path(model.digest).exists()


def test_what_a_kill_left_halfway_is_made_anew(store: ModelStore) -> None:
    model = store.list()[0]
    target = store.layout.materialized_path(model.digest)
    target.mkdir()
    (target / "config.json").write_text("half")
    unfinished = store.layout.temporary / f"{os.getpid()}-{model.digest}"
    unfinished.mkdir()
    (unfinished / "config.json").write_text("half")
    assert set(files(store.materialize(model.digest))) == {layer.filepath for layer in model.layers}
