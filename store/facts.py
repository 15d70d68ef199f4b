"""What a list says of manifests and signatures, kept beside their digests: never stale, made anew when damaged.

A manifest's digest fixes its facts, and a bundle's digest fixes whose it is; only what was verified is written here.
"""

import sqlite3
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Final

from protocol.digest import Digest
from store.derived import DerivedDatabase

VERSION: Final = 3
_SCHEMA: Final = """
CREATE TABLE models (
    manifest TEXT PRIMARY KEY, size_bytes INTEGER NOT NULL, format TEXT NOT NULL, family TEXT NOT NULL,
    parameter_size TEXT NOT NULL, precision TEXT NOT NULL, mir TEXT NOT NULL, capabilities TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE bundles (bundle TEXT PRIMARY KEY, publisher TEXT NOT NULL, name TEXT NOT NULL) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What a list shows of a model: bytes of its files and config, and what it says about itself ("" for unknown).

    `capabilities` is what it can be asked for, in words with spaces between them.
    """

    size_bytes: int
    format: str
    family: str
    parameter_size: str
    precision: str
    mir: str
    capabilities: str = "completion"


@dataclass(frozen=True, slots=True)
class Signature:
    """Whose verified bundle this is, and under which name it was signed."""

    publisher: str
    name: str


class FactsCache:
    """The cache in plain SQLite at `path`. It never fails: what cannot be read is worked out again."""

    def __init__(self, path: Path) -> None:
        self._rows = DerivedDatabase(path, _SCHEMA, VERSION)

    def model(self, manifest: Digest) -> ModelFacts | None:
        """Return what is known of a manifest."""
        columns = "size_bytes, format, family, parameter_size, precision, mir, capabilities"
        query = f"SELECT {columns} FROM models WHERE manifest = ?"  # noqa: S608 - a constant
        row = self._rows.run(lambda connection: connection.execute(query, (manifest,)).fetchone())
        return ModelFacts(*row) if row else None

    def signature(self, bundle: Digest) -> Signature | None:
        """Return what is known of a verified bundle."""
        query = "SELECT publisher, name FROM bundles WHERE bundle = ?"
        row = self._rows.run(lambda connection: connection.execute(query, (bundle,)).fetchone())
        return Signature(*row) if row else None

    def add(self, models: Mapping[Digest, ModelFacts], bundles: Mapping[Digest, Signature]) -> None:
        """Remember these, in one transaction."""
        if models or bundles:
            self._rows.run(lambda connection: _insert(connection, models, bundles))

    def forget(self, manifests: frozenset[Digest], bundles: frozenset[Digest]) -> None:
        """Forget all but these."""
        self._rows.run(lambda connection: _prune(connection, manifests, bundles))

    def close(self) -> None:
        """Close the file."""
        self._rows.close()


def _insert(
    connection: sqlite3.Connection, models: Mapping[Digest, ModelFacts], bundles: Mapping[Digest, Signature]
) -> None:
    rows = ((manifest, *astuple(facts)) for manifest, facts in models.items())
    connection.executemany("INSERT OR REPLACE INTO models VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)
    signed = ((bundle, signature.publisher, signature.name) for bundle, signature in bundles.items())
    connection.executemany("INSERT OR REPLACE INTO bundles VALUES (?, ?, ?)", signed)


def _prune(connection: sqlite3.Connection, manifests: frozenset[Digest], bundles: frozenset[Digest]) -> None:
    for table, column, kept in (("models", "manifest", manifests), ("bundles", "bundle", bundles)):
        known = {row[0] for row in connection.execute(f"SELECT {column} FROM {table}")}  # noqa: S608 - two constants
        gone = ((digest,) for digest in known - kept)
        connection.executemany(f"DELETE FROM {table} WHERE {column} = ?", gone)  # noqa: S608 - two constants
