"""Refs: atomic, complete, canonical; `index.json` follows and keeps what other programs put there."""

import json
from pathlib import Path
from typing import Any

import pytest

from protocol.digest import Digest, digest_of
from protocol.errors import ManifestInvalid, ModelNameInvalid
from protocol.manifest import CONFIG_MEDIA_TYPE, DOC, Descriptor, Layer, Manifest, encode_manifest
from protocol.model_name import ModelName, parse_model_name
from store.blobs import Blobs
from store.errors import BlobMissing, DiskFull, LayerCorrupt, RefCorrupt
from store.layout import Layout
from store.leases import Leases
from store.refs import Refs

VECTORS = Path(__file__).parents[2] / "specs" / "vectors" / "0006-store-layout"
REF_CASES = json.loads((VECTORS / "refs.json").read_text())

DEMO = parse_model_name("demo")


class Store:
    def __init__(self, root: Path) -> None:
        self.layout = Layout(root)
        self.blobs = Blobs(self.layout)
        self.leases = Leases()
        self.refs = Refs(self.layout, self.blobs, self.leases)

    def publish(self, content: bytes = b"text") -> Digest:
        config = b"{}"
        layer = Layer(self.blobs.publish_bytes(content), len(content), DOC, "README.md")
        descriptor = Descriptor(self.blobs.publish_bytes(config), len(config), CONFIG_MEDIA_TYPE)
        return self.blobs.publish_bytes(encode_manifest(Manifest(descriptor, (layer,))))

    def index(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.layout.index.read_bytes())
        return document


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


@pytest.mark.parametrize("case", REF_CASES, ids=lambda case: case["comment"])
def test_ref_vectors(store: Store, case: dict[str, Any]) -> None:
    path = store.layout.ref_path(DEMO)
    path.parent.mkdir(parents=True)
    path.write_text(case["input"])
    if case["expect"] == "ok":
        assert store.refs.get(DEMO) == case["digest"]
        assert store.refs.unreadable() == []
    else:
        with pytest.raises(RefCorrupt) as caught:
            store.refs.get(DEMO)
        assert caught.value.path == path
        assert store.refs.list() == []
        assert [fault.path for fault in store.refs.unreadable()] == [path]


def test_a_name_moves_and_goes(store: Store) -> None:
    first, second = store.publish(b"1"), store.publish(b"2")
    assert store.refs.get(DEMO) is None
    store.refs.set(DEMO, first)
    assert store.refs.get(DEMO) == first
    store.refs.set(DEMO, second)
    other = parse_model_name("ann/demo:v2")
    store.refs.set(other, first)
    assert [(entry.name, entry.digest) for entry in store.refs.list()] == [(other, first), (DEMO, second)]
    assert all(entry.modified_s > 0 for entry in store.refs.list())
    assert store.refs.delete(DEMO)
    assert not store.refs.delete(DEMO)
    assert store.refs.get(DEMO) is None


def test_a_name_never_stands_for_less_than_a_whole_model(store: Store) -> None:
    old, new = store.publish(b"old"), store.publish(b"new")
    store.refs.set(DEMO, old)
    with pytest.raises(BlobMissing):
        store.refs.set(DEMO, digest_of(b"nothing"))
    with pytest.raises(ManifestInvalid):
        store.refs.set(DEMO, store.blobs.publish_bytes(b"no manifest"))
    store.blobs.delete(digest_of(b"new"))
    with pytest.raises(BlobMissing) as caught:
        store.refs.set(DEMO, new)
    assert caught.value.digest == digest_of(b"new")
    assert store.refs.get(DEMO) == old


def test_a_layer_of_another_size_counts_as_missing(store: Store) -> None:
    manifest = store.publish(b"whole")
    path = store.layout.blob_path(digest_of(b"whole"))
    path.chmod(0o644)
    path.write_bytes(b"who")
    with pytest.raises(BlobMissing):
        store.refs.set(DEMO, manifest)


def test_a_changed_manifest_is_not_named(store: Store) -> None:
    manifest = store.publish()
    path = store.layout.blob_path(manifest)
    path.chmod(0o644)
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(LayerCorrupt):
        store.refs.set(DEMO, manifest)


@pytest.mark.parametrize(
    "name", [ModelName("..", "..", "..", "x"), ModelName("local", "a", "b", "../c"), ModelName("LOCAL", "a", "b", "c")]
)
def test_a_name_put_together_by_hand_is_no_path(store: Store, name: ModelName) -> None:
    with pytest.raises(ModelNameInvalid):
        store.refs.get(name)


def test_the_oci_view_names_every_ref_without_a_colon(store: Store) -> None:
    manifest = store.publish()
    for name in ("demo", "ann/demo:v2", "host.example/ann/demo:v2"):
        store.refs.set(parse_model_name(name), manifest)
    entries = store.index()["manifests"]
    names = {entry["annotations"]["org.opencontainers.image.ref.name"] for entry in entries}
    assert names == {"demo/latest", "ann/demo/v2", "host.example/ann/demo/v2"}
    assert {entry["digest"] for entry in entries} == {f"sha256:{manifest}"}
    assert {entry["size"] for entry in entries} == {store.blobs.size(manifest)}
    tags = json.loads(store.layout.tags.read_bytes())["tags"]
    assert tags["local/library/demo:latest"] == f"sha256:{manifest}"


def test_entries_of_other_programs_are_kept(store: Store) -> None:
    foreign = {
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": f"sha256:{digest_of(b'x')}",
        "size": 1,
    }
    document = store.index()
    document["manifests"].append(foreign)
    store.layout.index.write_text(json.dumps(document))
    store.refs.set(DEMO, store.publish())
    assert foreign in store.index()["manifests"]
    store.refs.delete(DEMO)
    assert store.index()["manifests"] == [foreign]


@pytest.mark.parametrize(
    "content", ["", "[", "[]", '{"manifests":5}', '{"manifests":[1,"x"]}', '{"manifests":[{"a":"\\ud800"}]}']
)
def test_an_index_that_cannot_be_read_is_kept_aside_and_made_anew(store: Store, content: str) -> None:
    store.layout.index.write_text(content)
    store.refs.set(DEMO, store.publish())
    assert len(store.index()["manifests"]) == 1
    assert (store.layout.quarantine / "index.json").read_text() == content


def test_a_name_counts_although_there_is_no_room_for_what_follows_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = store.publish()

    def full() -> None:
        raise DiskFull(store.layout.index, 1, 0)

    monkeypatch.setattr(store.refs, "write_indexes", full)
    store.refs.set(DEMO, manifest)
    assert store.refs.get(DEMO) == manifest


def test_files_that_are_no_refs_are_passed_over(store: Store) -> None:
    folder = store.layout.manifests / "local" / "library" / "demo"
    folder.mkdir(parents=True)
    for name in ("UPPER.json", ".hidden.json", "a b.json", "latest.txt"):
        (folder / name).write_text("{}")
    assert store.refs.list() == []
    assert store.refs.unreadable() == []


def test_naming_a_manifest_ends_the_lease_that_waited_for_it(store: Store) -> None:
    manifest = store.publish()
    lease, other = store.leases.take([manifest]), store.leases.take([manifest])
    lease.until_named = manifest
    store.refs.set(DEMO, manifest)
    assert lease.digests == frozenset()
    assert store.leases.held() == {manifest}
    other.release()
