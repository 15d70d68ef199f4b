"""A log's files, read back: capped, checked for their length, and as a whole against what was signed (specs/0003)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from identity.did import DeviceId, parse_did
from identity.errors import DidInvalid
from protocol.checkpoint import MAX_CHECKPOINT_BYTES, Checkpoint, open_checkpoint
from protocol.errors import CheckpointInvalid, TileInvalid
from protocol.tiles import (
    MAX_ENTRY_BYTES,
    TILE_WIDTH,
    Tile,
    bundle_path,
    decode_bundle,
    grow_tiles,
    hash_reader,
    require_tile,
    spans,
    tile_path,
)
from protocol.tlog import HASH_BYTES, leaf_hash, tree_root
from store.disk import disk_errors, open_regular
from store.errors import LogDamaged

CHECKPOINT_FILE: Final = "checkpoint"
_MAX_BUNDLE_BYTES: Final = TILE_WIDTH * (2 + MAX_ENTRY_BYTES)


@dataclass(frozen=True)
class LogSummary:
    """What a full check of a log found: everything below `root` is present and hashes to it."""

    origin: DeviceId
    size: int
    root: bytes
    checkpoint: bytes


def verify_log(directory: Path, origin: DeviceId | None = None) -> LogSummary:
    """Return the summary of the log in `directory` after reading and hashing all of it; needs no key and no node.

    `origin` is the device whose log it must be; without it the log's own first line is believed, and only the
    signature, the hashes and their completeness are checked.

    Raises:
        LogDamaged: something is missing or does not hash to what was signed.
        DiskFailed: the disk says no.
    """
    note = read_note(directory, CHECKPOINT_FILE)
    if note is None:
        raise LogDamaged(directory, "there is no checkpoint")
    state = open_state(directory, note, origin if origin is not None else _claimed_origin(directory, note))
    leaves = [
        leaf_hash(entry) for index, width in spans(0, state.size) for entry in read_bundle(directory, index, width)
    ]
    tiles = grow_tiles(0, leaves, _no_tile)
    for tile, content in tiles.items():
        if read_tile(directory, tile) != content:
            raise LogDamaged(directory, f"{tile_path(tile)} does not hold the hashes of the entries")
    root = tree_root(state.size, hash_reader(state.size, tiles.__getitem__))
    if root != state.root:
        raise LogDamaged(directory, f"the tiles hash to {root.hex()[:12]}, the checkpoint says {state.root.hex()[:12]}")
    return LogSummary(DeviceId(state.origin), state.size, state.root, note)


def read_note(directory: Path, name: str) -> bytes | None:
    """Return the signed note in the file `name`, or None where there is no such file.

    Raises:
        LogDamaged: it is too long for a checkpoint.
    """
    note = _read(directory / name, MAX_CHECKPOINT_BYTES)
    if note is not None and len(note) > MAX_CHECKPOINT_BYTES:
        raise LogDamaged(directory, f"{name} has more than {MAX_CHECKPOINT_BYTES} bytes")
    return note


def open_state(directory: Path, note: bytes, origin: DeviceId) -> Checkpoint:
    """Return the checkpoint in `note`.

    Raises:
        LogDamaged: it is not by and of `origin`.
    """
    try:
        return open_checkpoint(note, origin)
    except CheckpointInvalid as error:
        raise LogDamaged(directory, str(error)) from error


def read_tile(directory: Path, tile: Tile) -> bytes:
    """Return the content of `tile`.

    Raises:
        LogDamaged: it is missing or of another length.
    """
    path = tile_path(tile)
    try:
        return require_tile(tile, _read_existing(directory, path, tile.width * HASH_BYTES))
    except TileInvalid as error:
        raise LogDamaged(directory, str(error)) from error


def read_bundle(directory: Path, index: int, width: int) -> list[bytes]:
    """Return the `width` entries of bundle `index`.

    Raises:
        LogDamaged: it is missing or broken.
    """
    path = bundle_path(index, width)
    try:
        return decode_bundle(path, _read_existing(directory, path, _MAX_BUNDLE_BYTES), width)
    except TileInvalid as error:
        raise LogDamaged(directory, str(error)) from error


def _read_existing(directory: Path, path: str, max_bytes: int) -> bytes:
    content = _read(directory / path, max_bytes)
    if content is None:
        raise LogDamaged(directory, f"{path} is missing")
    return content


def _read(path: Path, max_bytes: int) -> bytes | None:
    """Return at most one byte more than `max_bytes`, so that the caller sees what is too long."""
    with disk_errors(path):
        try:
            with open_regular(path) as file:
                content = bytearray()
                while len(content) <= max_bytes and (part := file.read(max_bytes + 1 - len(content))):
                    content += part
                return bytes(content)
        except FileNotFoundError:
            return None


def _claimed_origin(directory: Path, note: bytes) -> DeviceId:
    try:
        return parse_did(note.split(b"\n", 1)[0].decode("ascii"))
    except (DidInvalid, UnicodeDecodeError) as error:
        raise LogDamaged(directory, "the checkpoint does not begin with a device's id") from error


def _no_tile(tile: Tile) -> bytes:
    raise AssertionError(f"{tile_path(tile)} was asked for, although the log is read from its beginning")
