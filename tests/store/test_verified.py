"""Bytes that leave: by chunks or by blocks, in any order, and never a changed one."""

from pathlib import Path

import pytest
from blake3 import blake3

from protocol.chunkmap import encode_chunk_map, make_chunk_map
from protocol.digest import Digest, digest_of
from protocol.errors import ChunkMapInvalid
from protocol.manifest import Descriptor
from store.blobs import Blobs
from store.errors import BlobMissing, LayerCorrupt
from store.models import ModelStore
from store.testing import add_model, make_model_directory, make_tensors
from store.verified import BLOCK_BYTES, VerifiedBlob, open_verified


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "store")


def mapped(store: ModelStore, tmp_path: Path) -> tuple[Digest, int, Descriptor]:
    add_model(store, "demo", make_model_directory(tmp_path / "model", make_tensors(3, 8, 720)))
    (model,) = store.list()
    layer = next(layer for layer in model.layers if layer.chunk_map)
    assert layer.chunk_map is not None
    return layer.digest, layer.size, layer.chunk_map


def whole(blob: VerifiedBlob, first: int, end: int, max_bytes: int) -> bytes:
    data = b""
    while first + len(data) < end:
        piece = blob.run(first + len(data), end, max_bytes)
        assert piece
        data += piece
    return data


def change(blobs: Blobs, digest: Digest, offset: int) -> None:
    path = blobs.layout.blob_path(digest)
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(offset)
        old = file.read(1)
        file.seek(offset)
        file.write(bytes([old[0] ^ 1]))


def test_a_layer_with_a_chunk_map_is_read_anywhere(store: ModelStore, tmp_path: Path) -> None:
    digest, size, pin = mapped(store, tmp_path)
    content = store.blobs.layout.blob_path(digest).read_bytes()
    blob = open_verified(store.blobs, digest, size, pin)
    assert blob.size == size
    for first, end in ((0, size), (0, 1), (size - 1, size), (12345, 2_345_678), (BLOCK_BYTES, BLOCK_BYTES + 1)):
        assert whole(blob, first, end, 1 << 20) == content[first:end]
        assert whole(blob, first, min(end, first + 300_000), 70_000) == content[first : min(end, first + 300_000)]


@pytest.mark.parametrize("size", [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 3 * BLOCK_BYTES + 17])
def test_a_blob_without_a_map_is_read_anywhere(store: ModelStore, size: int) -> None:
    content = bytes((index * 7 + index // 251) & 255 for index in range(size))
    digest = store.blobs.publish_bytes(content)
    blob = open_verified(store.blobs, digest, size, None)
    assert (blob.size, whole(blob, 0, size, BLOCK_BYTES)) == (size, content)
    for first in (0, size // 3, BLOCK_BYTES - 1, BLOCK_BYTES):
        if first < size:
            assert whole(blob, first, size, 5000) == content[first:]


def test_a_changed_byte_is_not_handed_out_and_the_blob_leaves_the_store(store: ModelStore, tmp_path: Path) -> None:
    digest, size, pin = mapped(store, tmp_path)
    blob = open_verified(store.blobs, digest, size, pin)
    change(store.blobs, digest, size - 10)
    assert blob.run(0, size, 1 << 20)
    with pytest.raises(LayerCorrupt):
        whole(blob, size - 100, size, 1 << 20)
    assert not store.blobs.has(digest)
    assert store.layout.quarantine_path(digest).exists()
    with pytest.raises(BlobMissing):
        blob.run(0, size, 1 << 20)


def test_a_byte_that_changes_while_a_blob_without_a_map_is_read(store: ModelStore) -> None:
    content = bytes(4 * BLOCK_BYTES)
    digest = store.blobs.publish_bytes(content)
    blob = open_verified(store.blobs, digest, len(content), None)
    assert blob.run(0, len(content), BLOCK_BYTES) == bytes(BLOCK_BYTES)
    change(store.blobs, digest, 3 * BLOCK_BYTES)
    with pytest.raises(LayerCorrupt):
        blob.run(3 * BLOCK_BYTES, len(content), BLOCK_BYTES)
    assert not store.blobs.has(digest)


def test_what_is_damaged_already_is_not_opened(store: ModelStore) -> None:
    digest = store.blobs.publish_bytes(b"x" * 1000)
    change(store.blobs, digest, 500)
    with pytest.raises(LayerCorrupt):
        open_verified(store.blobs, digest, 1000, None)
    other = store.blobs.publish_bytes(b"y" * 1000)
    with pytest.raises(LayerCorrupt):
        open_verified(store.blobs, other, 999, None)
    with pytest.raises(BlobMissing):
        open_verified(store.blobs, digest_of(b"nothing"), 7, None)


def test_a_chunk_map_that_lies_costs_no_good_blob(store: ModelStore, tmp_path: Path) -> None:
    digest, size, _ = mapped(store, tmp_path)
    lengths = [min(1 << 16, size - start) for start in range(0, size, 1 << 16)]
    lie = encode_chunk_map(make_chunk_map(digest, size, [(blake3(b"a lie").digest(), length) for length in lengths]))
    pin = Descriptor(store.blobs.publish_bytes(lie), len(lie), "")
    for _ in range(2):
        with pytest.raises(ChunkMapInvalid):
            open_verified(store.blobs, digest, size, pin).run(0, size, 1 << 20)
    assert store.blobs.verify(digest) == size
