"""The encrypted database: one SQLCipher file, one connection, one writer at a time.

The key is 32 raw bytes that live in the keychain or the vault, never here. Source: specs/0014.
"""

import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Self

import sqlcipher3

from store.disk import PRIVATE, disk_errors, flush_directory, flush_file, make_directories
from store.errors import (
    DatabaseDamaged,
    DatabaseFailed,
    DatabaseFull,
    DatabaseKeyInvalid,
    DatabaseKeyWrong,
    DatabaseMissing,
    StoreError,
)
from store.migrations import migrate

KEY_BYTES: Final = 32
BUSY_TIMEOUT_MS: Final = 5_000
_HEX_KEY: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)


class Database:
    """An open database. Safe to use from several threads: a transaction holds the one lock until it ends."""

    def __init__(self, path: Path, connection: Any) -> None:
        self.path = path
        self._connection = connection
        self._lock = threading.RLock()
        self._depth = 0

    @classmethod
    def open(cls, path: Path, key: bytes, *, create: bool = False) -> Self:
        """Return the database at `path`, its schema brought up to date.

        `key` is 32 bytes. Only with `create` is a missing database made; an existing file, whatever is in it, is never
        replaced. Raises:
            DatabaseMissing: there is no file and `create` is false.
            DatabaseKeyWrong: the file is not a database under this key.
            DatabaseDamaged: the file is empty or its pages do not authenticate.
            DatabaseTooNew: a newer program has changed the schema.
        DiskFull, DiskFailed: a new one cannot be made there.
        """
        hex_key = _hex_key(key)
        if not path.exists():
            if not create:
                raise DatabaseMissing(path)
            _create(path, hex_key)
        if path.stat().st_size == 0:
            raise DatabaseDamaged(path, "the file is empty")
        with _named_errors(path):
            connection = _connect(path, hex_key)
            try:
                _check_key(path, connection)
                _prepare(connection)
                migrate(connection)
            except (sqlcipher3.Error, StoreError):
                connection.close()
                raise
        return cls(path, connection)

    @contextmanager
    def transaction(self) -> Iterator[Any]:
        """Give the connection inside one write transaction: everything is kept, durably, or nothing.

        A transaction inside a transaction of the same thread is a savepoint of it. Raises:
            DatabaseFull: no space on the disk.
            DatabaseDamaged: a page does not authenticate.
            DatabaseFailed: whatever else SQLite reports.
        """
        with self._lock, _named_errors(self.path):
            begin, commit, rollback = _bounds(self._depth)
            self._connection.execute(begin)
            self._depth += 1
            try:
                yield self._connection
                self._connection.execute(commit)
            except BaseException:
                if self._connection.in_transaction:  # some failures (a full disk) have rolled back already
                    for statement in rollback:
                        self._connection.execute(statement)
                raise
            finally:
                self._depth -= 1

    @contextmanager
    def reading(self) -> Iterator[Any]:
        """Give the connection for reads that must see one state of the database."""
        with self._lock, _named_errors(self.path):
            if self._connection.in_transaction:
                yield self._connection
                return
            self._connection.execute("BEGIN DEFERRED")
            try:
                yield self._connection
            finally:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")

    def close(self) -> None:
        """Fold the write-ahead file into the database and close it; closing twice is harmless."""
        with self._lock:
            self._connection.close()


def _bounds(depth: int) -> tuple[str, str, tuple[str, ...]]:
    if depth == 0:
        return "BEGIN IMMEDIATE", "COMMIT", ("ROLLBACK",)
    return f"SAVEPOINT s{depth}", f"RELEASE s{depth}", (f"ROLLBACK TO s{depth}", f"RELEASE s{depth}")


def _hex_key(key: bytes) -> str:
    """Return the key as PRAGMA text; no binding is possible there, so nothing but 64 hex characters may pass."""
    text = key.hex()
    if not _HEX_KEY.fullmatch(text):
        raise DatabaseKeyInvalid(len(key))
    return text


def _connect(path: Path, hex_key: str) -> Any:
    connection = sqlcipher3.connect(
        path.absolute().as_uri() + "?mode=rw",  # rw: SQLite itself must never make a file
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=256,
    )
    # The log level comes first: SQLCipher otherwise prints to stderr when the key is wrong.
    connection.execute("PRAGMA cipher_log_level = NONE")
    connection.execute(f"PRAGMA key = \"x'{hex_key}'\"")
    connection.execute("PRAGMA cipher_compatibility = 4")
    return connection


def _check_key(path: Path, connection: Any) -> None:
    try:
        connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    except sqlcipher3.DatabaseError as error:
        if error.sqlite_errorcode == sqlcipher3.SQLITE_NOTADB:
            raise DatabaseKeyWrong(path) from error
        raise


def _prepare(connection: Any) -> None:
    connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS:d}")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")  # an acknowledged line survives a power cut, not only a kill
    connection.execute("PRAGMA fullfsync = ON")  # macOS only: an fsync there may stop at the drive's own cache
    connection.execute("PRAGMA temp_store = MEMORY")  # nothing spills to disk in the clear
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA trusted_schema = OFF")


def _create(path: Path, hex_key: str) -> None:
    """Make an empty database beside `path` and rename it there: a kill never leaves half a file under the name."""
    remains = [path.with_name(path.name + ending) for ending in ("-wal", "-journal")]
    for remain in remains:
        if remain.exists():
            raise DatabaseDamaged(path, f"the file is gone but {remain.name} is still there")
    fresh = path.with_name(path.name + ".new")
    with _named_errors(path), disk_errors(path):
        make_directories(path.parent)
        for stale in (fresh, fresh.with_name(fresh.name + "-journal")):
            stale.unlink(missing_ok=True)  # left by a kill during an earlier creation: nothing was ever kept in it
        descriptor = os.open(fresh, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, PRIVATE)
        try:
            _fill(fresh, hex_key)
            flush_file(descriptor)
        finally:
            os.close(descriptor)
        fresh.rename(path)
        flush_directory(path.parent)


def _fill(path: Path, hex_key: str) -> None:
    connection = _connect(path, hex_key)
    try:
        migrate(connection)
    finally:
        connection.close()


@contextmanager
def _named_errors(path: Path) -> Iterator[None]:
    """Turn what SQLite raises into the named errors of `store`."""
    try:
        yield
    except sqlcipher3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code == sqlcipher3.SQLITE_FULL:
            raise DatabaseFull(path) from error
        if code in (sqlcipher3.SQLITE_CORRUPT, sqlcipher3.SQLITE_NOTADB):
            raise DatabaseDamaged(path, str(error)) from error
        raise DatabaseFailed(path, str(error)) from error
