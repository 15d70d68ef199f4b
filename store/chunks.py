"""The chunk index: which blob holds the bytes with a given BLAKE3 hash. Derived: a damaged one is made anew."""

import sqlite3
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from protocol.chunkmap import ChunkMap
from protocol.digest import Digest

T = TypeVar("T")

SCHEMA_VERSION: Final = 1
_DAMAGE: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR})
_SCHEMA: Final = f"""
CREATE TABLE blobs (id INTEGER PRIMARY KEY, digest TEXT NOT NULL UNIQUE);
CREATE TABLE chunks (
    hash BLOB NOT NULL, blob INTEGER NOT NULL, offset INTEGER NOT NULL, length INTEGER NOT NULL,
    PRIMARY KEY (hash, blob, offset)
) WITHOUT ROWID;
CREATE INDEX chunks_of_blob ON chunks (blob);
PRAGMA user_version = {SCHEMA_VERSION};
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
        self._path = path
        self._lock = threading.Lock()
        self._connection = self._open()

    def add(self, blob: Digest, chunk_map: ChunkMap) -> None:
        """Remember the chunks of `blob`, which is in the store whole."""
        rows = ((chunk.blake3, chunk.offset, chunk.length) for chunk in chunk_map)
        self._run(lambda connection: _insert(connection, blob, rows))

    def find(self, blake3: bytes) -> ChunkPlace | None:
        """Return one place of the chunk with this BLAKE3 hash, or None."""
        query = "SELECT digest, offset, length FROM chunks JOIN blobs ON blobs.id = chunks.blob WHERE hash = ? LIMIT 1"
        row = self._run(lambda connection: connection.execute(query, (blake3,)).fetchone())
        return ChunkPlace(Digest(row[0]), row[1], row[2]) if row else None

    def remove(self, blob: Digest) -> None:
        """Forget the chunks of `blob`."""
        self._run(lambda connection: _remove(connection, blob))

    def blobs(self) -> frozenset[Digest]:
        """Return the blobs whose chunks are known."""
        rows = self._run(lambda connection: connection.execute("SELECT digest FROM blobs").fetchall()) or ()
        return frozenset(Digest(digest) for (digest,) in rows)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    def _run(self, work: Callable[[sqlite3.Connection], T]) -> T | None:
        """Return what `work` finds; None where the index fails, because that costs reuse and never a model."""
        with self._lock:
            try:
                with self._connection:
                    return work(self._connection)
            except sqlite3.ProgrammingError:
                raise  # our own fault, such as use after close
            except sqlite3.DatabaseError as error:
                if _is_damaged(error):
                    self._connection.close()
                    self._connection = self._remake()
                return None

    def _open(self) -> sqlite3.Connection:
        try:
            connection = self._connect()
            version = connection.execute("PRAGMA user_version").fetchone()[0]
        except sqlite3.DatabaseError as error:
            return self._remake() if _is_damaged(error) else _in_memory()
        if version == SCHEMA_VERSION:
            return connection
        connection.close()
        return self._remake()

    def _remake(self) -> sqlite3.Connection:
        try:
            for suffix in ("", "-wal", "-shm"):
                self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
            connection = self._connect()
            connection.executescript(_SCHEMA)
        except (sqlite3.DatabaseError, OSError):
            return _in_memory()
        return connection

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, check_same_thread=False)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        return connection


def _is_damaged(error: sqlite3.DatabaseError) -> bool:
    """Return whether the file itself is at fault, and not a full disk or another process that holds it."""
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK) & 0xFF in _DAMAGE


def _in_memory() -> sqlite3.Connection:
    """Return an index for this process only, where the disk takes none."""
    connection = sqlite3.connect(":memory:", check_same_thread=False)
    connection.executescript(_SCHEMA)
    return connection


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
