"""A packed model: one valid OCI layout, always the same bytes, none of them the store's to lose."""

import json
import os
from pathlib import Path

import pytest

from protocol.digest import digest_of
from protocol.model_name import parse_model_name
from store.errors import LayerCorrupt, PackRefused
from store.models import ModelStore, StoredModel
from store.pack import pack_model
from store.testing import add_model, make_model_directory

NAME = parse_model_name("ann/demo:q4@1.0")


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "store")


@pytest.fixture
def model(store: ModelStore, tmp_path: Path) -> StoredModel:
    add_model(store, str(NAME), make_model_directory(tmp_path / "model"))
    return store.resolve(NAME)


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_the_same_model_gives_the_same_bytes(store: ModelStore, model: StoredModel, tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        pack_model(store, model, tmp_path / "one")
    finally:
        os.umask(before)
    pack_model(store, model, tmp_path / "two")
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_every_blob_is_what_it_is_called_and_every_name_leads_to_one(
    store: ModelStore, model: StoredModel, tmp_path: Path
) -> None:
    report = pack_model(store, model, tmp_path / "out")
    files = contents(tmp_path / "out")
    blobs = {path.removeprefix("blobs/sha256/"): data for path, data in files.items() if path.startswith("blobs/")}
    assert all(digest_of(data) == name for name, data in blobs.items())
    assert (len(blobs), sum(map(len, blobs.values()))) == (report.blob_count, report.size_bytes)
    assert json.loads(files["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}
    entries = json.loads(files["index.json"])["manifests"]
    names = [entry.get("annotations", {}).get("org.opencontainers.image.ref.name") for entry in entries]
    assert names == ["q4-1.0", "q4", None]
    waiting = [entry["digest"] for entry in entries]
    while waiting:
        data = blobs[waiting.pop().removeprefix("sha256:")]
        if data.startswith(b'{"') and b"schemaVersion" in data[:20000]:
            document = json.loads(data)
            waiting += [part["digest"] for part in [document.get("config"), *document.get("layers", [])] if part]


def test_a_directory_with_something_in_it_is_left_alone(store: ModelStore, model: StoredModel, tmp_path: Path) -> None:
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "mine").write_text("mine")
    for directory in (tmp_path / "used", tmp_path / "used" / "mine"):
        with pytest.raises(PackRefused):
            pack_model(store, model, directory)
    assert contents(tmp_path / "used") == {"mine": b"mine"}


def test_a_changed_blob_leaves_no_layout_behind(store: ModelStore, model: StoredModel, tmp_path: Path) -> None:
    path = store.layout.blob_path(model.layers[0].digest)
    path.chmod(0o600)
    path.write_bytes(b"x" * path.stat().st_size)
    with pytest.raises(LayerCorrupt):
        pack_model(store, model, tmp_path / "out")
    assert not (tmp_path / "out" / "index.json").exists()
