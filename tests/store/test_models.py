"""The store as one thing: resolve, verify, remove, tidy; a fault in one model stays in that model."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from protocol.digest import digest_of
from protocol.errors import ManifestInvalid
from protocol.manifest import CONFIG_MEDIA_TYPE, DOC, Descriptor, Layer, Manifest, encode_manifest
from protocol.model_name import parse_model_name
from protocol.modelfile import Modelfile, parse_modelfile
from store.build import BuildRequest, build_model
from store.disk import Temporary
from store.errors import BlobMissing, LayerCorrupt, ModelUnknown, RefCorrupt
from store.models import ModelStore, StoredModel
from store.testing import add_model, make_model_directory, make_tensors

DEMO, OTHER = parse_model_name("demo"), parse_model_name("other")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ModelStore]:
    store = ModelStore(tmp_path / "store")
    yield store
    store.close()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return make_model_directory(tmp_path / "model")


def weights(model: StoredModel) -> Layer:
    layer = model.manifest.layer("model.safetensors")
    assert layer is not None
    return layer


def spoil(store: ModelStore, layer: Layer) -> None:
    path = store.layout.blob_path(layer.digest)
    path.chmod(0o644)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, (1, 1))


def test_a_name_resolves_to_everything_known_of_the_model(store: ModelStore, directory: Path) -> None:
    built = add_model(store, "demo", directory, "FROM .\nSYSTEM hi")
    model = store.resolve(DEMO)
    assert (model.name, model.digest) == (DEMO, built.manifest)
    assert model.modelfile == Modelfile(".", system="hi")
    assert model.size_bytes == sum(layer.size for layer in model.layers) + model.manifest.config.size
    assert model.modified_s > 0
    assert store.list() == [model]
    assert store.problems() == []


def test_an_unknown_name_suggests_the_nearest(store: ModelStore, directory: Path) -> None:
    add_model(store, "demo", directory)
    for look in (store.resolve, store.verify, store.remove):
        with pytest.raises(ModelUnknown) as caught:
            look(parse_model_name("dema"))
        assert caught.value.nearest == "demo:latest"
        assert "did you mean demo:latest" in str(caught.value)
    with pytest.raises(ModelUnknown) as caught:
        store.resolve(parse_model_name("zzz"))  # only its tag is like the other's
    assert caught.value.nearest is None


def test_a_store_is_there_again_after_a_restart(store: ModelStore, directory: Path) -> None:
    add_model(store, "demo", directory)
    again = ModelStore(store.layout.root)
    assert again.list() == store.list()
    assert again.verify(DEMO) == store.verify(DEMO)
    again.close()


def test_verify_hashes_everything(store: ModelStore, directory: Path) -> None:
    add_model(store, "demo", directory)
    report = store.verify(DEMO)
    blobs = [*store.resolve(DEMO).manifest.blobs()]
    assert report.blob_count == len(blobs) + 1
    assert report.size_bytes == sum(blob.size for blob in blobs) + store.blobs.size(report.digest)


def test_a_changed_layer_is_found_kept_aside_and_neither_loaded_nor_served(store: ModelStore, directory: Path) -> None:
    add_model(store, "demo", directory)
    model = store.resolve(DEMO)
    path = store.materialize(model.digest)
    spoil(store, weights(model))
    with pytest.raises(LayerCorrupt) as caught:
        store.verify(DEMO)
    assert caught.value.expected == weights(model).digest
    assert "--repair" in caught.value.hint
    assert store.layout.quarantine_path(weights(model).digest).exists()
    assert store.chunks.blobs() == frozenset()
    for look in (lambda: store.materialize(model.digest), lambda: store.verify(DEMO)):
        with pytest.raises(BlobMissing):
            look()
    assert store.resolve(DEMO) == model
    add_model(store, "demo", directory)
    assert store.verify(DEMO).digest == model.digest
    assert store.materialize(model.digest) == path
    assert (path / "model.safetensors").read_bytes() == (directory / "model.safetensors").read_bytes()


def test_a_changed_layer_is_found_at_the_next_use_without_verify(store: ModelStore, directory: Path) -> None:
    add_model(store, "demo", directory)
    model = store.resolve(DEMO)
    store.materialize(model.digest)
    spoil(store, weights(model))
    with pytest.raises(LayerCorrupt):
        store.materialize(model.digest)


def test_verify_looks_at_everything_although_the_first_is_bad(store: ModelStore, directory: Path) -> None:
    add_model(store, "demo", directory)
    model = store.resolve(DEMO)
    for layer in model.layers:
        spoil(store, layer)
    with pytest.raises(LayerCorrupt):
        store.verify(DEMO)
    assert all(not store.blobs.has(layer.digest) for layer in model.layers)


def test_one_broken_model_does_not_hide_the_others(store: ModelStore, directory: Path) -> None:
    broken = add_model(store, "demo", directory, "FROM .\nSYSTEM broken")
    add_model(store, "other", directory)
    store.blobs.delete(broken.manifest)
    path = store.layout.ref_path(parse_model_name("third"))
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    assert [model.name for model in store.list()] == [OTHER]
    problems = dict(store.problems())
    assert isinstance(problems["demo:latest"], BlobMissing)
    assert isinstance(problems["local/library/third/latest.json"], RefCorrupt)
    with pytest.raises(BlobMissing):
        store.resolve(DEMO)


def test_a_foreign_model_without_a_recipe_resolves(store: ModelStore) -> None:
    config = b'{"config":{},"descriptor":{},"modelfs":{}}'
    blob = store.blobs.publish_bytes(b"text")
    descriptor = Descriptor(store.blobs.publish_bytes(config), len(config), CONFIG_MEDIA_TYPE)
    manifest = encode_manifest(Manifest(descriptor, (Layer(blob, 4, DOC, "README.md"),)))
    store.refs.set(DEMO, store.blobs.publish_bytes(manifest))
    assert store.resolve(DEMO).modelfile == Modelfile(".")


def test_a_recipe_that_is_no_text_is_named(store: ModelStore) -> None:
    config = b'{"config":{},"descriptor":{},"modelfs":{}}'
    blob = store.blobs.publish_bytes(b"\xff\xfe")
    descriptor = Descriptor(store.blobs.publish_bytes(config), len(config), CONFIG_MEDIA_TYPE)
    manifest = encode_manifest(Manifest(descriptor, (Layer(blob, 2, DOC, "Modelfile"),)))
    store.refs.set(DEMO, store.blobs.publish_bytes(manifest))
    with pytest.raises(ManifestInvalid, match="UTF-8"):
        store.resolve(DEMO)


def test_a_layer_without_a_map_is_fetched_whole(store: ModelStore, directory: Path) -> None:
    add_model(store, "demo", directory)
    layer = store.resolve(DEMO).manifest.layer("config.json")
    assert layer is not None
    assert store.chunk_map(layer) is None


def test_removing_the_only_name_frees_everything(store: ModelStore, directory: Path) -> None:
    built = add_model(store, "demo", directory)
    store.materialize(built.manifest)
    report = store.remove(DEMO)
    assert report.freed_blobs > 0
    assert report.freed_bytes > 10_000
    assert list(store.blobs.list()) == []
    assert store.chunks.blobs() == frozenset()
    assert list(store.layout.materialized.iterdir()) == []
    assert json.loads(store.layout.index.read_bytes())["manifests"] == []


def test_removing_one_of_two_models_keeps_what_they_share(store: ModelStore, directory: Path) -> None:
    first = add_model(store, "demo", directory)
    add_model(store, "other", directory, "FROM demo\nSYSTEM other")
    report = store.remove(DEMO)
    assert not store.blobs.has(first.manifest)
    assert report.freed_blobs == 4  # manifest, config, recipe, build.json
    assert store.verify(OTHER)


def test_removing_one_of_two_names_keeps_the_model(store: ModelStore, directory: Path) -> None:
    built = add_model(store, "demo", directory)
    store.refs.set(OTHER, built.manifest)
    assert store.remove(DEMO).freed_blobs == 0
    assert store.verify(OTHER)


def test_a_lease_keeps_what_a_name_lets_go(store: ModelStore, directory: Path) -> None:
    built = add_model(store, "demo", directory)
    blobs = [blob.digest for blob in store.manifest(built.manifest).blobs()]
    with store.lease([built.manifest, *blobs]):
        assert store.remove(DEMO).freed_blobs == 0
    store.refs.set(DEMO, built.manifest)
    assert store.verify(DEMO)


def test_a_build_keeps_shared_layers_until_it_is_named(store: ModelStore, directory: Path) -> None:
    add_model(store, "demo", directory)
    built = build_model(store, BuildRequest(parse_modelfile("FROM demo\nSYSTEM new"), OTHER, directory))
    store.remove(DEMO)
    store.refs.set(OTHER, built.manifest)
    assert store.verify(OTHER)
    assert store.remove(OTHER).freed_blobs > 0
    assert list(store.blobs.list()) == []


def test_entries_of_other_programs_keep_their_blobs(store: ModelStore, directory: Path) -> None:
    built = add_model(store, "demo", directory)
    document = json.loads(store.layout.index.read_bytes())
    document["manifests"].append({"mediaType": "x/y", "digest": f"sha256:{built.manifest}", "size": 1})
    store.layout.index.write_text(json.dumps(document))
    assert store.remove(DEMO).freed_blobs == 0
    store.refs.set(DEMO, built.manifest)
    assert store.verify(DEMO)


def test_nothing_is_freed_while_it_is_unknown_what_another_name_needs(store: ModelStore, directory: Path) -> None:
    add_model(store, "demo", directory)
    other = add_model(store, "other", directory, "FROM demo\nSYSTEM x")
    store.blobs.delete(other.manifest)
    assert store.remove(DEMO).freed_blobs == 0


def test_a_name_that_cannot_be_read_can_be_removed(store: ModelStore, directory: Path) -> None:
    add_model(store, "demo", directory)
    store.layout.ref_path(DEMO).write_text("nonsense")
    report = store.remove(DEMO)
    assert (report.digest, report.freed_blobs) == (None, 0)
    assert store.problems() == []


def test_tidying_removes_what_a_kill_left_and_nothing_in_use(store: ModelStore, directory: Path) -> None:
    add_model(store, "demo", directory)
    (store.layout.temporary / "123-4").write_bytes(b"left")
    (store.layout.temporary / "123-folder").mkdir()
    store.layout.index.write_text('{"manifests":[],"schemaVersion":2}')
    layer = weights(store.resolve(DEMO))
    store.chunks.remove(layer.digest)
    with Temporary(store.layout.temporary) as in_use:
        assert store.tidy() == 2
        assert list(store.layout.temporary.iterdir()) == [in_use.path]
    assert len(json.loads(store.layout.index.read_bytes())["manifests"]) == 1
    assert store.chunks.blobs() == {layer.digest}


def test_tidying_passes_over_a_model_whose_map_is_gone(store: ModelStore, directory: Path) -> None:
    add_model(store, "demo", directory)
    layer = weights(store.resolve(DEMO))
    assert layer.chunk_map is not None
    store.blobs.delete(layer.chunk_map.digest)
    store.chunks.remove(layer.digest)
    store.tidy()
    assert store.chunks.blobs() == frozenset()


def test_versions_that_change_little_share_their_chunks(store: ModelStore, directory: Path) -> None:
    add_model(store, "demo", directory)
    tensors = make_tensors()
    tensors["model.layers.1.weight"] = make_tensors(seed=5)["model.layers.1.weight"]
    add_model(store, "other", make_model_directory(directory.parent / "second", tensors))
    first, second = (store.chunk_map(weights(store.resolve(name))) for name in (DEMO, OTHER))
    assert first is not None
    assert second is not None
    old = {chunk.blake3 for chunk in first}
    fresh = sum(chunk.length for chunk in second if chunk.blake3 not in old)
    assert fresh == len(tensors["model.layers.1.weight"][2])


def test_a_digest_that_is_no_manifest(store: ModelStore) -> None:
    with pytest.raises(ManifestInvalid):
        store.manifest(store.blobs.publish_bytes(b"text"))
    with pytest.raises(BlobMissing):
        store.materialize(digest_of(b"nothing"))
