"""The database schema as an ordered list of steps; a step that has landed is never edited, only followed.

`PRAGMA user_version` counts the steps that were applied. Each step and its count move in one transaction, so a kill in
the middle leaves the database at the step before. Source: specs/0014.
"""

from typing import Any, Final

from store.errors import DatabaseTooNew

PEERS_V1: Final = """
"""

OFFERS_V1: Final = """
"""

CHATS_V1: Final = """
"""

MIGRATIONS: Final[tuple[str, ...]] = (PEERS_V1, OFFERS_V1, CHATS_V1)


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
