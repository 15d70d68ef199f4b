"""The responses that programs may follow on by their ids, in the encrypted database: under a cap, for a time.

Each row is one response with its own input alone; a conversation is the chain of rows that name the one before.
"""

from dataclasses import dataclass, field
from typing import Any, Final

from store.database import Database

KEEP_S: Final = 30 * 24 * 3600
MAX_BYTES: Final = 64 * 1024 * 1024
MAX_RESPONSES: Final = 4096
# More turns than any model's window holds.
MAX_CHAIN: Final = 1024

_COLUMNS: Final = "id, previous, input, resource"


@dataclass(frozen=True)
class KeptResponse:
    """One response: its id, the id of the one before, its own input items and its resource, both as JSON text."""

    name: str
    previous: str | None
    input_json: str = field(repr=False)
    resource_json: str = field(repr=False)


class KeptResponses:
    """The responses of this node. Every call is one transaction.

    When there are more than `max_bytes` or `max_responses`, those go first that nobody has followed on for longest.
    """

    def __init__(self, database: Database, max_bytes: int = MAX_BYTES, max_responses: int = MAX_RESPONSES) -> None:
        self._database = database
        self._max_bytes = max_bytes
        self._max_responses = max_responses

    def keep(self, response: KeptResponse, now_s: int) -> None:
        """Keep `response`, and let go of what is too old or too much; one that is too much alone is not kept."""
        size = len(response.input_json.encode()) + len(response.resource_json.encode())
        if size > self._max_bytes:
            return
        row = (response.name, response.previous, now_s, now_s, size, response.input_json, response.resource_json)
        query = (
            "INSERT INTO responses (id, previous, created_s, used_s, size_bytes, input, resource)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)"
        )
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM responses WHERE used_s < ?", (now_s - KEEP_S,))
            connection.execute(query, row)
            self._make_room(connection)

    def get(self, name: str, now_s: int) -> KeptResponse | None:
        """Return one response, None where it is not kept (any more)."""
        query = f"SELECT {_COLUMNS} FROM responses WHERE id = ? AND used_s >= ?"  # noqa: S608 - our own column names
        with self._database.reading() as connection:
            row = connection.execute(query, (name, now_s - KEEP_S)).fetchone()
        return KeptResponse(*row) if row else None

    def chain(self, name: str, now_s: int) -> list[KeptResponse]:
        """Return the conversation that ends with the response `name`, its first response first.

        Empty where any of them is not kept (any more). All of them count as used now.
        """
        found: list[KeptResponse] = []
        with self._database.transaction() as connection:
            wanted: str | None = name
            while wanted is not None:
                query = f"SELECT {_COLUMNS} FROM responses WHERE id = ? AND used_s >= ?"  # noqa: S608 - as above
                row = connection.execute(query, (wanted, now_s - KEEP_S)).fetchone()
                if row is None or len(found) >= MAX_CHAIN:
                    return []
                found.append(KeptResponse(*row))
                wanted = found[-1].previous
            names = [(now_s, response.name) for response in found]
            connection.executemany("UPDATE responses SET used_s = max(used_s, ?) WHERE id = ?", names)
        return found[::-1]

    def forget(self, name: str) -> bool:
        """Forget one response; return whether there was one. Conversations that rest on it end with it."""
        with self._database.transaction() as connection:
            return bool(connection.execute("DELETE FROM responses WHERE id = ?", (name,)).rowcount)

    def usage(self) -> tuple[int, int]:
        """Return how many responses are kept, and their bytes."""
        with self._database.reading() as connection:
            count, size = connection.execute("SELECT count(*), coalesce(sum(size_bytes), 0) FROM responses").fetchone()
        return int(count), int(size)

    def _make_room(self, connection: Any) -> None:
        query = (
            "DELETE FROM responses WHERE id IN (SELECT id FROM (SELECT id,"
            " sum(size_bytes) OVER newest AS bytes, row_number() OVER newest AS place FROM responses"
            " WINDOW newest AS (ORDER BY used_s DESC, rowid DESC)) WHERE bytes > ? OR place > ?)"
        )
        connection.execute(query, (self._max_bytes, self._max_responses))
