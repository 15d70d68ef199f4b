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
from store.disk import replace_file
from store.errors import (
    BlobMissing,
    DiskFull,
    HistoryFull,
    LayerCorrupt,
    RefCorrupt,
    VersionCurrent,
    VersionPinned,
    VersionTaken,
    VersionUnknown,
)
from store.layout import Layout
from store.leases import Leases
from store.ref_file import MAX_REF_BYTES, MAX_VERSIONS, encode_ref
from store.refs import RefEvent, Refs, Version

VECTORS = Path(__file__).parents[2] / "specs" / "vectors" / "0022-history"
REF_CASES = json.loads((VECTORS / "refs.json").read_text())

DEMO = parse_model_name("demo")


class Store:
    def __init__(self, root: Path) -> None:
        self.layout = Layout(root)
        self.blobs = Blobs(self.layout)
        self.leases = Leases(self.layout)
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
        assert [[version.number, version.digest] for version in store.refs.history(DEMO)] == case["versions"]
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


def test_a_name_remembers_where_it_stood(store: Store) -> None:
    first, second = store.publish(b"1"), store.publish(b"2")
    store.refs.set(DEMO, first, now_s=10)
    store.refs.set(DEMO, second, event=RefEvent.PULL, source="peer studio", now_s=20)
    store.refs.set(DEMO, second, now_s=30)
    store.refs.set(DEMO, first, event=RefEvent.ROLLBACK, now_s=40)
    assert store.refs.history(DEMO) == (
        Version(1, first, 10, RefEvent.CREATE),
        Version(2, second, 20, RefEvent.PULL, "peer studio"),
        Version(3, first, 40, RefEvent.ROLLBACK),
    )
    assert store.refs.history(parse_model_name("other")) == ()
    assert [entry.modified_s for entry in store.refs.list()] == [40]


def test_what_a_peer_calls_itself_is_a_clean_line_in_the_history(store: Store) -> None:
    store.refs.set(DEMO, store.publish(), source="peer \x1b[2J\u202eevil\n" + "x" * 500)
    (version,) = store.refs.history(DEMO)
    assert version.source == "peer [2J evil " + "x" * (120 - 14)


def test_a_release_is_set_once_and_moves_its_tag(store: Store) -> None:
    first, second = store.publish(b"1"), store.publish(b"2")
    release = parse_model_name("demo@1.0")
    store.refs.set(release, first)
    assert (store.refs.get(release), store.refs.get(DEMO)) == (first, first)
    with pytest.raises(VersionTaken) as caught:
        store.refs.set(release, second)
    assert (caught.value.held, caught.value.offered) == (first, second)
    store.refs.set(DEMO, second)
    store.refs.set(release, first)
    assert store.refs.get(DEMO) == second, "a release that is there already moves nothing"
    store.refs.set(parse_model_name("demo@2.0"), second)
    assert store.refs.releases(DEMO) == {"1.0": first, "2.0": second}
    names = [entry["annotations"]["org.opencontainers.image.ref.name"] for entry in store.index()["manifests"]]
    assert sorted(names) == ["demo/latest", "demo/latest@1.0", "demo/latest@2.0"]


def test_a_release_whose_tag_was_not_moved_because_of_a_kill_moves_it_at_the_next_try(store: Store) -> None:
    manifest, release = store.publish(), parse_model_name("demo@1.0")
    store.refs.set(release, manifest)
    store.refs.delete(DEMO)
    store.refs.set(release, manifest)
    assert store.refs.get(DEMO) == manifest


def test_versions_are_pinned_and_forgotten(store: Store) -> None:
    manifests = [store.publish(bytes([number])) for number in range(3)]
    for manifest in manifests:
        store.refs.set(DEMO, manifest)
    assert store.refs.pin(DEMO, 1, True).pinned
    assert store.refs.pin(DEMO, None, True).number == 3
    with pytest.raises(VersionPinned):
        store.refs.forget_version(DEMO, 1)
    store.refs.pin(DEMO, 1, False)
    assert store.refs.forget_version(DEMO, 1).digest == manifests[0]
    with pytest.raises(VersionCurrent):
        store.refs.forget_version(DEMO, 3)
    with pytest.raises(VersionUnknown):
        store.refs.forget_version(DEMO, 1)
    with pytest.raises(VersionUnknown):
        store.refs.pin(parse_model_name("other"), None, True)
    store.refs.set(DEMO, manifests[0])
    assert [version.number for version in store.refs.history(DEMO)] == [2, 3, 4], "no number twice"


def test_the_oldest_version_that_is_not_pinned_makes_room(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("store.refs.MAX_VERSIONS", 3)
    manifests = [store.publish(bytes([number])) for number in range(6)]
    for manifest in manifests[:3]:
        store.refs.set(DEMO, manifest)
    store.refs.pin(DEMO, 1, True)
    store.refs.set(DEMO, manifests[3])
    assert [version.number for version in store.refs.history(DEMO)] == [1, 3, 4]
    store.refs.pin(DEMO, 3, True)
    store.refs.pin(DEMO, 4, True)
    with pytest.raises(HistoryFull):
        store.refs.set(DEMO, manifests[4])
    assert store.refs.get(DEMO) == manifests[3]


def test_the_largest_history_fits_into_a_ref() -> None:
    version = Version(2**31, digest_of(b""), 2**33, RefEvent.ROLLBACK, "\U0001f600" * 120, True)
    assert len(encode_ref([version] * MAX_VERSIONS)) <= MAX_REF_BYTES


def test_a_ref_that_cannot_be_read_is_kept_aside_when_its_name_gets_a_model_again(store: Store) -> None:
    path = store.layout.ref_path(DEMO)
    path.parent.mkdir(parents=True)
    path.write_text("{")
    store.refs.set(DEMO, store.publish())
    assert [version.number for version in store.refs.history(DEMO)] == [1]
    assert [aside.read_text() for aside in store.layout.quarantine.iterdir()] == ["{"]


def test_many_names_are_moved_with_one_rewrite_of_the_index(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = store.publish()
    written: list[str] = []

    def noted(temporary: Path, path: Path, content: bytes) -> None:
        written.append(path.name)
        replace_file(temporary, path, content)

    monkeypatch.setattr("store.oci_index.replace_file", noted)
    with store.refs.batch():
        for number in range(5):
            store.refs.set(parse_model_name(f"m{number}"), manifest)
        assert written == []
    assert written == ["index.json", "tags.json"]
    assert len(store.index()["manifests"]) == 5


def test_another_process_that_wrote_the_index_meanwhile_is_noticed(store: Store, tmp_path: Path) -> None:
    manifest = store.publish()
    store.refs.set(DEMO, manifest)
    other = Store(tmp_path)
    other.refs.set(parse_model_name("theirs"), manifest)
    store.refs.set(parse_model_name("ours"), manifest)
    assert len(store.index()["manifests"]) == 3
    assert len(json.loads(store.layout.tags.read_bytes())["tags"]) == 3
