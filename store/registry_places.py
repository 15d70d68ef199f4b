"""In which registries a model is known to lie, because this node put it there or fetched it: where a repair may ask."""

from protocol.digest import Digest
from protocol.registry import Reference, format_reference, parse_reference
from store.database import Database

# So many are asked at most, the newest first: a repair has to come to an end.
MAX_PLACES = 8


class RegistryPlaces:
    """The registries of this node's models, in its encrypted database. Every call is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def note(self, manifest: Digest, reference: Reference, now_s: int) -> None:
        """Remember that the model lies at `reference`."""
        query = "INSERT OR REPLACE INTO registry_places (manifest, reference, noted_s) VALUES (?, ?, ?)"
        with self._database.transaction() as connection:
            connection.execute(query, (manifest, format_reference(reference), now_s))

    def of(self, manifest: Digest) -> list[Reference]:
        """Return where the model was last seen, the newest first, at most 8 places."""
        query = "SELECT reference FROM registry_places WHERE manifest = ? ORDER BY noted_s DESC, reference LIMIT ?"
        with self._database.reading() as connection:
            rows = connection.execute(query, (manifest, MAX_PLACES)).fetchall()
        return [parse_reference(text) for (text,) in rows]
