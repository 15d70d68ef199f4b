"""The database schema as an ordered list of steps; a step that has landed is never edited, only followed.

`PRAGMA user_version` counts the steps that were applied. Each step and its count move in one transaction, so a kill in
the middle leaves the database at the step before. Source: specs/0014.
"""

from typing import Any, Final

from store.errors import DatabaseTooNew

PEERS_V1: Final = """
CREATE TABLE peers (
    did TEXT PRIMARY KEY,
    nickname TEXT NOT NULL,
    scope TEXT NOT NULL CHECK (scope IN ('own-device', 'models-only')),
    linked_s INTEGER NOT NULL,
    last_contact_s INTEGER,
    refused_s INTEGER
) STRICT;
CREATE TABLE peer_addresses (
    did TEXT NOT NULL REFERENCES peers (did) ON DELETE CASCADE,
    position INTEGER NOT NULL,
    address TEXT NOT NULL,
    PRIMARY KEY (did, position)
) STRICT, WITHOUT ROWID;
CREATE TABLE peer_tombstones (
    did TEXT PRIMARY KEY,
    removed_s INTEGER NOT NULL
) STRICT;
CREATE TABLE used_tickets (
    ticket_hash BLOB PRIMARY KEY CHECK (length(ticket_hash) = 32),
    forget_after_s INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
"""

# One row for each model that a linked peer was found to offer, all of its provenance verified; digests are 32 bytes.
OFFERS_V1: Final = """
CREATE TABLE offers (
    peer TEXT NOT NULL REFERENCES peers (did) ON DELETE CASCADE,
    publisher TEXT NOT NULL,
    name TEXT NOT NULL,
    manifest BLOB NOT NULL CHECK (length(manifest) = 32),
    bundle BLOB NOT NULL CHECK (length(bundle) = 32),
    size_bytes INTEGER NOT NULL,
    log_size INTEGER NOT NULL,
    PRIMARY KEY (peer, publisher, name, manifest)
) STRICT, WITHOUT ROWID;
"""

# `arrival` only grows (nothing is ever deleted here), and within a feed it grows with the sequence: entries sent in the
# order of arrival reach the other device after everything that they rest on.
CHATS_V1: Final = """
CREATE TABLE feed_entries (
    arrival INTEGER PRIMARY KEY,
    author TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    id BLOB NOT NULL UNIQUE,
    chat BLOB NOT NULL,
    kind TEXT NOT NULL,
    time_ms INTEGER NOT NULL,
    target BLOB,
    encoded BLOB NOT NULL,
    UNIQUE (author, sequence)
) STRICT;
CREATE INDEX feed_entries_by_chat ON feed_entries (chat, time_ms, kind, id);
CREATE INDEX feed_entries_that_begin ON feed_entries (chat, id) WHERE kind = 'chat';
CREATE INDEX feed_entries_by_target ON feed_entries (target, kind, chat) WHERE target IS NOT NULL;
CREATE TABLE feed_heads (
    author TEXT PRIMARY KEY,
    sequence INTEGER NOT NULL,
    id BLOB NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE feed_forks (
    author TEXT PRIMARY KEY,
    held BLOB NOT NULL,
    other BLOB NOT NULL,
    found_ms INTEGER NOT NULL
) STRICT;
CREATE TABLE feed_devices (
    introducer TEXT NOT NULL,
    did TEXT NOT NULL,
    nickname TEXT NOT NULL,
    added INTEGER NOT NULL,
    last INTEGER NOT NULL,
    PRIMARY KEY (introducer, did)
) STRICT, WITHOUT ROWID;
"""

# One row for each registry that this person has logged in to; the database itself is what keeps the password secret.
LOGINS_V1: Final = """
CREATE TABLE registry_logins (
    host TEXT PRIMARY KEY,
    username TEXT NOT NULL,
    password TEXT NOT NULL,
    added_s INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
"""

# Where models were put or fetched from; a repair asks there.
PLACES_V1: Final = """
CREATE TABLE registry_places (
    manifest TEXT NOT NULL,
    reference TEXT NOT NULL,
    noted_s INTEGER NOT NULL,
    PRIMARY KEY (manifest, reference)
) STRICT, WITHOUT ROWID;
"""

# What a program may follow on: responses of the API under `/v1/responses`, until they are too old or too many.
RESPONSES_V1: Final = """
CREATE TABLE responses (
    id TEXT PRIMARY KEY,
    previous TEXT,
    created_s INTEGER NOT NULL,
    used_s INTEGER NOT NULL,
    size_bytes INTEGER NOT NULL,
    input TEXT NOT NULL,
    resource TEXT NOT NULL
) STRICT;
CREATE INDEX responses_by_use ON responses (used_s);
"""

MIGRATIONS: Final[tuple[str, ...]] = (PEERS_V1, OFFERS_V1, CHATS_V1, LOGINS_V1, PLACES_V1, RESPONSES_V1)


def schema_version(connection: Any) -> int:
    """Return how many steps this database has taken; 0 for a fresh one."""
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def migrate(connection: Any, steps: tuple[str, ...] = MIGRATIONS) -> int:
    """Bring the schema to the newest step and return how many steps were applied now.

    The connection must be in autocommit mode. Raises:
        DatabaseTooNew: the database has taken more steps than this program knows.
    """
    found = schema_version(connection)
    if found > len(steps):
        raise DatabaseTooNew(found, len(steps))
    for number, step in enumerate(steps[found:], start=found + 1):
        _apply(connection, number, step)
    return len(steps) - found


def _apply(connection: Any, number: int, step: str) -> None:
    """Run one step and advance the count, both or neither."""
    try:
        connection.executescript(f"BEGIN IMMEDIATE;\n{step}\n;PRAGMA user_version = {number:d};\nCOMMIT;")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
