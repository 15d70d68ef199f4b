"""Looking back: what is new in each version, in a word, and what a person's words for a version mean."""

from pathlib import Path

import pytest

from protocol.digest import Digest
from protocol.model_name import parse_model_name
from store.errors import ModelUnknown, VersionAmbiguous, VersionUnknown
from store.history import past_versions
from store.lookup import find_entry, find_version, numbered_version
from store.models import ModelStore
from store.refs import RefEvent, Version
from store.testing import add_model, make_model_directory, make_tensors

DEMO = parse_model_name("demo")


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "store")


@pytest.fixture
def manifests(store: ModelStore, tmp_path: Path) -> list[Digest]:
    plain, other = (make_model_directory(tmp_path / name, make_tensors(seed)) for seed, name in enumerate("ab"))
    recipes = ((plain, "FROM ."), (plain, "FROM .\nSYSTEM x"), (other, "FROM .\nSYSTEM y"))
    return [add_model(store, "demo", directory, recipe).manifest for directory, recipe in recipes]


def test_what_is_new_is_said_in_a_word(store: ModelStore, manifests: list[Digest], tmp_path: Path) -> None:
    store.refs.set(DEMO, manifests[0], event=RefEvent.ROLLBACK)
    store.refs.set(parse_model_name("demo@1.0"), manifests[1])
    directory = make_model_directory(tmp_path / "c")
    (directory / "config.json").write_text('{"model_type":"llama","architectures":["LlamaForCausalLM"]}')
    (directory / "generation_config.json").write_text("{}")
    add_model(store, "demo", directory)
    found = past_versions(store, DEMO)
    assert [past.what for past in found] == ["first", "recipe", "weights+recipe", "same as 1", "config+files"]
    assert [past.releases for past in found] == [(), ("1.0",), (), (), ()]
    assert [past.current for past in found] == [False, False, False, False, True]
    assert found[0].size_bytes == found[3].size_bytes
    assert past_versions(store, parse_model_name("demo@1.0")) == found


def test_a_version_that_cannot_be_read_is_said_so(store: ModelStore, manifests: list[Digest]) -> None:
    store.blobs.delete(manifests[1])
    assert [past.what for past in past_versions(store, DEMO)] == ["first", "cannot be read", "unknown"]
    assert past_versions(store, DEMO)[1].size_bytes is None
    with pytest.raises(ModelUnknown):
        past_versions(store, parse_model_name("other"))


def test_a_version_is_a_number_a_release_or_the_beginning_of_a_digest(
    store: ModelStore, manifests: list[Digest]
) -> None:
    store.refs.set(parse_model_name("demo@2"), manifests[0])
    store.refs.set(parse_model_name("demo@rc-1"), manifests[1])
    refs = store.refs
    assert find_version(refs, DEMO, "2").digest == manifests[1], "the number"
    assert find_version(refs, DEMO, "@2").digest == manifests[0], "the release"
    assert find_entry(refs, parse_model_name("demo@2")).digest == manifests[0], "the release"
    assert find_entry(refs, parse_model_name("demo@3")).digest == manifests[2], "the number"
    assert find_version(refs, DEMO, "rc-1").number == 2
    assert find_version(refs, DEMO, manifests[2][:6]).number == 3
    assert find_version(refs, DEMO, f"sha256:{manifests[2]}").number == 3
    assert store.resolve(parse_model_name(f"demo@{manifests[0][:12]}")).digest == manifests[0]
    for text in ("4", "rc-2", manifests[2][:5], "f" * 64, "", "../x", "@"):
        with pytest.raises(VersionUnknown):
            find_version(refs, DEMO, text)
    with pytest.raises(ModelUnknown) as caught:
        find_entry(refs, parse_model_name("dmeo"))
    assert caught.value.nearest == "demo:latest"


def test_digests_that_begin_the_same_are_ambiguous(
    store: ModelStore, manifests: list[Digest], monkeypatch: pytest.MonkeyPatch
) -> None:
    alike = tuple(Version(number, Digest(f"abcdef{number:058}"), 0, RefEvent.CREATE) for number in (1, 2))
    monkeypatch.setattr(store.refs, "history", lambda name: () if name.version else alike)
    with pytest.raises(VersionAmbiguous) as caught:
        find_version(store.refs, DEMO, "abcdef")
    assert caught.value.count == 2


def test_a_version_that_only_a_release_has_has_no_number(store: ModelStore, manifests: list[Digest]) -> None:
    release = parse_model_name("demo@1.0")
    store.refs.set(release, manifests[1])
    store.refs.forget_version(DEMO, 2)
    assert find_version(store.refs, DEMO, "1.0").digest == manifests[1]
    with pytest.raises(VersionUnknown):
        numbered_version(store.refs, DEMO, "1.0")
    with pytest.raises(VersionUnknown):
        store.remove_version(DEMO, "1.0")
    assert store.refs.get(release) == manifests[1]


def test_removing_a_release_forgets_the_version_that_nothing_else_holds(
    store: ModelStore, manifests: list[Digest]
) -> None:
    release = parse_model_name("demo@1.0")
    store.refs.set(release, manifests[0])
    assert store.remove(release).freed_blobs > 0
    assert [version.number for version in store.refs.history(DEMO)] == [2, 3]
    assert not store.blobs.has(manifests[0])
    store.refs.set(parse_model_name("demo@2.0"), manifests[2])
    assert store.remove(parse_model_name("demo@2.0")).freed_blobs == 0
    assert store.verify(DEMO).digest == manifests[2], "what the tag stands for stays"
