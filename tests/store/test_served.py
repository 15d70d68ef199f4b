"""Models that differ in recipe and adapter alone have one key for their weights, and all others have not."""

from pathlib import Path

import pytest

from store.models import ModelStore
from store.served import adapter_key, weights_key
from store.testing import add_model, make_model_directory, make_tensors
from tests.store.test_adapters import base_tensors, make_adapter


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    make_adapter(tmp_path / "model" / "lora")
    make_adapter(tmp_path / "model" / "other", num_layers=2)
    make_model_directory(tmp_path / "model" / "small", make_tensors(seed=9))
    return make_model_directory(tmp_path / "model", base_tensors())


def test_recipes_documents_and_adapters_do_not_make_other_weights(directory: Path, tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "store")
    try:
        recipes = {
            "plain": "FROM .", "said": "FROM .\nSYSTEM hi\nPARAMETER top_k 3", "tuned": "FROM .\nADAPTER ./lora",
            "tuned-too": "FROM .\nADAPTER ./lora\nSYSTEM hi", "other": "FROM .\nADAPTER ./other",
            "quick": "FROM .\nDRAFT ./small", "quick-tuned": "FROM .\nDRAFT ./small\nADAPTER ./lora",
        }  # fmt: skip
        built = {name: add_model(store, name, directory, recipe).layers for name, recipe in recipes.items()}
        (directory / "README.md").write_text("# A model\n")
        built["described"] = add_model(store, "described", directory).layers
        (directory / "chat_template.jinja").write_text("{{ messages }}")
        built["speaking"] = add_model(store, "speaking", directory).layers
    finally:
        store.close()
    weights = {name: weights_key(layers) for name, layers in built.items()}
    one = {weights[name] for name in ("plain", "said", "tuned", "tuned-too", "other", "described")}
    assert len(one) == 1
    assert weights["quick"] == weights["quick-tuned"]
    assert len({*one, weights["quick"], weights["speaking"]}) == 3, "what a worker loads is another one"
    adapters = {name: adapter_key(layers) for name, layers in built.items()}
    assert adapters["tuned"] == adapters["tuned-too"] == adapters["quick-tuned"] != adapters["other"]
    assert {adapters[name] for name in ("plain", "said", "quick", "described", "speaking")} == {""}
