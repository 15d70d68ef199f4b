"""The chunk index: which blob holds the bytes with a given BLAKE3 hash. Derived: a damaged one is made anew."""

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from protocol.chunkmap import ChunkMap
from protocol.digest import Digest
from store.derived import DerivedDatabase

SCHEMA_VERSION: Final = 1
_SCHEMA: Final = """
CREATE TABLE blobs (id INTEGER PRIMARY KEY, digest TEXT NOT NULL UNIQUE);
CREATE TABLE chunks (
    hash BLOB NOT NULL, blob INTEGER NOT NULL, offset INTEGER NOT NULL, length INTEGER NOT NULL,
    PRIMARY KEY (hash, blob, offset)
) WITHOUT ROWID;
CREATE INDEX chunks_of_blob ON chunks (blob);
"""


@dataclass(frozen=True)
class ChunkPlace:
    """Where a chunk's bytes lie in a whole blob. They are hashed again before use: blobs come and go."""

    blob: Digest
    offset: int
    length: int


class ChunkIndex:
    """The chunks of every mapped blob, in plain SQLite at `path`; for use from any thread.

    It never fails: a damaged file is made anew, and where the disk takes none the index is kept in memory.
    """

    def __init__(self, path: Path) -> None:
        self._rows = DerivedDatabase(path, _SCHEMA, SCHEMA_VERSION)

    def add(self, blob: Digest, chunk_map: ChunkMap) -> None:
        """Remember the chunks of `blob`, which is in the store whole."""
        rows = ((chunk.blake3, chunk.offset, chunk.length) for chunk in chunk_map)
        self._rows.run(lambda connection: _insert(connection, blob, rows))

    def find(self, blake3: bytes) -> ChunkPlace | None:
        """Return one place of the chunk with this BLAKE3 hash, or None."""
        query = "SELECT digest, offset, length FROM chunks JOIN blobs ON blobs.id = chunks.blob WHERE hash = ? LIMIT 1"
        row = self._rows.run(lambda connection: connection.execute(query, (blake3,)).fetchone())
        return ChunkPlace(Digest(row[0]), row[1], row[2]) if row else None

    def remove(self, blob: Digest) -> None:
        """Forget the chunks of `blob`."""
        self._rows.run(lambda connection: _remove(connection, blob))

    def blobs(self) -> frozenset[Digest]:
        """Return the blobs whose chunks are known."""
        rows = self._rows.run(lambda connection: connection.execute("SELECT digest FROM blobs").fetchall()) or ()
        return frozenset(Digest(digest) for (digest,) in rows)

    def close(self) -> None:
        """Close the file."""
        self._rows.close()


def _insert(connection: sqlite3.Connection, blob: Digest, rows: Iterable[tuple[bytes, int, int]]) -> None:
    known = connection.execute("INSERT OR IGNORE INTO blobs (digest) VALUES (?)", (blob,)).rowcount == 0
    if known:
        return
    (number,) = connection.execute("SELECT id FROM blobs WHERE digest = ?", (blob,)).fetchone()
    query = "INSERT INTO chunks (hash, blob, offset, length) VALUES (?, ?, ?, ?)"
    connection.executemany(query, ((blake3, number, offset, length) for blake3, offset, length in rows))


def _remove(connection: sqlite3.Connection, blob: Digest) -> None:
    connection.execute("DELETE FROM chunks WHERE blob = (SELECT id FROM blobs WHERE digest = ?)", (blob,))
    connection.execute("DELETE FROM blobs WHERE digest = ?", (blob,))
