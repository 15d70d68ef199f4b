import base64
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from identity.note import VerifierKey, open_note, parse_verifier_key
from identity.testing import key_from_number
from protocol.checkpoint import parse_checkpoint
from protocol.errors import EntryTooLarge, TileInvalid
from protocol.testing import MemoryLog
from protocol.tiles import (
    Tile,
    bundle_path,
    decode_bundle,
    encode_bundle,
    grow_tiles,
    hash_reader,
    require_tile,
    spans,
    tile_path,
    tiles_of,
)
from protocol.tlog import check_consistency, check_inclusion, leaf_hash, prove_consistency, prove_inclusion, tree_root

VECTORS = Path(__file__).parents[2] / "specs" / "vectors" / "0003-log"
PATHS = json.loads((VECTORS / "paths.json").read_text())
TESSERA = json.loads((VECTORS / "tessera-log.json").read_text())


@pytest.mark.parametrize("case", PATHS, ids=lambda case: case["comment"])
def test_path_vectors(case: dict[str, Any]) -> None:
    level, index, width = case["input"]["level"], case["input"]["index"], case["input"]["width"]
    path = bundle_path(index, width) if level == "entries" else tile_path(Tile(level, index, width))
    assert path == case["output"]["path"]


@pytest.mark.parametrize("case", TESSERA, ids=lambda case: case["input"]["folder"])
def test_a_log_that_another_project_wrote(case: dict[str, Any]) -> None:
    folder = VECTORS / case["input"]["folder"]
    key = parse_verifier_key(case["input"]["verifier_key"])
    states = []
    for size in case["input"]["sizes"]:
        checkpoint = foreign_checkpoint((folder / f"checkpoint.{size}").read_bytes(), key)
        assert checkpoint[0] == size
        states.append(checkpoint[1])
    last = len(states) - 1
    assert states[last] == base64.b64decode(case["output"]["root"])
    assert foreign_checkpoint((folder / "checkpoint").read_bytes(), key) == (last, states[last])

    def read_tile(tile: Tile) -> bytes:
        return require_tile(tile, (folder / tile_path(tile)).read_bytes())

    for size in range(1, last + 1):
        reader = hash_reader(size, read_tile)
        assert tree_root(size, reader) == states[size]
        entries = decode_bundle("", (folder / bundle_path(0, size)).read_bytes(), size)
        assert grow_tiles(0, [leaf_hash(entry) for entry in entries], _none) == {
            tile: read_tile(tile) for tile in tiles_of(size)
        }
        for index, entry in enumerate(entries):
            proof = prove_inclusion(index, size, reader)
            check_inclusion(leaf_hash(entry), index, size, proof, states[size])
        for old in range(1, size):
            check_consistency(old, states[old], size, states[size], prove_consistency(old, size, reader))


def foreign_checkpoint(note: bytes, key: VerifierKey) -> tuple[int, bytes]:
    checkpoint = parse_checkpoint(open_note(note, [key]).text)
    assert checkpoint.origin == key.name
    return checkpoint.size, checkpoint.root


def _none(tile: Tile) -> bytes:
    raise AssertionError(tile)


@pytest.mark.parametrize("steps", [[1] * 20, [255, 1, 1], [256, 256, 1], [257], [1000, 1], [3, 600, 200, 453]])
def test_growth_in_steps_gives_the_tiles_of_growth_at_once(steps: list[int]) -> None:
    total = sum(steps)
    leaves = [leaf_hash(b"%d" % n) for n in range(total)]
    stored: dict[Tile, bytes] = {}
    size = 0
    for step in steps:
        stored |= grow_tiles(size, leaves[size : size + step], stored.__getitem__)
        size += step
    at_once = grow_tiles(0, leaves, _none)
    assert {tile: stored[tile] for tile in tiles_of(total)} == at_once
    assert set(tiles_of(total)) == set(at_once)
    log = MemoryLog(key_from_number(1), [b"%d" % n for n in range(total)])
    assert tree_root(total, hash_reader(total, stored.__getitem__)) == log.root()


def test_two_levels_of_tiles() -> None:
    size = 256 * 256 + 1
    tiles = {tile: bytes(32 * tile.width) for tile in tiles_of(size)}
    assert sorted({(tile.level, tile.width) for tile in tiles}) == [(0, 1), (0, 256), (1, 256), (2, 1)]
    grown = grow_tiles(size - 1, [b"x" * 32], tiles.__getitem__)
    assert set(grown) == {Tile(0, 256, 1)}
    grown = grow_tiles(size - 2, [b"x" * 32, b"y" * 32], lambda tile: bytes(32 * tile.width))
    assert set(grown) == {Tile(0, 255, 256), Tile(0, 256, 1), Tile(1, 0, 256), Tile(2, 0, 1)}


def test_spans() -> None:
    assert list(spans(0, 0)) == []
    assert list(spans(5, 5)) == []
    assert list(spans(0, 256)) == [(0, 256)]
    assert list(spans(255, 257)) == [(0, 256), (1, 1)]
    assert list(spans(300, 301)) == [(1, 45)]


@given(st.lists(st.binary(max_size=40), max_size=20))
def test_bundles_round_trip(entries: list[bytes]) -> None:
    assert decode_bundle("b", encode_bundle(entries), len(entries)) == entries


@given(st.binary(max_size=60), st.integers(0, 5))
@settings(max_examples=300)
def test_only_named_errors_leave_a_bundle(content: bytes, width: int) -> None:
    try:
        assert encode_bundle(decode_bundle("b", content, width)) == content
    except TileInvalid:
        return


def test_an_entry_has_a_largest_size() -> None:
    assert decode_bundle("b", encode_bundle([bytes(65_535)]), 1) == [bytes(65_535)]
    with pytest.raises(EntryTooLarge):
        encode_bundle([b"", bytes(65_536)])


@pytest.mark.parametrize("content", [b"", b"\0", b"\0\1", b"\0\1aa", b"\0\1a\0\1b", b"\0\1a\0"])
def test_a_bundle_of_another_width_is_refused(content: bytes) -> None:
    with pytest.raises(TileInvalid):
        decode_bundle("b", content, 1)


def test_a_tile_has_its_length() -> None:
    with pytest.raises(TileInvalid):
        require_tile(Tile(0, 0, 2), bytes(63))
