import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from identity.secrets import LogGuard
from identity.testing import MemorySecretStore, key_from_number, secrets_from_number
from protocol.attestation import Artifact
from protocol.digest import Digest, digest_of
from protocol.errors import ManifestInvalid, ProvenanceInvalid
from protocol.log_entry import decode_log_entry
from protocol.manifest import CONFIG_MEDIA_TYPE, DOC, Descriptor, Layer, Manifest, encode_manifest
from protocol.model_name import ModelName, parse_model_name
from protocol.provenance import decode_and_verify_provenance
from protocol.testing import MemoryLog, publish_in_memory, small_manifest
from store.errors import BlobMissing, LogRolledBack
from store.log import Log
from store.models import ModelStore
from store.provenance import ProvenanceFiles, publish_model

KEY = key_from_number(1)
NAME = parse_model_name("demo:v1")


@dataclass(frozen=True)
class Record:
    sources: tuple[Artifact, ...] = (Artifact("model.safetensors", digest_of(b"source")),)
    external_parameters: dict[str, Any] = field(default_factory=lambda: {"modelfile": "FROM ."})
    tool_versions: dict[str, str] = field(default_factory=lambda: {"tilenode": "0.1.0"})


class Home:
    def __init__(self, path: Path) -> None:
        self.store = ModelStore(path / "store")
        secrets = MemorySecretStore(secrets_from_number(1))
        self.log = Log.open(path / "log", KEY, LogGuard(secrets, secrets_from_number(1)))
        self.blobs, self.refs, self.files = self.store.blobs, self.store.refs, self.store.provenance

    def add(self, weights: bytes = b"weights") -> Digest:
        for content in (b"{}", weights):
            self.blobs.publish_bytes(content)
        return self.blobs.publish_bytes(small_manifest(weights))

    def publish(self, manifest: Digest, name: ModelName = NAME, record: Record | None = None) -> bytes:
        return publish_model(
            blobs=self.blobs,
            refs=self.refs,
            log=self.log,
            key=KEY,
            name=name,
            manifest=manifest,
            build=record or Record(),
            now_s=1_700_000_000,
            entropy=os.urandom,
        )


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def test_a_published_model_is_attested_logged_and_named(home: Home) -> None:
    manifest = home.add()
    bundle = home.publish(manifest)
    provenance = decode_and_verify_provenance(bundle)
    assert (provenance.publisher, provenance.name, provenance.manifest_digest) == (KEY.did, "demo:v1", manifest)
    assert (home.log.size, provenance.log_size) == (2, 2)
    assert [decode_log_entry(home.log.entry(index)).kind for index in range(2)] == ["build", "sign"]
    assert home.refs.get(NAME) == manifest
    assert home.files.load(manifest) == bundle
    assert home.files.list() == [manifest]
    definition: Any = provenance.build_statement.predicate["buildDefinition"]
    assert definition["externalParameters"] == {"modelfile": "FROM ."}


def test_a_log_entry_says_nothing_to_a_stranger(home: Home) -> None:
    manifest = home.add()
    home.publish(manifest)
    home.publish(manifest)
    entries = [home.log.entry(index) for index in range(4)]
    assert len(set(entries)) == 4
    for entry in entries:
        assert bytes.fromhex(manifest) not in entry
        assert b"demo" not in entry


def test_one_model_under_two_names_has_two_bundles(home: Home) -> None:
    manifest = home.add()
    first = home.publish(manifest)
    second = home.publish(manifest, parse_model_name("copy:v1"))
    assert home.files.load(manifest, name="demo:v1") == first
    assert home.files.load(manifest, name="copy:v1") == second
    assert home.files.load(manifest, publisher=KEY.did) in (first, second)
    assert home.files.load(manifest, publisher="did:key:z6Mk") is None
    assert sorted(home.files.all(manifest)) == sorted([first, second])


def test_bundles_of_other_publishers_stand_beside_it(home: Home) -> None:
    manifest = home.add()
    own = home.publish(manifest)
    theirs = publish_in_memory(MemoryLog(key_from_number(2)), "demo:v1", small_manifest())
    assert home.files.save(theirs).publisher == key_from_number(2).did
    assert home.files.load(manifest, publisher=KEY.did) == own
    assert home.files.load(manifest, publisher=key_from_number(2).did) == theirs


def test_publishing_again_replaces_the_bundle(home: Home) -> None:
    manifest = home.add()
    home.publish(manifest)
    again = home.publish(manifest)
    assert home.files.all(manifest) == [again]
    assert decode_and_verify_provenance(again).log_size == 4


def test_what_is_removed_is_gone(home: Home) -> None:
    manifest = home.add()
    home.publish(manifest)
    home.files.remove(manifest)
    home.files.remove(manifest)
    assert home.files.load(manifest) is None
    assert home.files.list() == []


def test_nothing_unverified_is_kept(home: Home) -> None:
    with pytest.raises(ProvenanceInvalid):
        home.files.save(b"anything")
    bundle = bytearray(publish_in_memory(MemoryLog(key_from_number(2)), "demo:v1", small_manifest()))
    bundle[-1] ^= 1
    with pytest.raises(ProvenanceInvalid):
        home.files.save(bytes(bundle))
    assert home.files.list() == []


def test_a_damaged_bundle_counts_as_none(home: Home, tmp_path: Path) -> None:
    manifest = home.add()
    home.publish(manifest)
    path = next(path for path in (tmp_path / "store" / "provenance").rglob("*") if path.is_file())
    path.write_bytes(path.read_bytes()[:-1])
    assert home.files.load(manifest) is None


def test_strange_files_beside_the_bundles_do_not_matter(home: Home, tmp_path: Path) -> None:
    assert ProvenanceFiles(home.store.layout).list() == []
    (tmp_path / "store" / "provenance").mkdir(exist_ok=True)
    (tmp_path / "store" / "provenance" / "notes.txt").touch()
    assert home.files.list() == []


def test_a_log_that_was_set_back_publishes_nothing(home: Home) -> None:
    manifest = home.add()
    home.log.rolled_back = "a peer holds more"
    with pytest.raises(LogRolledBack):
        home.publish(manifest)
    assert home.refs.get(NAME) is None
    assert home.files.list() == []


def test_a_model_that_is_not_whole_is_not_named(home: Home) -> None:
    manifest = home.blobs.publish_bytes(small_manifest(b"not here"))
    with pytest.raises(BlobMissing):
        home.publish(manifest)
    assert home.refs.get(NAME) is None


def test_what_no_peer_would_accept_is_not_logged(home: Home) -> None:
    with pytest.raises(BlobMissing):
        home.publish(digest_of(b"nothing"))
    with pytest.raises(ManifestInvalid):
        home.publish(home.blobs.publish_bytes(b"{}"))
    with pytest.raises(ProvenanceInvalid):
        home.publish(home.add(), record=Record(external_parameters={"system": "x" * 400_000}))
    config = home.blobs.publish_bytes(b"{}")
    many = tuple(Layer(config, 2, DOC, f"{number:03d}/{'x' * 190}") for number in range(760))
    manifest = home.blobs.publish_bytes(encode_manifest(Manifest(Descriptor(config, 2, CONFIG_MEDIA_TYPE), many)))
    with pytest.raises(ProvenanceInvalid):
        home.publish(manifest)
    assert home.log.size == 0
    assert home.refs.get(NAME) is None
