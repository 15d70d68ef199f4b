"""Ingest: the blob, its digest, its chunk map and its check come from the same bytes, at every size."""

import io
from pathlib import Path

import numpy as np
import pytest
from blake3 import blake3

from protocol.digest import digest_of
from protocol.manifest import WEIGHT
from store.blobs import PAST_CACHE_FROM_BYTES
from store.cutter import TensorCutter
from store.errors import DiskFull, SourceInvalid, WeightsNotFinite
from store.ingest import BLOCK_BYTES, Ingested, ingest_file
from store.models import ModelStore
from store.safetensors import read_header, write_safetensors

NOISE = np.random.default_rng(5).bytes(1 << 20)


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "store")


def ingest(store: ModelStore, path: Path, size: int | None = None, weights: bool = False) -> Ingested:
    header = read_header(path) if weights else None
    with store.lease() as lease, io.FileIO(path) as source:
        ingested = ingest_file(store.blobs, lease, source, size or path.stat().st_size, path.name, WEIGHT, header)
        assert ingested.blob.digest in lease.digests
    return ingested


def content_of(size: int) -> bytes:
    return (NOISE * (size // len(NOISE) + 1))[:size]


@pytest.mark.parametrize("size", [BLOCK_BYTES - 1, BLOCK_BYTES, 2 * BLOCK_BYTES + 1, PAST_CACHE_FROM_BYTES + 4097])
def test_a_plain_file_is_copied_hashed_and_cut(store: ModelStore, tmp_path: Path, size: int) -> None:
    content = content_of(size)
    (tmp_path / "file").write_bytes(content)
    ingested = ingest(store, tmp_path / "file")
    assert ingested.blob.digest == digest_of(content)
    assert store.layout.blob_path(ingested.blob.digest).read_bytes() == content
    assert ingested.chunk_map
    expected = [(len(chunk), blake3(chunk).digest()) for chunk in TensorCutter([], size).cut(content)]
    assert [(chunk.length, chunk.blake3) for chunk in ingested.chunk_map] == expected


def test_weights_are_cut_at_every_tensor(store: ModelStore, tmp_path: Path) -> None:
    tensors = {f"layers.{n}": ("U8", (700_001,), content_of(700_001)) for n in range(9)}
    write_safetensors(tmp_path / "w.safetensors", tensors)
    ingested = ingest(store, tmp_path / "w.safetensors", weights=True)
    assert ingested.chunk_map
    assert [tensor.name for tensor in ingested.chunk_map.tensors] == sorted(tensors)
    assert len({tensor.hash for tensor in ingested.chunk_map.tensors}) == 1


@pytest.mark.parametrize("place", [0, BLOCK_BYTES // 4, (3 * BLOCK_BYTES) // 4 - 1])
def test_a_weight_that_is_not_finite_is_found_in_every_block(store: ModelStore, tmp_path: Path, place: int) -> None:
    numbers = np.ones(3 * BLOCK_BYTES // 4, np.float32)
    numbers[place] = np.nan
    write_safetensors(tmp_path / "w.safetensors", {"w": ("F32", numbers.shape, numbers.tobytes())})
    with pytest.raises(WeightsNotFinite, match="'w'"):
        ingest(store, tmp_path / "w.safetensors", weights=True)
    assert not list(store.blobs.list())
    assert not list(store.layout.temporary.iterdir())


@pytest.mark.parametrize("off", [-1, 1])
def test_a_file_that_changed_its_size_is_refused(store: ModelStore, tmp_path: Path, off: int) -> None:
    (tmp_path / "file").write_bytes(content_of(3 * BLOCK_BYTES))
    with pytest.raises(SourceInvalid, match="changed while it was read"):
        ingest(store, tmp_path / "file", 3 * BLOCK_BYTES + off)
    assert not list(store.blobs.list())


def test_what_the_writing_thread_meets_reaches_the_caller(
    store: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise DiskFull(tmp_path, 1, 0)

    (tmp_path / "file").write_bytes(content_of(9 * BLOCK_BYTES))
    with store.blobs.writer() as writer:
        monkeypatch.setattr(type(writer), "append", refuse)
    with pytest.raises(DiskFull):
        ingest(store, tmp_path / "file")
    assert not list(store.blobs.list())
    assert not list(store.layout.temporary.iterdir())


def test_a_small_file_has_no_map(store: ModelStore, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"small")
    ingested = ingest(store, tmp_path / "file")
    assert ingested.chunk_map is None
    assert ingested.annotations == {}
