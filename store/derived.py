"""Plain SQLite files that are derived from the store: damaged ones are made anew, and their absence costs only time."""

import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

T = TypeVar("T")

_DAMAGE: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR})


class DerivedDatabase:
    """One file at `path` with the tables of `schema`; for use from any thread.

    It never fails: a damaged file or one of another version is made anew, and where the disk takes none the tables are
    kept in memory.
    """

    def __init__(self, path: Path, schema: str, version: int) -> None:
        self._path = path
        self._schema = f"{schema}PRAGMA user_version = {version};"
        self._version = version
        self._lock = threading.Lock()
        self.connection = self._open()

    def run(self, work: Callable[[sqlite3.Connection], T]) -> T | None:
        """Return what `work` finds; None where the file fails, because that costs time and never a model."""
        with self._lock:
            try:
                with self.connection:
                    return work(self.connection)
            except sqlite3.ProgrammingError:
                raise  # our own fault, such as use after close
            except sqlite3.DatabaseError as error:
                if _is_damaged(error):
                    self.connection.close()
                    self.connection = self._remake()
                return None

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self.connection.close()

    def _open(self) -> sqlite3.Connection:
        try:
            connection = self._connect()
            version = connection.execute("PRAGMA user_version").fetchone()[0]
        except sqlite3.DatabaseError as error:
            return self._remake() if _is_damaged(error) else self._in_memory()
        if version == self._version:
            return connection
        connection.close()
        return self._remake()

    def _remake(self) -> sqlite3.Connection:
        try:
            for suffix in ("", "-wal", "-shm"):
                self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
            connection = self._connect()
            connection.executescript(self._schema)
        except (sqlite3.DatabaseError, OSError):
            return self._in_memory()
        return connection

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, check_same_thread=False)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        return connection

    def _in_memory(self) -> sqlite3.Connection:
        """Return tables for this process only, where the disk takes none."""
        connection = sqlite3.connect(":memory:", check_same_thread=False)
        connection.executescript(self._schema)
        return connection


def _is_damaged(error: sqlite3.DatabaseError) -> bool:
    """Return whether the file itself is at fault, and not a full disk or another process that holds it."""
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK) & 0xFF in _DAMAGE
