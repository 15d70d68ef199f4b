"""Whatever stands in `index.json`: its models are listed or not, only named errors escape, and no name is lost."""

import json
import tracemalloc
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from protocol.model_name import parse_model_name
from store.errors import CollectRefused
from store.foreign import foreign_models
from store.gc import collect
from store.models import ModelStore
from store.oci_index import MAX_INDEX_BYTES
from store.testing import add_model, make_model_directory

NAME = parse_model_name("demo")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
ENTRIES = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "mediaType": JSON,
            "digest": JSON | st.just("sha256:" + "0" * 64),
            "size": JSON,
            "annotations": JSON | st.dictionaries(st.sampled_from(["org.opencontainers.image.ref.name"]), JSON),
        },
    ),
    max_size=4,
)
DOCUMENTS = st.fixed_dictionaries({"manifests": ENTRIES | JSON}, optional={"schemaVersion": JSON})
FILES = st.binary(max_size=200) | DOCUMENTS.map(lambda document: json.dumps(document).encode())


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelStore]:
    root = tmp_path_factory.mktemp("index")
    opened = ModelStore(root / "store")
    add_model(opened, "demo", make_model_directory(root / "model"))
    yield opened
    opened.close()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(FILES)
def test_any_index_is_read_or_refused_by_name(store: ModelStore, content: bytes) -> None:
    store.layout.index.write_bytes(content)
    foreign_models(store)
    with suppress(CollectRefused):
        collect(store)
    store.refs.write_indexes()
    index = json.loads(store.layout.index.read_bytes())
    assert any(entry.get("annotations", {}).get("io.tilenode.ref", "").endswith("demo:latest") for entry in _own(index))
    assert store.verify(NAME)


def test_an_index_of_any_size_costs_no_more_memory_than_the_largest_that_is_read(store: ModelStore) -> None:
    with store.layout.index.open("wb") as file:
        file.truncate(40 * MAX_INDEX_BYTES)
    tracemalloc.start()
    assert store.refs.foreign_entries() is None
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * MAX_INDEX_BYTES
    Path(store.layout.index).unlink()


def _own(index: dict[str, list[dict[str, dict[str, str]]]]) -> list[dict[str, dict[str, str]]]:
    return [entry for entry in index["manifests"] if isinstance(entry.get("annotations"), dict)]
