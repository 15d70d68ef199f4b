"""Where the bytes are: every byte of the store counts once in the total, and what names share is told apart."""

import time
from pathlib import Path

import pytest

from protocol.model_name import parse_model_name
from store.models import ModelStore
from store.testing import add_model, make_model_directory
from store.usage import measure


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "store")


def test_models_share_their_weights_and_own_the_rest(store: ModelStore, tmp_path: Path) -> None:
    directory = make_model_directory(tmp_path / "model")
    add_model(store, "demo", directory)
    alone = measure(store)
    assert [(str(model.name), model.versions, model.shared_bytes) for model in alone.models] == [("demo:latest", 1, 0)]
    assert alone.models[0].unique_bytes == alone.blob_bytes
    assert 0 < alone.chunk_map_bytes < 2_000
    add_model(store, "demo", directory, "FROM .\nSYSTEM second")
    add_model(store, "other", directory, "FROM .\nSYSTEM third")
    both = measure(store)
    demo, other = both.models
    assert (demo.versions, other.versions) == (2, 1)
    assert demo.shared_bytes == other.shared_bytes > 20_000
    assert demo.unique_bytes + other.unique_bytes + other.shared_bytes == both.blob_bytes
    assert demo.unique_bytes > other.unique_bytes


def test_what_is_no_model_is_told_by_what_it_is(store: ModelStore, tmp_path: Path) -> None:
    add_model(store, "demo", make_model_directory(tmp_path / "model"))
    before = measure(store)
    (store.layout.quarantine / ("0" * 64)).write_bytes(b"x" * 10_000)
    (store.layout.downloads / f"{'1' * 64}.partial").write_bytes(b"x" * 10_000)
    store.blobs.publish_bytes(b"x" * 10_000)
    after = measure(store, now_s=time.time() + 7200)
    assert after.quarantine_bytes - before.quarantine_bytes >= 10_000
    assert after.partial_bytes - before.partial_bytes >= 10_000
    assert after.blob_bytes - before.blob_bytes == 10_000
    assert after.garbage is not None
    assert after.garbage.freed_bytes >= 20_000
    assert after.total_bytes > before.total_bytes + 30_000
    store.remove(parse_model_name("demo"))
    assert measure(store).models == ()


def test_what_would_be_freed_is_not_told_while_a_version_cannot_be_read(store: ModelStore, tmp_path: Path) -> None:
    built = add_model(store, "demo", make_model_directory(tmp_path / "model"))
    store.blobs.delete(built.manifest)
    assert measure(store).garbage is None
