"""Partial layers: only verified bytes count, before and after a restart."""

import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

from protocol.chunkmap import ChunkMap, make_chunk_map
from protocol.digest import digest_of
from store import disk
from store.errors import ChunkCorrupt, DiskFull, LayerCorrupt, PartialBusy, PartialIncomplete
from store.models import ModelStore
from store.partial import BITMAP_MAGIC, PartialLayer

VECTORS = Path(__file__).parents[2] / "specs" / "vectors" / "0006-store-layout"
BITMAP_CASES = json.loads((VECTORS / "bitmaps.json").read_text())

CONTENT = hashlib.shake_128(b"layer").digest(1000)
PIECES = [CONTENT[start : start + 100] for start in range(0, 1000, 100)]


def make_map(content: bytes = CONTENT, pieces: list[bytes] = PIECES) -> ChunkMap:
    return make_chunk_map(digest_of(content), len(content), [(blake3(piece).digest(), len(piece)) for piece in pieces])


MAP = make_map()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ModelStore]:
    store = ModelStore(tmp_path)
    yield store
    store.close()


def open_layer(store: ModelStore) -> PartialLayer:
    return PartialLayer.open(store, MAP.blob, MAP.size, MAP)


def leftovers(store: ModelStore) -> list[str]:
    return [path.name for place in (store.layout.downloads, store.layout.temporary) for path in place.iterdir()]


def test_a_layer_arrives_in_any_order(store: ModelStore) -> None:
    layer = open_layer(store)
    for index in reversed(range(10)):
        assert layer.missing() == list(range(index + 1))
        layer.write_chunk(index, PIECES[index])
        assert layer.read_chunk(index) == PIECES[index]
    assert layer.have_bitmap() == b"\xff\xc0"
    assert layer.missing_bytes() == 0
    layer.finish()
    assert store.blobs.read(MAP.blob, 1000) == CONTENT
    assert store.layout.blob_path(MAP.blob).stat().st_mode & 0o777 == 0o444
    assert store.chunks.blobs() == {MAP.blob}
    assert leftovers(store) == []


def test_bits_stand_highest_first(store: ModelStore) -> None:
    with open_layer(store) as layer:
        layer.write_chunk(0, PIECES[0])
        layer.write_chunk(9, PIECES[9])
        assert layer.have_bitmap() == b"\x80\x40"


@pytest.mark.parametrize("data", [b"", PIECES[4], PIECES[3][:-1], PIECES[3] + b"x"])
def test_bytes_that_are_not_the_chunk_are_refused_before_they_are_written(store: ModelStore, data: bytes) -> None:
    with open_layer(store) as layer:
        with pytest.raises(ChunkCorrupt) as caught:
            layer.write_chunk(3, data)
        assert (caught.value.index, caught.value.offset) == (3, 300)
        assert 3 in layer.missing()
        assert store.layout.partial_path(MAP.blob).read_bytes() == bytes(1000)
        with pytest.raises(ChunkCorrupt):
            layer.read_chunk(3)


def test_synced_chunks_are_there_after_a_restart_and_others_are_not(store: ModelStore) -> None:
    with open_layer(store) as layer:
        layer.write_chunk(1, PIECES[1])
        layer.sync()
        layer.write_chunk(2, PIECES[2])
    with open_layer(store) as layer:
        assert layer.missing() == [0, 2, 3, 4, 5, 6, 7, 8, 9]
        assert layer.read_chunk(1) == PIECES[1]


def test_a_layer_that_was_killed_while_it_became_read_only_goes_on(store: ModelStore) -> None:
    with open_layer(store) as layer:
        layer.write_chunk(1, PIECES[1])
        layer.sync()
    store.layout.partial_path(MAP.blob).chmod(0o444)  # the last step before the rename; only root may write to it now
    with open_layer(store) as layer:
        assert layer.read_chunk(1) == PIECES[1]
        with pytest.raises(PartialBusy):
            open_layer(store)
        for index, piece in enumerate(PIECES):
            layer.write_chunk(index, piece)
        layer.finish()
    assert store.blobs.read(MAP.blob, MAP.size) == CONTENT


def test_flagged_chunks_are_hashed_again_after_a_restart(store: ModelStore) -> None:
    with open_layer(store) as layer:
        for index in range(10):
            layer.write_chunk(index, PIECES[index])
        layer.sync()
    with store.layout.partial_path(MAP.blob).open("r+b") as file:
        file.seek(555)
        file.write(b"\xff\xff")
    with open_layer(store) as layer:
        assert layer.missing() == [5]
        with pytest.raises(PartialIncomplete) as caught:
            layer.finish()
        assert caught.value.missing == 1
        layer.write_chunk(5, PIECES[5])
        layer.finish()
    assert store.blobs.read(MAP.blob, 1000) == CONTENT


def test_a_chunk_that_changes_while_it_is_open_counts_as_missing(store: ModelStore) -> None:
    with open_layer(store) as layer:
        layer.write_chunk(0, PIECES[0])
        store.layout.partial_path(MAP.blob).write_bytes(bytes(1000))
        with pytest.raises(ChunkCorrupt):
            layer.read_chunk(0)
        assert 0 in layer.missing()
        assert layer.have_bitmap() == bytes(2)


def test_a_chunk_that_changed_before_the_end_costs_only_itself(store: ModelStore) -> None:
    with open_layer(store) as layer:
        for index in range(10):
            layer.write_chunk(index, PIECES[index])
        with store.layout.partial_path(MAP.blob).open("r+b") as file:
            file.seek(555)
            file.write(b"\xff\xff")
        with pytest.raises(PartialIncomplete):
            layer.finish()
        assert layer.missing() == [5]
        layer.write_chunk(5, PIECES[5])
        layer.finish()
    assert store.blobs.read(MAP.blob, 1000) == CONTENT


def test_a_closed_layer_writes_nowhere(store: ModelStore) -> None:
    layer = open_layer(store)
    layer.close()
    for use in (lambda: layer.write_chunk(0, PIECES[0]), lambda: layer.read_chunk(0), layer.sync):
        with pytest.raises((ValueError, ChunkCorrupt)):
            use()


@pytest.mark.parametrize("case", BITMAP_CASES, ids=lambda case: case["comment"])
def test_bitmap_vectors(store: ModelStore, case: dict[str, Any]) -> None:
    assert case["input"]["chunks"] == len(MAP)
    store.layout.partial_path(MAP.blob).write_bytes(CONTENT)
    store.layout.bitmap_path(MAP.blob).write_bytes(bytes.fromhex(case["input"]["file"]))
    with open_layer(store) as layer:
        assert [index for index in range(10) if index not in layer.missing()] == case["flagged"]


def test_the_bitmap_that_is_written_is_the_one_in_the_spec(store: ModelStore) -> None:
    with open_layer(store) as layer:
        layer.write_chunk(0, PIECES[0])
        layer.write_chunk(9, PIECES[9])
        layer.sync()
    written = store.layout.bitmap_path(MAP.blob).read_bytes()
    assert written.hex() == BITMAP_CASES[0]["input"]["file"]
    assert written.startswith(BITMAP_MAGIC)


def test_a_layer_is_open_in_one_place(store: ModelStore) -> None:
    layer = open_layer(store)
    with pytest.raises(PartialBusy):
        open_layer(store)
    layer.close()
    open_layer(store).close()


def test_a_chunk_map_that_lies_about_the_whole_discards_everything(store: ModelStore) -> None:
    other = digest_of(b"something else")
    lying = make_chunk_map(other, MAP.size, [(chunk.blake3, chunk.length) for chunk in MAP])
    layer = PartialLayer.open(store, other, MAP.size, lying)
    for index, piece in enumerate(PIECES):
        layer.write_chunk(index, piece)
    with pytest.raises(LayerCorrupt) as caught:
        layer.finish()
    assert (caught.value.expected, caught.value.actual) == (other, MAP.blob)
    assert not store.blobs.has(other)
    assert leftovers(store) == []


def test_chunks_of_other_blobs_are_reused(store: ModelStore) -> None:
    pieces = [PIECES[0], b"new" * 10, PIECES[7]]
    content = b"".join(pieces)
    old = make_map(content, pieces)
    store.blobs.publish_bytes(content)
    store.chunks.add(old.blob, old)
    with open_layer(store) as layer:
        assert layer.fill_from_local(store.chunks) == 200
        assert layer.missing() == [1, 2, 3, 4, 5, 6, 8, 9]
        assert layer.read_chunk(7) == PIECES[7]
        assert layer.fill_from_local(store.chunks) == 0


@pytest.mark.parametrize("fate", ["gone", "changed"])
def test_a_place_that_no_longer_holds_is_forgotten(store: ModelStore, fate: str) -> None:
    old = make_map(PIECES[0], [PIECES[0]])
    store.chunks.add(old.blob, old)
    if fate == "changed":
        store.blobs.publish_bytes(PIECES[0])
        path = store.layout.blob_path(old.blob)
        path.chmod(0o644)
        path.write_bytes(PIECES[1])
    with open_layer(store) as layer:
        assert layer.fill_from_local(store.chunks) == 0
    assert store.chunks.blobs() == frozenset()


def test_what_does_not_fit_is_refused_at_the_beginning(store: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "free_bytes", lambda place: disk.SPACE_MARGIN_BYTES + 400)
    with pytest.raises(DiskFull) as caught:
        open_layer(store)
    assert caught.value.missing_bytes == 600
    monkeypatch.undo()
    open_layer(store).close()


def test_threads_write_into_one_layer(store: ModelStore) -> None:
    layer = open_layer(store)
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda index: layer.write_chunk(index, PIECES[index]), [*range(10)] * 3))
    layer.finish()
    assert store.blobs.read(MAP.blob, 1000) == CONTENT


def test_a_layer_of_no_bytes_is_complete_at_once(store: ModelStore) -> None:
    empty = make_map(b"", [])
    with PartialLayer.open(store, empty.blob, 0, empty) as layer:
        assert layer.missing() == []
        layer.finish()
    assert store.blobs.read(empty.blob, 0) == b""


def test_the_map_of_another_layer_is_a_mistake(store: ModelStore) -> None:
    with pytest.raises(ValueError, match="does not map"):
        PartialLayer.open(store, digest_of(b"x"), 1000, MAP)


def test_discarding_leaves_nothing(store: ModelStore) -> None:
    layer = open_layer(store)
    layer.write_chunk(0, PIECES[0])
    layer.sync()
    layer.discard()
    assert leftovers(store) == []
