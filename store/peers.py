"""The linked peers: who they are, what their link allows, where they were last reached; and the tickets used up.

Tables: PEERS in store/migrations.py. Source: specs/0005.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from identity.did import DeviceId, parse_did, peer_id_of
from protocol.address import dialable
from protocol.scope import Scope
from protocol.text import clean_name
from store.database import Database
from store.errors import PeerAmbiguous, PeerUnknown

__all__ = ["LinkedPeer", "Peers", "Scope"]

_COLUMNS: Final = "did, nickname, scope, linked_s, last_contact_s, refused_s"
_MULTIBASE: Final = "did:key:"


@dataclass(frozen=True)
class LinkedPeer:
    """A peer that both people accepted.

    Times are seconds since the Unix epoch. `last_contact_s` is None before the first contact. `refused_s` is when the
    peer last said that it does not link this device any more, None while it does.
    """

    did: DeviceId
    nickname: str
    scope: Scope
    addresses: tuple[str, ...]
    linked_s: int
    last_contact_s: int | None = None
    refused_s: int | None = None


class Peers:
    """The linked peers in the encrypted database. Every call is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, peer: LinkedPeer) -> None:
        """Keep a link, or replace what was known about this peer; an earlier removal is forgotten."""
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM peers WHERE did = ?", (peer.did,))
            connection.execute("DELETE FROM peer_tombstones WHERE did = ?", (peer.did,))
            connection.execute(
                f"INSERT INTO peers ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)",  # noqa: S608 - constant column names
                (
                    peer.did,
                    clean_name(peer.nickname),
                    str(peer.scope),
                    peer.linked_s,
                    peer.last_contact_s,
                    peer.refused_s,
                ),
            )
            _write_addresses(connection, peer.did, peer.addresses)

    def remove(self, did: DeviceId, now_s: int) -> None:
        """Forget the link and remember that it was removed; a peer that is not linked is only remembered."""
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM peers WHERE did = ?", (did,))
            connection.execute("INSERT OR REPLACE INTO peer_tombstones (did, removed_s) VALUES (?, ?)", (did, now_s))

    def removed_s(self, did: DeviceId) -> int | None:
        """Return when the link with `did` was removed, None when it was not, or was made again since."""
        with self._database.reading() as connection:
            row = connection.execute("SELECT removed_s FROM peer_tombstones WHERE did = ?", (did,)).fetchone()
        return None if row is None else int(row[0])

    def get(self, did: DeviceId) -> LinkedPeer | None:
        """Return the linked peer with this DID, None when there is none."""
        return next((peer for peer in self.list() if peer.did == did), None)

    def list(self) -> list[LinkedPeer]:
        """Return all linked peers by nickname, then DID."""
        with self._database.reading() as connection:
            rows = connection.execute(f"SELECT {_COLUMNS} FROM peers").fetchall()  # noqa: S608 - constant column names
            found = connection.execute("SELECT did, address FROM peer_addresses ORDER BY did, position").fetchall()
        addresses: dict[str, list[str]] = {}
        for did, address in found:
            addresses.setdefault(did, []).append(address)
        peers = [_peer(row, tuple(addresses.get(row[0], ()))) for row in rows]
        return sorted(peers, key=lambda peer: (peer.nickname.casefold(), peer.did))

    def find(self, text: str) -> LinkedPeer:
        """Return the one linked peer that `text` names: its DID, its nickname, or an unambiguous beginning of either.

        A DID is that device's alone, whatever another one calls itself.

        Raises:
            PeerUnknown: nobody is called so.
            PeerAmbiguous: several are.
        """
        peers, wanted = self.list(), text.strip().casefold()
        identified = [peer for peer in peers if wanted in _identities(peer)]
        named = [peer for peer in peers if wanted == peer.nickname.casefold()]
        begins = [peer for peer in peers if any(name.startswith(wanted) for name in _names(peer))]
        for found in (identified, named, begins if wanted else []):
            if len(found) == 1:
                return found[0]
            if found:
                raise PeerAmbiguous(text, tuple(peer.did for peer in found))
        raise PeerUnknown(text)

    def set_addresses(self, did: DeviceId, addresses: Sequence[str]) -> None:
        """Replace the peer's addresses, best first; what cannot be dialled is left out, at most 16 are kept."""
        with self._database.transaction() as connection:
            if connection.execute("SELECT 1 FROM peers WHERE did = ?", (did,)).fetchone():
                connection.execute("DELETE FROM peer_addresses WHERE did = ?", (did,))
                _write_addresses(connection, did, addresses)

    def prefer_address(self, did: DeviceId, address: str) -> None:
        """Put the address that worked before the others."""
        peer = self.get(did)
        if peer is not None:
            self.set_addresses(did, [address, *peer.addresses])

    def set_nickname(self, did: DeviceId, nickname: str) -> None:
        """Keep the name by which the peer now calls itself, made safe to show."""
        with self._database.transaction() as connection:
            connection.execute("UPDATE peers SET nickname = ? WHERE did = ?", (clean_name(nickname), did))

    def touch(self, did: DeviceId, now_s: int) -> None:
        """Note a contact in which the peer treated us as linked."""
        with self._database.transaction() as connection:
            connection.execute("UPDATE peers SET last_contact_s = ?, refused_s = NULL WHERE did = ?", (now_s, did))

    def note_refused(self, did: DeviceId, now_s: int) -> None:
        """Note that the peer said it does not link this device any more."""
        with self._database.transaction() as connection:
            connection.execute("UPDATE peers SET refused_s = ? WHERE did = ?", (now_s, did))

    def use_ticket(self, ticket_hash: bytes, forget_after_s: int, now_s: int) -> bool:
        """Mark a ticket as used, durably; return False when it already was. Forgets those past their time."""
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM used_tickets WHERE forget_after_s < ?", (now_s,))
            cursor = connection.execute(
                "INSERT OR IGNORE INTO used_tickets (ticket_hash, forget_after_s) VALUES (?, ?)",
                (ticket_hash, forget_after_s),
            )
            return bool(cursor.rowcount == 1)

    def ticket_was_used(self, ticket_hash: bytes) -> bool:
        """Return whether a ticket is among those used and not yet forgotten."""
        with self._database.reading() as connection:
            query = "SELECT 1 FROM used_tickets WHERE ticket_hash = ?"
            return connection.execute(query, (ticket_hash,)).fetchone() is not None


def _peer(row: Sequence[Any], addresses: tuple[str, ...]) -> LinkedPeer:
    did, nickname, scope, linked_s, last_contact_s, refused_s = row
    return LinkedPeer(parse_did(did), nickname, Scope(scope), addresses, linked_s, last_contact_s, refused_s)


def _identities(peer: LinkedPeer) -> tuple[str, str]:
    return peer.did.casefold(), peer.did.removeprefix(_MULTIBASE).casefold()


def _names(peer: LinkedPeer) -> tuple[str, str, str]:
    return *_identities(peer), peer.nickname.casefold()


def _write_addresses(connection: Any, did: DeviceId, addresses: Sequence[str]) -> None:
    rows = [(did, position, text) for position, text in enumerate(dialable(tuple(addresses), peer_id_of(did)))]
    connection.executemany("INSERT INTO peer_addresses (did, position, address) VALUES (?, ?, ?)", rows)
