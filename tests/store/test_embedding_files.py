"""Models of sentence embeddings: which files are kept, of a directory and a repository, and how they are listed."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from protocol.build_record import SourceKind
from protocol.manifest import WEIGHT_CONFIG
from store.embedding_files import embeds, is_embedding_file
from store.errors import SourceEscapes
from store.hub_cache import HubCache
from store.models import ModelStore
from store.sources import Origin, list_directory, read_files, wanted_of_repository
from store.testing import add_model, make_model_directory

POOLING = "1_Pooling/config.json"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    directory = make_model_directory(tmp_path / "model")
    (directory / "modules.json").write_text("[]")
    (directory / "sentence_bert_config.json").write_text('{"max_seq_length": 256}')
    for folder in ("1_Pooling", "onnx", "2_Normalize"):
        (directory / folder).mkdir()
    (directory / POOLING).write_text('{"pooling_mode_cls_token": true}')
    (directory / "1_Pooling" / "extra.txt").write_text("no part of it")
    (directory / "onnx" / "config.json").write_text("{}")
    return directory


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ModelStore]:
    store = ModelStore(tmp_path / "store")
    yield store
    store.close()


@pytest.mark.parametrize(
    ("path", "kept"),
    [
        ("modules.json", True),
        (POOLING, True),
        ("2_Dense/config.json", True),
        ("sentence_xlm-roberta_config.json", True),
        ("config_sentence_transformers.json", True),
        ("onnx/config.json", False),
        ("../1_Pooling/config.json", False),
        ("1_Pooling/config.json/x", False),
        ("1_Pooling/weights.json", False),
        ("1_Pooling", False),
    ],
)
def test_which_files_say_how_words_become_a_vector(path: str, kept: bool) -> None:
    assert is_embedding_file(path) is kept


def test_a_directory_gives_them_to_the_build_and_to_the_worker(store: ModelStore, directory: Path) -> None:
    built = add_model(store, "tiny", directory)
    paths = {layer.filepath: layer.media_type for layer in built.layers}
    assert paths[POOLING] == paths["modules.json"] == paths["sentence_bert_config.json"] == WEIGHT_CONFIG
    assert not [path for path in paths if path.startswith(("onnx", "1_Pooling/extra"))]
    made = store.materialize(built.manifest)
    assert json.loads((made / POOLING).read_text()) == {"pooling_mode_cls_token": True}
    again = add_model(store, "again", directory, "FROM tiny")
    assert again.manifest != built.manifest
    assert {layer.filepath for layer in again.layers} == set(paths)


def test_a_config_of_a_step_may_not_lie_elsewhere(directory: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("{}")
    (directory / POOLING).unlink()
    (directory / POOLING).symlink_to(tmp_path / "secret")
    with pytest.raises(SourceEscapes, match="1_Pooling"):
        read_files(list_directory(directory), Origin(SourceKind.DIRECTORY, "./model"), directory)


def test_lists_tell_what_embeds(store: ModelStore, directory: Path, tmp_path: Path) -> None:
    add_model(store, "tiny", directory)
    add_model(store, "words", make_model_directory(tmp_path / "other"))
    for _ in range(2):  # the second time from the cache
        told = {model.name.name: model.facts.capabilities for model in store.listing() if model.facts}
        assert told == {"tiny": "embedding", "words": "completion"}
    assert embeds("xlm-roberta", ())
    assert not embeds("llama", ("config.json",))


def test_of_a_repository_they_are_fetched_and_of_a_cache_taken(tmp_path: Path) -> None:
    names = ["config.json", "model.safetensors", "tokenizer.json", "modules.json", POOLING, "onnx/config.json"]
    assert set(wanted_of_repository(names)) == set(names) - {"onnx/config.json"}
    blobs, commit = tmp_path / "models--acme--tiny" / "blobs", "1" * 40
    snapshot = blobs.parent / "snapshots" / commit / "1_Pooling"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    (blobs / ("2" * 40)).write_text("{}")
    (snapshot / "config.json").symlink_to(Path("../../../blobs") / ("2" * 40))
    found = HubCache(tmp_path).snapshot("acme/tiny", commit)
    assert found is not None
    assert [(file.path, file.size, file.git_oid) for file in found.files] == [(POOLING, 2, "2" * 40)]
