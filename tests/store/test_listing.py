"""The list of names: in order, as they are read, the same with a fresh, a full and a damaged cache."""

from pathlib import Path

import pytest

from protocol.digest import Digest
from protocol.model_name import parse_model_name
from store.facts import FactsCache, ModelFacts, Signature
from store.gc import collect
from store.listing import Listing, open_listing
from store.models import ModelStore
from store.testing import add_model, make_model_directory
from store.thousand import fill


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    store = ModelStore(tmp_path / "store")
    fill(store, 40, 800)
    return store


def test_names_come_in_order_with_their_facts(store: ModelStore) -> None:
    listed = list(store.listing())
    assert [model.name for model in listed] == [entry.name for entry in store.refs.list()]
    resolved = store.resolve(listed[7].name)
    assert listed[7].digest == resolved.digest
    assert listed[7].modified_s == resolved.modified_s
    assert listed[7].versions == 1
    assert listed[7].facts == ModelFacts(resolved.size_bytes, "safetensors", "qwen3", "13M", "bfloat16", "")
    assert listed[7].publisher.startswith("did:key:")


def test_nothing_is_read_or_verified_twice(store: ModelStore) -> None:
    first = list(store.listing())

    def never(*arguments: object) -> None:
        raise AssertionError("it was in the cache")

    again = Listing(store.layout, FactsCache(store.layout.facts), never, never)
    assert list(again.models()) == first
    with open_listing(store.layout.root) as listing:
        assert list(listing.models()) == first


def test_collecting_lets_the_cache_forget_what_is_gone(store: ModelStore) -> None:
    first = list(store.listing())
    store.remove(first[0].name)
    collect(store)
    assert store.facts.model(first[0].digest) is None
    assert store.facts.model(first[1].digest) == first[1].facts
    assert list(store.listing()) == first[1:]


def test_a_damaged_cache_is_made_anew(store: ModelStore) -> None:
    first = list(store.listing())
    store.close()
    store.layout.facts.write_bytes(b"no database" * 1000)
    with open_listing(store.layout.root) as listing:
        assert list(listing.models()) == first


def test_a_first_line_needs_no_other_name(store: ModelStore) -> None:
    read: list[Digest] = []

    def noted(digest: Digest) -> ModelFacts:
        read.append(digest)
        return ModelFacts(1, "", "", "", "", "")

    def unsigned(bundle: bytes) -> Signature | None:
        return None

    models = Listing(store.layout, FactsCache(Path(":memory:")), noted, unsigned).models()
    first = next(models)
    assert read == [first.digest]
    assert first.publisher == "", "what does not verify is nobody's"


def test_a_name_whose_model_cannot_be_read_is_listed_without_facts(store: ModelStore, tmp_path: Path) -> None:
    built = add_model(store, "demo", make_model_directory(tmp_path / "model"))
    store.blobs.delete(built.manifest)
    path = store.layout.ref_path(parse_model_name("third"))
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    names = {str(model.name): model.facts for model in store.listing()}
    assert names["demo:latest"] is None
    assert "third:latest" not in names
