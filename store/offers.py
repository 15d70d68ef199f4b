"""The models that linked peers offer: only those whose provenance this node has verified.

Table: OFFERS in store/migrations.py. Source: specs/0011. A peer's offers go with its link.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from identity.did import DeviceId, parse_did
from protocol.digest import Digest
from protocol.model_name import ModelName, format_model_name, parse_model_name
from store.database import Database

MAX_OFFERS_PER_PEER: Final = 256
_COLUMNS: Final = "peer, publisher, name, manifest, bundle, size_bytes, log_size"


@dataclass(frozen=True)
class Offer:
    """A model that `peer` serves and `publisher` signed and logged.

    `bundle` is the digest of the provenance bundle, `size_bytes` the model's files and config, `log_size` the number
    of entries of the publisher's log when it was published: the larger, the newer.
    """

    peer: DeviceId
    publisher: DeviceId
    name: ModelName
    manifest: Digest
    bundle: Digest
    size_bytes: int
    log_size: int


class Offers:
    """The offers in the encrypted database. Every call is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def replace(self, peer: DeviceId, offers: Iterable[Offer]) -> None:
        """Keep exactly `offers` as what `peer` offers now, the newest 256 of them; one that is not linked has none."""
        newest = sorted(offers, key=lambda offer: offer.log_size, reverse=True)[:MAX_OFFERS_PER_PEER]
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM offers WHERE peer = ?", (peer,))
            if _is_linked(connection, peer):
                connection.executemany(_INSERT, [_row(offer) for offer in newest if offer.peer == peer])

    def add(self, offer: Offer) -> None:
        """Keep one more offer, or newer facts about it; at the cap the oldest of this peer makes room."""
        with self._database.transaction() as connection:
            if not _is_linked(connection, offer.peer):
                return
            connection.execute(_INSERT, _row(offer))
            connection.execute(
                "DELETE FROM offers WHERE peer = ?1 AND (publisher, name, manifest) NOT IN (SELECT publisher, name, "
                "manifest FROM offers WHERE peer = ?1 ORDER BY log_size DESC LIMIT ?2)",
                (offer.peer, MAX_OFFERS_PER_PEER),
            )

    def remove_publisher(self, publisher: DeviceId) -> None:
        """Forget everything that `publisher` signed, whoever offers it."""
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM offers WHERE publisher = ?", (publisher,))

    def all(self) -> list[Offer]:
        """Return all offers by name, newest first."""
        return self._select("", ())

    def of_peer(self, peer: DeviceId) -> list[Offer]:
        """Return what one peer offers."""
        return self._select("WHERE peer = ?", (peer,))

    def of_name(self, name: ModelName) -> list[Offer]:
        """Return the offers under this name, newest first."""
        return self._select("WHERE name = ?", (format_model_name(name),))

    def of_manifest(self, manifest: Digest) -> list[Offer]:
        """Return the offers of this manifest, under whatever name."""
        return self._select("WHERE manifest = ?", (bytes.fromhex(manifest),))

    def _select(self, where: str, values: Sequence[object]) -> list[Offer]:
        query = f"SELECT {_COLUMNS} FROM offers {where} ORDER BY name, log_size DESC, peer"  # noqa: S608 - constants
        with self._database.reading() as connection:
            return [_offer(row) for row in connection.execute(query, values).fetchall()]


_INSERT: Final = f"INSERT OR REPLACE INTO offers ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)"  # noqa: S608 - constants


def _is_linked(connection: Any, peer: DeviceId) -> bool:
    return connection.execute("SELECT 1 FROM peers WHERE did = ?", (peer,)).fetchone() is not None


def _row(offer: Offer) -> tuple[object, ...]:
    return (
        offer.peer,
        offer.publisher,
        format_model_name(offer.name),
        bytes.fromhex(offer.manifest),
        bytes.fromhex(offer.bundle),
        offer.size_bytes,
        offer.log_size,
    )


def _offer(row: Sequence[Any]) -> Offer:
    peer, publisher, name, manifest, bundle, size_bytes, log_size = row
    return Offer(
        parse_did(peer),
        parse_did(publisher),
        parse_model_name(name),
        Digest(manifest.hex()),
        Digest(bundle.hex()),
        size_bytes,
        log_size,
    )
