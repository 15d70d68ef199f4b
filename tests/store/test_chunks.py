"""The chunk index: finds, forgets, and starts anew when its file is damaged."""

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from blake3 import blake3

from protocol.chunkmap import ChunkMap, make_chunk_map
from protocol.digest import digest_of
from store.chunks import ChunkIndex, ChunkPlace

PIECES = [b"a" * 10, b"b" * 20, b"a" * 10]


def _map(pieces: list[bytes]) -> ChunkMap:
    content = b"".join(pieces)
    return make_chunk_map(digest_of(content), len(content), [(blake3(piece).digest(), len(piece)) for piece in pieces])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "chunks.sqlite"


def test_chunks_are_found_until_their_blob_is_forgotten(path: Path) -> None:
    index, first, second = ChunkIndex(path), _map(PIECES), _map([b"a" * 10, b"c"])
    index.add(first.blob, first)
    index.add(first.blob, first)
    index.add(second.blob, second)
    assert index.find(blake3(b"b" * 20).digest()) == ChunkPlace(first.blob, 10, 20)
    assert index.find(blake3(b"nothing").digest()) is None
    assert index.blobs() == {first.blob, second.blob}
    index.remove(first.blob)
    assert index.find(blake3(b"b" * 20).digest()) is None
    assert index.find(blake3(b"a" * 10).digest()) == ChunkPlace(second.blob, 0, 10)
    index.close()


def test_what_was_added_outlives_the_process(path: Path) -> None:
    index, chunk_map = ChunkIndex(path), _map(PIECES)
    index.add(chunk_map.blob, chunk_map)
    index.close()
    reopened = ChunkIndex(path)
    assert reopened.blobs() == {chunk_map.blob}
    reopened.close()


def test_a_damaged_file_is_made_anew(path: Path) -> None:
    path.write_bytes(b"this is no database" * 1000)
    index, chunk_map = ChunkIndex(path), _map(PIECES)
    assert index.blobs() == frozenset()
    index.add(chunk_map.blob, chunk_map)
    assert index.find(blake3(b"b" * 20).digest()) is not None
    index.close()


def test_a_file_of_another_version_is_made_anew(path: Path) -> None:
    index, chunk_map = ChunkIndex(path), _map(PIECES)
    index.add(chunk_map.blob, chunk_map)
    index.close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    reopened = ChunkIndex(path)
    assert reopened.blobs() == frozenset()
    reopened.close()


def test_damage_that_shows_later_costs_only_reuse(path: Path) -> None:
    index, chunk_map = ChunkIndex(path), _map(PIECES)
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TABLE chunks")
    connection.close()
    assert index.find(blake3(b"b" * 20).digest()) is None
    index.add(chunk_map.blob, chunk_map)
    assert index.find(blake3(b"b" * 20).digest()) == ChunkPlace(chunk_map.blob, 10, 20)
    index.close()


def test_another_process_that_holds_it_costs_only_reuse(path: Path) -> None:
    index, chunk_map = ChunkIndex(path), _map(PIECES)
    index._rows.connection.execute("PRAGMA busy_timeout = 1")
    with sqlite3.connect(path) as holder:
        holder.execute("BEGIN IMMEDIATE")
        index.add(chunk_map.blob, chunk_map)
        assert index.find(blake3(b"b" * 20).digest()) is None
    holder.close()
    index.add(chunk_map.blob, chunk_map)
    assert index.find(blake3(b"b" * 20).digest()) is not None
    index.close()


def test_without_a_place_on_the_disk_it_works_in_memory(tmp_path: Path) -> None:
    index, chunk_map = ChunkIndex(tmp_path / "none" / "chunks.sqlite"), _map(PIECES)
    index.add(chunk_map.blob, chunk_map)
    assert index.blobs() == {chunk_map.blob}
    index.close()


def test_use_after_close_is_our_own_fault(path: Path) -> None:
    index = ChunkIndex(path)
    index.close()
    with pytest.raises(sqlite3.ProgrammingError):
        index.find(bytes(32))


def test_threads_share_it(path: Path) -> None:
    index = ChunkIndex(path)
    maps = [_map([bytes([number]) * 5, b"shared"]) for number in range(20)]
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda chunk_map: index.add(chunk_map.blob, chunk_map), maps))
        found = list(threads.map(lambda chunk_map: index.find(chunk_map.chunk(0).blake3), maps))
    assert [place.blob for place in found if place] == [chunk_map.blob for chunk_map in maps]
    index.close()
