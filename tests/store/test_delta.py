"""Deltas in a store: the target's own bytes come out, or nothing at all, in little memory."""

import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zstandard

from protocol.delta import (
    MAX_REGIONS,
    DeltaHeader,
    Region,
    decode_delta_header,
    delta_header_bytes,
    encode_delta_header,
)
from protocol.digest import Digest, digest_of
from protocol.errors import DeltaInvalid
from protocol.manifest import WEIGHT, Layer
from store.delta import apply_delta, delta_limit, make_delta
from store.errors import BlobMissing, DiskFull, LayerCorrupt
from store.ingest import Ingested, ingest_file
from store.models import ModelStore
from store.safetensors import read_header, write_safetensors

Tensors = dict[str, tuple[str, tuple[int, ...], bytes]]


def bf16(values: np.ndarray) -> bytes:
    bits = values.astype(np.float32).view(np.uint32)
    return bytes(((bits + 0x8000) >> 16).astype("<u2").tobytes())


def weights(sigma: float, blocks: int = 4) -> Tensors:
    """The same little model, every weight of it moved by noise of `sigma`."""
    base, moved = np.random.default_rng(1), np.random.default_rng(2)
    tensors: Tensors = {}
    for block in range(blocks):
        values = 0.02 * base.standard_normal((256, 512)) + sigma * moved.standard_normal((256, 512))
        tensors[f"layers.{block}.weight"] = ("BF16", (256, 512), bf16(values))
    return tensors


def ingest(store: ModelStore, path: Path, tensors: Tensors) -> Ingested:
    write_safetensors(path, tensors, {"format": "mlx"})
    with store.lease() as lease, path.open("rb", buffering=0) as file:
        return ingest_file(store.blobs, lease, file, path.stat().st_size, path.name, WEIGHT, read_header(path))


def layer_of(ingested: Ingested) -> Layer:
    return Layer(ingested.blob.digest, ingested.blob.size, WEIGHT, "model.safetensors", ingested.annotations)


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "store")


def pair(store: ModelStore, tmp_path: Path, new: Tensors, old: Tensors | None = None) -> tuple[Digest, Layer]:
    """The base, and the target of which only the chunk map is left."""
    base = ingest(store, tmp_path / "old.safetensors", old or weights(0))
    return base.blob.digest, layer_of(ingest(store, tmp_path / "new.safetensors", new))


def changed_delta(store: ModelStore, delta: Digest, change: bytes, at: int) -> Digest:
    content = bytearray(store.blobs.read(delta, 1 << 24))
    content[at : at + len(change)] = change
    return store.blobs.publish_bytes(bytes(content))


@pytest.mark.parametrize(("sigma", "most"), [(5e-6, 0.11), (2e-5, 0.20), (1e-4, 0.32)])
def test_a_full_fine_tune_moves_a_fraction(store: ModelStore, tmp_path: Path, sigma: float, most: float) -> None:
    base, target = pair(store, tmp_path, weights(sigma))
    with store.lease() as lease:
        delta = make_delta(store, base, target.digest, lease)
        assert delta is not None
        assert delta in lease.digests
        assert store.blobs.size(delta) / target.size < most
        store.blobs.delete(target.digest)
        apply_delta(store, delta, base, target)
    assert store.blobs.verify(target.digest) == target.size
    chunk_map = store.chunk_map(target)
    assert chunk_map
    place = store.chunks.find(chunk_map.chunk(len(chunk_map) - 1).blake3)
    assert place is not None
    assert place.blob == target.digest


def test_the_same_two_blobs_give_the_same_delta(store: ModelStore, tmp_path: Path) -> None:
    base, target = pair(store, tmp_path, weights(2e-5))
    with store.lease() as lease:
        first = make_delta(store, base, target.digest, lease)
        assert first == make_delta(store, base, target.digest, lease)


def test_tensors_that_came_went_moved_grew_or_changed_their_type(store: ModelStore, tmp_path: Path) -> None:
    old: Tensors = {**weights(0), "z.vocabulary": weights(0)["layers.0.weight"], "gone": ("U8", (3,), b"abc")}
    kind, shape, content = old["z.vocabulary"]
    new: Tensors = {
        "a.first": ("U8", (5,), b"12345"),
        **weights(2e-5),
        "layers.1.weight": ("F16", shape, content),
        "layers.2.weight": (kind, (512, 256), content),
        "z.vocabulary": (kind, (320, 512), content + bytes(64 * 512 * 2)),
        "zz.scalar": ("F32", (), bytes(4)),
    }
    base, target = pair(store, tmp_path, new, old)
    with store.lease() as lease:
        delta = make_delta(store, base, target.digest, lease)
        assert delta is not None
        header_size = delta_header_bytes(store.blobs.read(delta, 1 << 24))
        header = decode_delta_header(store.blobs.read(delta, 1 << 24)[:header_size])
        known = [region.length for region in header.regions if region.base_offset is not None]
        assert sum(known) == 2 * 256 * 512 * 2 + len(content)
        store.blobs.delete(target.digest)
        apply_delta(store, delta, base, target)
    assert store.blobs.verify(target.digest) == target.size


def test_it_is_not_made_where_it_is_not_worth_it(store: ModelStore, tmp_path: Path) -> None:
    base, target = pair(store, tmp_path, weights(2e-5))
    text = store.blobs.publish_bytes(b"no safetensors")
    other = ingest(store, tmp_path / "other", {"other": ("U8", (4,), b"abcd")}).blob.digest
    noise = bf16(0.02 * np.random.default_rng(3).standard_normal(1 << 19))
    unlike = ingest(store, tmp_path / "unlike", {"layers.0.weight": ("BF16", (1024, 512), noise)}).blob.digest
    before = set(store.blobs.list())
    with store.lease() as lease:
        assert make_delta(store, base, text, lease) is None
        assert make_delta(store, text, target.digest, lease) is None
        assert make_delta(store, base, other, lease) is None
        assert make_delta(store, base, unlike, lease) is None
        assert make_delta(store, base, target.digest, lease, max_bytes=1000) is None
        assert not lease.digests
    assert set(store.blobs.list()) == before
    assert not list(store.layout.temporary.iterdir())


def test_it_is_not_made_from_a_blob_that_changed(store: ModelStore, tmp_path: Path) -> None:
    base, target = pair(store, tmp_path, weights(2e-5))
    damage(store, base)
    with store.lease() as lease, pytest.raises(LayerCorrupt):
        make_delta(store, base, target.digest, lease)
    with store.lease() as lease, pytest.raises(BlobMissing):
        make_delta(store, base, target.digest, lease)


def test_the_limit_is_half_of_the_chunks_that_are_lacking(store: ModelStore, tmp_path: Path) -> None:
    one = ingest(store, tmp_path / "one", weights(0)).chunk_map
    other = ingest(store, tmp_path / "other", {**weights(0), "more": ("U8", (300_000,), bytes(300_000))}).chunk_map
    assert one
    assert other
    assert delta_limit(one, one) == 0
    assert 300_000 / 2 - (128 << 10) < delta_limit(one, other) < 310_000 / 2


def damage(store: ModelStore, digest: Digest) -> None:
    path = store.layout.blob_path(digest)
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.seek(-10, 2)
        file.write(b"x")


@pytest.fixture
def made(store: ModelStore, tmp_path: Path) -> tuple[Digest, Digest, Layer]:
    base, target = pair(store, tmp_path, weights(2e-5))
    with store.lease() as lease:
        delta = make_delta(store, base, target.digest, lease)
    assert delta is not None
    store.blobs.delete(target.digest)
    return delta, base, target


def refused(store: ModelStore, delta: Digest, base: Digest, target: Layer, match: str) -> None:
    before = set(store.blobs.list())
    with pytest.raises(DeltaInvalid, match=match):
        apply_delta(store, delta, base, target)
    assert set(store.blobs.list()) == before
    assert not list(store.layout.temporary.iterdir())


def test_a_delta_from_or_to_another_blob_is_refused(store: ModelStore, made: tuple[Digest, Digest, Layer]) -> None:
    delta, base, target = made
    other = store.blobs.publish_bytes(b"another base")
    refused(store, delta, other, target, "from ")
    refused(store, delta, base, replace(target, digest=digest_of(b"another")), "to ")
    refused(store, delta, base, replace(target, size=target.size + 1), "to ")


def test_a_delta_that_was_cut_or_grew_is_refused(store: ModelStore, made: tuple[Digest, Digest, Layer]) -> None:
    delta, base, target = made
    content = store.blobs.read(delta, 1 << 24)
    for size in (0, 50, 96, 130, len(content) // 2, len(content) - 1):
        refused(store, store.blobs.publish_bytes(content[:size]), base, target, "cut off|expected")
    refused(store, store.blobs.publish_bytes(content + b"x"), base, target, "after the last frame")


def test_a_delta_with_another_output_is_refused(store: ModelStore, made: tuple[Digest, Digest, Layer]) -> None:
    delta, base, target = made
    content = store.blobs.read(delta, 1 << 24)
    start = delta_header_bytes(content)
    header = decode_delta_header(content[:start])
    length = int.from_bytes(content[start : start + 4], "big")
    frame = zstandard.ZstdCompressor().compress(bytes(header.regions[0].length))
    other = content[:start] + len(frame).to_bytes(4, "big") + frame + content[start + 4 + length :]
    refused(store, store.blobs.publish_bytes(other), base, target, "output: hashes to")


def test_regions_that_lie_outside_the_base_are_refused(store: ModelStore, made: tuple[Digest, Digest, Layer]) -> None:
    delta, base, target = made
    place = 96 + 24 + 8
    refused(
        store, changed_delta(store, delta, struct.pack(">Q", store.blobs.size(base)), place), base, target, "outside"
    )
    refused(store, changed_delta(store, delta, b"\xff" * 8, place), base, target, "outside")


def test_a_bomb_is_refused_before_it_is_unpacked(store: ModelStore, made: tuple[Digest, Digest, Layer]) -> None:
    _, base, target = made
    header = DeltaHeader(base, store.blobs.size(base), target.digest, target.size, (Region(target.size, 1, None),))
    bomb = zstandard.ZstdCompressor().compress(bytes(64 << 20))
    content = encode_delta_header(header) + len(bomb).to_bytes(4, "big") + bomb
    refused(store, store.blobs.publish_bytes(content), base, target, "says 67108864 bytes")


def test_a_base_that_changed_on_the_disk_is_at_fault_itself(
    store: ModelStore, made: tuple[Digest, Digest, Layer]
) -> None:
    delta, base, target = made
    damage(store, base)
    with pytest.raises(LayerCorrupt) as caught:
        apply_delta(store, delta, base, target)
    assert caught.value.expected == base
    assert not store.blobs.has(target.digest)


def test_what_does_not_fit_on_the_disk_is_not_begun(store: ModelStore, made: tuple[Digest, Digest, Layer]) -> None:
    delta, base, target = made
    header = encode_delta_header(
        DeltaHeader(base, store.blobs.size(base), target.digest, 1 << 50, (Region(1 << 50, 1, None),))
    )
    with pytest.raises(DiskFull):
        apply_delta(store, store.blobs.publish_bytes(header), base, replace(target, size=1 << 50))
    apply_delta(store, delta, base, target)


MEMORY = """
import sys
from pathlib import Path
from protocol.manifest import WEIGHT, Layer
from protocol.errors import DeltaInvalid
from store.delta import apply_delta
from store.models import ModelStore
store = ModelStore(Path(sys.argv[1]))
def peak(): return next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("VmHWM"))
before = peak()
try:
    apply_delta(store, sys.argv[2], sys.argv[3], Layer(sys.argv[4], int(sys.argv[5]), WEIGHT, "x"))
except DeltaInvalid as error:
    print(error, file=sys.stderr)
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
@pytest.mark.platform
def test_the_worst_delta_takes_less_than_64_mib(store: ModelStore) -> None:
    """65,537 regions, full blocks of a target of 32 MiB that compresses to nothing, and the wrong digest."""
    base = store.blobs.publish_bytes(b"base")
    regions = (Region(32 << 20, 8, None), *(Region(1, 1, 0) for _ in range(MAX_REGIONS - 1)))
    size = sum(region.length for region in regions)
    header = DeltaHeader(base, 4, digest_of(b"target"), size, regions)
    full, small = (zstandard.ZstdCompressor().compress(bytes(count)) for count in (1 << 20, 1))
    frames = [full] * 32 + [small] * (MAX_REGIONS - 1)
    delta = store.blobs.publish_bytes(
        encode_delta_header(header) + b"".join(len(frame).to_bytes(4, "big") + frame for frame in frames)
    )
    arguments = [str(store.layout.root), delta, base, digest_of(b"target"), str(size)]
    done = subprocess.run([sys.executable, "-c", MEMORY, *arguments], capture_output=True, text=True, check=True)
    assert "hashes to" in done.stderr
    assert 1 << 20 < int(done.stdout) * 1024 < 64 << 20
