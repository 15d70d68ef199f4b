"""The logins for registries, in the encrypted database: one for each host, shown to that registry and nobody else."""

from dataclasses import dataclass
from typing import Final

from store.database import Database
from store.registry.credentials import Login

MAX_USERNAME_CHARS: Final = 256
MAX_PASSWORD_CHARS: Final = 8192


@dataclass(frozen=True)
class KnownLogin:
    """A login without its password: the registry's host, the user name, and since when, in seconds since the epoch."""

    host: str
    username: str
    added_s: int


class Logins:
    """The logins of this node. Every call is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def keep(self, host: str, login: Login, now_s: int) -> None:
        """Keep `login` for the registry at `host`, in place of an earlier one."""
        query = "INSERT OR REPLACE INTO registry_logins (host, username, password, added_s) VALUES (?, ?, ?, ?)"
        with self._database.transaction() as connection:
            connection.execute(query, (host, login.username, login.password, now_s))

    def get(self, host: str) -> Login | None:
        """Return the login for the registry at `host`, None where there is none."""
        query = "SELECT username, password FROM registry_logins WHERE host = ?"
        with self._database.reading() as connection:
            row = connection.execute(query, (host,)).fetchone()
        return Login(*row) if row else None

    def forget(self, host: str) -> bool:
        """Forget the login for `host`; return whether there was one."""
        with self._database.transaction() as connection:
            return bool(connection.execute("DELETE FROM registry_logins WHERE host = ?", (host,)).rowcount)

    def list(self) -> list[KnownLogin]:
        """Return every login, in the order of the hosts, without passwords."""
        query = "SELECT host, username, added_s FROM registry_logins ORDER BY host"
        with self._database.reading() as connection:
            return [KnownLogin(*row) for row in connection.execute(query).fetchall()]
