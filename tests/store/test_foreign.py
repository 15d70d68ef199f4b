"""What other programs put into the store: listed, adopted when it is whole, and never trusted before it was hashed."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from protocol.digest import Digest, digest_of, format_oci_digest
from protocol.manifest import MANIFEST_MEDIA_TYPE
from protocol.model_name import parse_model_name
from store.errors import ForeignAmbiguous, ForeignUnknown, ForeignUnusable, LayerCorrupt
from store.foreign import adopt, find_foreign, foreign_models
from store.models import ModelStore
from store.oci_index import OWN_REF, REF_NAME
from store.testing import add_model, make_model_directory, make_tensors

NAME = parse_model_name("mine:v1")


class Shared:
    """A store, and a model of another store that another program copies into it."""

    def __init__(self, directory: Path) -> None:
        self.store = ModelStore(directory / "store")
        add_model(self.store, "own", make_model_directory(directory / "own", make_tensors(1)))
        self.elsewhere = ModelStore(directory / "elsewhere")
        add_model(self.elsewhere, "other", make_model_directory(directory / "other", make_tensors(2)))
        (self.model,) = self.elsewhere.list()

    def copy(self, reference: str = "other", *, without: Digest | None = None, chunk_maps: bool = False) -> None:
        """Copy the model as skopeo does: what the manifest lists, not the chunk maps, and an entry in `index.json`."""
        manifest = self.model.manifest
        listed = [manifest.config.digest, *(layer.digest for layer in manifest.layers)]
        maps = [layer.chunk_map.digest for layer in manifest.layers if layer.chunk_map] if chunk_maps else []
        for digest in {self.model.digest, *listed, *maps} - {without}:
            target = self.store.layout.blob_path(digest)
            shutil.copyfile(self.elsewhere.layout.blob_path(digest), target)
            target.chmod(0o644)
        self.enter({"digest": format_oci_digest(self.model.digest), "annotations": {REF_NAME: reference}})

    def enter(self, entry: dict[str, Any]) -> None:
        """Append an entry to `index.json`."""
        index = json.loads(self.store.layout.index.read_text())
        index["manifests"].append({"mediaType": MANIFEST_MEDIA_TYPE, "size": 1, **entry})
        self.store.layout.index.write_text(json.dumps(index))

    def adopt(self, text: str = "other") -> list[dict[str, object]]:
        reported: list[dict[str, object]] = []
        adopt(self.store, find_foreign(self.store, text), NAME, 7, reported.append)
        return reported


@pytest.fixture
def shared(tmp_path: Path) -> Shared:
    return Shared(tmp_path)


def test_nothing_foreign(shared: Shared) -> None:
    assert foreign_models(shared.store) == []


def test_a_whole_model_is_adopted(shared: Shared) -> None:
    shared.copy()
    (found,) = foreign_models(shared.store)
    assert (found.digest, found.reference, found.problem) == (shared.model.digest, "other", "")
    assert found.size_bytes == shared.model.size_bytes
    reported = shared.adopt()
    blobs = {layer.digest for layer in shared.model.layers} | {shared.model.manifest.config.digest}
    assert {entry["digest"] for entry in reported} == blobs
    assert shared.store.refs.get(NAME) == shared.model.digest
    (version,) = shared.store.refs.history(NAME)
    assert (str(version.event), version.source, version.time_s) == ("import", "another program, as other", 7)
    assert shared.store.verify(NAME).digest == shared.model.digest
    for digest in blobs:
        assert shared.store.layout.blob_path(digest).stat().st_mode & 0o777 == 0o444
    assert foreign_models(shared.store) == []
    index = json.loads(shared.store.layout.index.read_text())
    assert all(OWN_REF in entry["annotations"] for entry in index["manifests"])
    shared.store.remove(NAME)
    assert not shared.store.blobs.has(shared.model.digest), "nothing keeps it any more"
    assert shared.store.refs.get(parse_model_name("own")) is not None


def test_by_digest_and_beside_other_entries(shared: Shared) -> None:
    shared.copy("one")
    shared.enter({"digest": format_oci_digest(digest_of(b"another")), "annotations": {REF_NAME: "another"}})
    shared.adopt(shared.model.digest[:8])
    (left,) = foreign_models(shared.store)
    assert (left.reference, left.problem) == ("another", "its manifest is not here")


def test_names_that_mean_nothing_or_several(shared: Shared) -> None:
    shared.copy("same")
    shared.enter({"digest": format_oci_digest(digest_of(b"x")), "annotations": {REF_NAME: "same"}})
    with pytest.raises(ForeignAmbiguous):
        find_foreign(shared.store, "same")
    for text in ("nothing", shared.model.digest[:5], "own", ""):
        with pytest.raises(ForeignUnknown):
            find_foreign(shared.store, text)
    assert find_foreign(shared.store, f"sha256:{shared.model.digest}").digest == shared.model.digest


def test_a_missing_blob(shared: Shared) -> None:
    layer = next(layer for layer in shared.model.layers if layer.chunk_map)
    shared.copy(without=layer.digest)
    assert foreign_models(shared.store)[0].problem == "blobs that were not copied with it: 1"
    with pytest.raises(ForeignUnusable):
        shared.adopt()
    assert shared.store.refs.get(NAME) is None


def test_a_changed_byte(shared: Shared) -> None:
    shared.copy()
    layer = next(layer for layer in shared.model.layers if layer.chunk_map)
    path = shared.store.layout.blob_path(layer.digest)
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    with pytest.raises(LayerCorrupt):
        shared.adopt()
    assert shared.store.refs.get(NAME) is None
    assert not shared.store.blobs.has(layer.digest)


@pytest.mark.parametrize("content", [b"{}", b"not json", b'{"schemaVersion": 2, "manifests": []}'])
def test_what_is_no_model(shared: Shared, content: bytes) -> None:
    digest = shared.store.blobs.publish_bytes(content)
    shared.enter({"digest": format_oci_digest(digest), "annotations": {REF_NAME: "image"}})
    (found,) = foreign_models(shared.store)
    assert found.problem.startswith("no model: ")
    with pytest.raises(ForeignUnusable):
        shared.adopt("image")


def test_hostile_entries_are_passed_over(shared: Shared) -> None:
    entries: tuple[dict[str, Any], ...] = (
        {"digest": "sha256:../../etc/passwd"},
        {"digest": 7},
        {"digest": None, "annotations": []},
        {"digest": format_oci_digest(digest_of(b"y")), "annotations": {REF_NAME: 7}},
        {"digest": format_oci_digest(digest_of(b"z")), "annotations": {REF_NAME: "\x1b[2Jred\u202e"}},
    )
    for entry in entries:
        shared.enter(entry)
    assert [found.reference for found in foreign_models(shared.store)] == ["", "[2Jred"]
