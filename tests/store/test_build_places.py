"""Where a model's directories lay: kept here, told to nobody, forgotten with the model."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from protocol.digest import Digest
from store.build_places import recall_places, remember_places
from store.models import ModelStore


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ModelStore]:
    store = ModelStore(tmp_path / "store")
    yield store
    store.close()


def test_places_are_kept_as_long_as_the_manifest(store: ModelStore) -> None:
    manifest, other = store.blobs.publish_bytes(b"one"), store.blobs.publish_bytes(b"two")
    remember_places(store.layout, manifest, {"./model": Path("/srv/model")})
    assert recall_places(store.layout, manifest) == {"./model": Path("/srv/model")}
    remember_places(store.layout, other, {})
    assert recall_places(store.layout, other) == {}
    store.blobs.delete(manifest)
    remember_places(store.layout, other, {"./x": Path("/x")})
    assert recall_places(store.layout, manifest) == {}
    assert recall_places(store.layout, other) == {"./x": Path("/x")}


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b'{"version":2,"places":{}}', b'{"version":1,"places":[]}', b'{"version":1}', b"x" * (1 << 17)],
)
def test_a_file_that_cannot_be_read_is_none(store: ModelStore, content: bytes) -> None:
    manifest = Digest("a" * 64)
    (store.layout.indexes / "builds").mkdir()
    (store.layout.indexes / "builds" / f"{manifest}.json").write_bytes(content)
    assert recall_places(store.layout, manifest) == {}


def test_more_than_fits_is_not_kept(store: ModelStore) -> None:
    manifest = store.blobs.publish_bytes(b"one")
    remember_places(store.layout, manifest, {f"./{number}": Path("/" + "x" * 1000) for number in range(100)})
    assert recall_places(store.layout, manifest) == {}
