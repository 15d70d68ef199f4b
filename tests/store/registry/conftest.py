"""Stores and real registries for the registry client's tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from protocol.model_name import ModelName, parse_model_name
from store.models import ModelStore, StoredModel
from store.testing import add_model, make_model_directory, make_tensors
from tests.store.registry import docker_registry
from tests.store.registry.docker_registry import RunningRegistry


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[RunningRegistry]:
    """A docker-registry that lets everybody do everything."""
    if not docker_registry.is_installed():
        pytest.skip(f"needs docker-registry: {docker_registry.NEEDED}")
    with docker_registry.open_registry(tmp_path / "registry") as running:
        yield running


@pytest.fixture
def here(tmp_path: Path) -> Iterator[ModelStore]:
    """The store that pushes."""
    store = ModelStore(tmp_path / "here")
    yield store
    store.close()


@pytest.fixture
def there(tmp_path: Path) -> Iterator[ModelStore]:
    """The store that pulls."""
    store = ModelStore(tmp_path / "there")
    yield store
    store.close()


@pytest.fixture
def model(here: ModelStore, tmp_path: Path) -> StoredModel:
    """A model of about 4 MB in the store that pushes."""
    directory = make_model_directory(tmp_path / "model", make_tensors(1, blocks=8, width=512))
    name: ModelName = parse_model_name("ann/demo:q4@1.0")
    add_model(here, str(name), directory)
    return here.resolve(name)
