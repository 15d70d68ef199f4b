"""What differs between two models: by tensor, whatever file it lies in, and by key, line and file for the rest."""

import json
from pathlib import Path

import pytest

from protocol.digest import Digest
from protocol.model_name import parse_model_name
from store.diff import Change, ModelDiff, diff_models
from store.models import ModelStore
from store.safetensors import write_safetensors
from store.testing import add_model, make_model_directory, make_tensors

DEMO = parse_model_name("demo")


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "store")


@pytest.fixture
def first(store: ModelStore, tmp_path: Path) -> Digest:
    return add_model(store, "demo", make_model_directory(tmp_path / "first")).manifest


def words(found: ModelDiff) -> list[tuple[str, Change]]:
    return [(change.name, change.change) for change in found.tensors]


def test_a_model_does_not_differ_from_itself(store: ModelStore, first: Digest) -> None:
    found = diff_models(store, first, first)
    assert not found.differs
    assert (found.same_tensors, found.new_bytes) == (5, 0)


def test_tensors_are_added_removed_and_changed(store: ModelStore, first: Digest, tmp_path: Path) -> None:
    tensors = make_tensors()
    del tensors["model.layers.0.norm.weight"]
    tensors["model.layers.1.weight"] = make_tensors(seed=5)["model.layers.1.weight"]
    tensors["model.layers.1.norm.weight"] = ("F16", (8, 8), tensors["model.layers.1.norm.weight"][2])
    tensors["lm_head.weight"] = ("F16", (2, 3), b"\0\0" * 6)
    second = add_model(store, "demo", make_model_directory(tmp_path / "second", tensors)).manifest
    found = diff_models(store, first, second)
    assert words(found) == [
        ("lm_head.weight", Change.ADDED),
        ("model.layers.0.norm.weight", Change.REMOVED),
        ("model.layers.1.norm.weight", Change.CHANGED),
        ("model.layers.1.weight", Change.CHANGED),
    ]
    assert (found.tensors[0].after_bytes, found.tensors[0].after) == (12, "F16 2×3")
    assert (found.tensors[2].before, found.tensors[2].after) == ("F16 64", "F16 8×8")
    assert found.tensors[3].before_bytes == 64 * 64 * 2
    assert found.same_tensors == 2
    assert 64 * 64 * 2 <= found.new_bytes <= 64 * 64 * 2 + 4096 + 2000
    back = diff_models(store, second, first)
    assert [change.change for change in back.tensors][:2] == [Change.REMOVED, Change.ADDED]


def test_another_sharding_of_the_same_tensors_is_no_difference(
    store: ModelStore, first: Digest, tmp_path: Path
) -> None:
    directory, tensors = make_model_directory(tmp_path / "sharded"), make_tensors()
    (directory / "model.safetensors").unlink()
    files = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    names = sorted(tensors)
    places = {name: files[index % 2] for index, name in enumerate(names)}
    for file in files:
        write_safetensors(directory / file, {name: tensors[name] for name in names if places[name] == file}, {})
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    second = add_model(store, "demo", directory).manifest
    found = diff_models(store, first, second)
    assert words(found) == []
    assert found.same_tensors == 5
    assert found.new_bytes < 10_000


def test_recipe_keys_and_files_are_told(store: ModelStore, first: Digest, tmp_path: Path) -> None:
    directory = make_model_directory(tmp_path / "second")
    config = json.loads((directory / "config.json").read_text())
    del config["architectures"]
    (directory / "config.json").write_text(json.dumps({**config, "hidden_size": 65, "new": [1]}))
    (directory / "tokenizer_config.json").write_text("{}")
    second = add_model(store, "demo", directory, "FROM .\nSYSTEM be brief\nPARAMETER temperature 0.5").manifest
    found = diff_models(store, first, second)
    assert [(change.key, change.before, change.after) for change in found.config] == [
        ("architectures", '["Qwen3ForCausalLM"]', ""),
        ("hidden_size", "64", "65"),
        ("new", "", "[1]"),
    ]
    assert [(change.file, change.change) for change in found.files] == [("tokenizer_config.json", Change.ADDED)]
    added = [line for line in found.recipe.splitlines() if line.startswith("+")]
    assert added[0] == "+++ after"
    assert "+PARAMETER temperature 0.5" in added
    assert any("be brief" in line for line in added)


def test_a_weight_file_without_a_map_is_hashed_where_its_header_says(
    store: ModelStore, first: Digest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = make_tensors() | {"model.layers.1.weight": make_tensors(seed=5)["model.layers.1.weight"]}
    second = add_model(store, "demo", make_model_directory(tmp_path / "second", tensors)).manifest
    monkeypatch.setattr(store, "chunk_map", lambda layer: None)
    assert words(diff_models(store, first, second)) == [("model.layers.1.weight", Change.CHANGED)]
