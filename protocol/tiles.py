"""The geometry of a log on disk: tiles of 256 hashes and entry bundles of 256 entries (C2SP tlog-tiles, specs/0003)."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from protocol.errors import EntryTooLarge, TileInvalid
from protocol.tlog import HASH_BYTES, HashReader, node_hash

TILE_LEVELS: Final = 8
TILE_WIDTH: Final = 1 << TILE_LEVELS
MAX_ENTRY_BYTES: Final = 65_535
_LENGTH_BYTES: Final = 2


@dataclass(frozen=True, order=True)
class Tile:
    """`width` consecutive hashes of tree level 8·level, from number 256·index on; full at 256."""

    level: int
    index: int
    width: int


TileReader = Callable[[Tile], bytes]


def tile_path(tile: Tile) -> str:
    """Return the tile's path, `tile/<level>/<index>[.p/<width>]`."""
    return f"tile/{tile.level}/{_number_path(tile.index)}{_partial_suffix(tile.width)}"


def bundle_path(index: int, width: int) -> str:
    """Return the path of an entry bundle, `tile/entries/<index>[.p/<width>]`."""
    return f"tile/entries/{_number_path(index)}{_partial_suffix(width)}"


def tiles_of(size: int) -> Iterator[Tile]:
    """Yield every tile of a log of `size` entries, level by level."""
    level, count = 0, size
    while count:
        yield from (Tile(level, index, width) for index, width in spans(0, count))
        level, count = level + 1, count >> TILE_LEVELS


def spans(start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Yield (index, width) of each group of 256 that the items [start, stop) touch, as wide as it is at `stop`."""
    if start == stop:
        return
    for index in range(start // TILE_WIDTH, (stop - 1) // TILE_WIDTH + 1):
        yield index, min(TILE_WIDTH, stop - index * TILE_WIDTH)


def grow_tiles(old_size: int, leaves: Sequence[bytes], read_tile: TileReader) -> dict[Tile, bytes]:
    """Return the new contents of every tile that changes when `leaves` follow a log of `old_size` entries.

    `read_tile` is asked for at most one partial tile a level, as it is at `old_size`.
    """
    grown: dict[Tile, bytes] = {}
    level, start, hashes = 0, old_size, list(leaves)
    while hashes:
        completed = []
        kept = start % TILE_WIDTH
        if kept:
            hashes = split_hashes(read_tile(Tile(level, start // TILE_WIDTH, kept))) + hashes
        first = start // TILE_WIDTH
        for index, width in spans(first * TILE_WIDTH, first * TILE_WIDTH + len(hashes)):
            part = hashes[(index - first) * TILE_WIDTH :][:width]
            grown[Tile(level, index, width)] = b"".join(part)
            if width == TILE_WIDTH:
                completed.append(subtree_hash(part))
        level, start, hashes = level + 1, start >> TILE_LEVELS, completed
    return grown


def hash_reader(size: int, read_tile: TileReader) -> HashReader:
    """Return a reader of subtree hashes over the tiles of a log of `size` entries."""

    def read(level: int, index: int) -> bytes:
        tile_level, inner = divmod(level, TILE_LEVELS)
        count = size >> (tile_level * TILE_LEVELS)
        first = index << inner
        tile_index, start = divmod(first, TILE_WIDTH)
        tile = Tile(tile_level, tile_index, min(TILE_WIDTH, count - tile_index * TILE_WIDTH))
        content = read_tile(tile)
        part = content[start * HASH_BYTES : (start + (1 << inner)) * HASH_BYTES]
        return subtree_hash(split_hashes(part))

    return read


def subtree_hash(hashes: Sequence[bytes]) -> bytes:
    """Return the root of a complete subtree over `hashes`, whose number is a power of two."""
    level = list(hashes)
    while len(level) > 1:
        level = [node_hash(level[i], level[i + 1]) for i in range(0, len(level), 2)]
    return level[0]


def split_hashes(content: bytes) -> list[bytes]:
    """Return the 32-byte hashes that `content` is made of."""
    return [content[at : at + HASH_BYTES] for at in range(0, len(content), HASH_BYTES)]


def require_tile(tile: Tile, content: bytes) -> bytes:
    """Return `content` if it has the length of `tile`.

    Raises:
        TileInvalid: it has another length.
    """
    if len(content) != tile.width * HASH_BYTES:
        raise TileInvalid(tile_path(tile), f"{len(content)} bytes, expected {tile.width * HASH_BYTES}")
    return content


def encode_bundle(entries: Sequence[bytes]) -> bytes:
    """Return `entries` one after the other, each after its length as a 16-bit big-endian number.

    Raises:
        EntryTooLarge: an entry has more than 65,535 bytes.
    """
    for entry in entries:
        if len(entry) > MAX_ENTRY_BYTES:
            raise EntryTooLarge(len(entry))
    return b"".join(len(entry).to_bytes(_LENGTH_BYTES, "big") + entry for entry in entries)


def decode_bundle(path: str, content: bytes, width: int) -> list[bytes]:
    """Return the `width` entries of a bundle; `path` names it in errors.

    Raises:
        TileInvalid: truncated, or another number of entries.
    """
    entries, at = list[bytes](), 0
    while at < len(content) and len(entries) < width:
        start = at + _LENGTH_BYTES
        at = start + int.from_bytes(content[at:start], "big")
        if at > len(content) or start > len(content):
            raise TileInvalid(path, f"ends in the middle of entry {len(entries)} of {width}")
        entries.append(content[start:at])
    if len(entries) != width or at != len(content):
        raise TileInvalid(path, f"expected {width} entries, found {len(entries)} in {at} of {len(content)} bytes")
    return entries


def _number_path(number: int) -> str:
    """Return `number` in groups of three digits, all but the last after an x: 1234067 → x001/x234/067."""
    groups = [f"{number % 1000:03d}"]
    while number := number // 1000:
        groups.append(f"x{number % 1000:03d}")
    return "/".join(reversed(groups))


def _partial_suffix(width: int) -> str:
    return "" if width == TILE_WIDTH else f".p/{width}"
