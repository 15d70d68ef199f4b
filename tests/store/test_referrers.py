from pathlib import Path

import pytest

from protocol.digest import digest_of, format_oci_digest
from protocol.manifest import Descriptor
from protocol.model_name import parse_model_name
from protocol.referrer import CHUNK_MAPS, DELTA, DELTA_BASE, EMPTY, MAPPED_BLOB, parse_artifact, parse_index
from store.models import ModelStore, StoredModel
from store.referrers import DeltaBlob, referrers_index, referrers_of
from store.testing import add_model, make_model_directory


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "store")


@pytest.fixture
def model(store: ModelStore, tmp_path: Path) -> StoredModel:
    add_model(store, "demo", make_model_directory(tmp_path / "model"))
    return store.resolve(parse_model_name("demo"))


def test_the_chunk_maps_refer_to_the_model_in_bytes_that_are_always_the_same(
    store: ModelStore, model: StoredModel
) -> None:
    (one,), (other,) = referrers_of(store, model.digest), referrers_of(store, model.digest)
    assert (one.data, one.descriptor) == (other.data, other.descriptor)
    artifact = parse_artifact(one.data)
    assert (artifact.artifact_type, artifact.subject.digest) == (CHUNK_MAPS, model.digest)
    pins = {format_oci_digest(layer.digest): layer.chunk_map for layer in model.layers if layer.chunk_map}
    assert {part.annotations[MAPPED_BLOB]: part.digest for part in artifact.parts} == {
        blob: pin.digest for blob, pin in pins.items()
    }
    assert one.blobs[EMPTY.digest] == b"{}"
    assert all(content is None and store.blobs.has(digest) for digest, content in list(one.blobs.items())[1:])


def test_an_index_lists_them_by_type(store: ModelStore, model: StoredModel) -> None:
    delta = DeltaBlob(Descriptor(digest_of(b"delta"), 5, DELTA), digest_of(b"base"), model.layers[0].digest)
    found = referrers_of(store, model.digest, [delta])
    assert [referrer.artifact.artifact_type for referrer in found] == [CHUNK_MAPS, DELTA]
    assert found[1].artifact.parts[0].annotations[DELTA_BASE] == format_oci_digest(delta.base)
    assert len(parse_index(referrers_index(found))) == 2
    (listed,) = parse_index(referrers_index(found, DELTA))
    assert (listed.digest, listed.artifact_type) == (found[1].descriptor.digest, DELTA)
