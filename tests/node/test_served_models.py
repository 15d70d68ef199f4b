"""What is remembered of models that were asked never outlives what their names stand for."""

from pathlib import Path

import pytest

from node import served_models
from node.served_models import ServedModels
from protocol.model_name import parse_model_name
from store.errors import ModelUnknown
from store.models import ModelStore
from store.testing import add_model, make_model_directory

NAME = parse_model_name("notes")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return make_model_directory(tmp_path / "model")


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "store")


def test_a_model_is_read_once(store: ModelStore, directory: Path) -> None:
    add_model(store, "notes", directory, 'FROM .\nSYSTEM "Short."')
    served = ServedModels(store)
    first = served.find(NAME)
    assert first.modelfile.system == "Short."
    assert served.find(NAME) is first


def test_a_name_that_was_moved_means_the_new_model(store: ModelStore, directory: Path) -> None:
    add_model(store, "notes", directory, 'FROM .\nSYSTEM "Short."')
    served = ServedModels(store)
    old = served.find(NAME)
    add_model(store, "notes", directory, 'FROM .\nSYSTEM "Long."')
    assert served.find(NAME).modelfile.system == "Long."
    assert served.find(parse_model_name("notes@1")).digest == old.digest


def test_a_name_that_was_removed_means_nothing(store: ModelStore, directory: Path) -> None:
    add_model(store, "notes", directory)
    served = ServedModels(store)
    served.find(NAME)
    store.remove(NAME)
    with pytest.raises(ModelUnknown):
        served.find(NAME)


def test_only_so_many_are_remembered(store: ModelStore, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served_models, "MAX_KNOWN", 2)
    served = ServedModels(store)
    names = [parse_model_name(f"notes{number}") for number in range(3)]
    for name in names:
        add_model(store, name.name, directory)
    first, *_, last = [served.find(name) for name in names]
    assert served.find(names[-1]) is last
    assert served.find(names[0]) is not first
    assert served.find(names[0]).name == first.name
