"""Tickets: one signed, short-lived, single-use secret that lets one device ask to be linked (specs/0005-link)."""

import base64
import binascii
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from identity.did import DeviceId, parse_did, peer_id_of
from identity.errors import DidInvalid, SignatureInvalid
from identity.keys import DeviceKey, domain, verify
from protocol.address import MAX_ADDRESS_CHARS, MAX_ADDRESSES, dialable
from protocol.codec import Fields, decode, encode
from protocol.errors import (
    CodecInvalid,
    FieldInvalid,
    TicketBurned,
    TicketBusy,
    TicketExpired,
    TicketInvalid,
    TicketUnknown,
    TicketUsed,
)

VERSION: Final = 1
PURPOSE: Final = "link"
SECRET_BYTES: Final = 16
NONCE_BYTES: Final = 16
MAX_LIFE_S: Final = 600
# Two clocks may differ by this much before a ticket that is good for its issuer looks wrong to the other device.
SKEW_S: Final = 300
MAX_TICKET_BYTES: Final = 4_096
MAX_WRONG_PROOFS: Final = 3
_MAX_TIME_S: Final = 2**40


@dataclass(frozen=True)
class Ticket:
    """What a ticket says. `secret` never shows in a repr."""

    did: DeviceId
    addresses: tuple[str, ...]
    secret: bytes = field(repr=False)
    nonce: bytes
    expires_s: int
    digest: bytes  # SHA-256 of the whole ticket, its name in messages and among the used ones

    def __str__(self) -> str:
        return f"ticket of {self.did}"


def issue_ticket(
    key: DeviceKey, addresses: Sequence[str], now_s: int, life_s: int, secret: bytes, nonce: bytes
) -> tuple[str, Ticket]:
    """Return a ticket as text and as a value. `secret` and `nonce` are 16 random bytes each, used nowhere else.

    Raises:
        ValueError: a life beyond 600 s, or another length: our own bug.
    """
    if not 0 < life_s <= MAX_LIFE_S or len(secret) != SECRET_BYTES or len(nonce) != NONCE_BYTES:
        raise ValueError("a ticket lives 1 to 600 s and has 16 bytes each of secret and nonce")
    body: dict[str, object] = {
        "v": VERSION,
        "purpose": PURPOSE,
        "did": key.did,
        "addrs": list(dialable(tuple(addresses), peer_id_of(key.did))),
        "secret": secret,
        "nonce": nonce,
        "exp": now_s + life_s,
    }
    data = encode({**body, "sig": key.sign(domain("ticket") + encode(body))})
    text = base64.urlsafe_b64encode(data).rstrip(b"=").decode()
    return text, _read(data)


def open_ticket(text: str, now_s: int) -> Ticket:
    """Return what a ticket says, once its signature, form and time are checked.

    Raises:
        TicketInvalid: no ticket, or one that was changed on the way.
        TicketExpired: its time is over.
    """
    bare = "".join(text.split())
    if len(bare) * 3 // 4 > MAX_TICKET_BYTES:
        raise TicketInvalid(f"{len(bare)} characters are too many for a ticket")
    try:
        data = base64.b64decode(bare.encode("ascii") + b"=" * (-len(bare) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise TicketInvalid("it is not base64url text") from None
    ticket = _read(data)
    if now_s > ticket.expires_s + SKEW_S:
        raise TicketExpired(now_s - ticket.expires_s)
    if ticket.expires_s > now_s + MAX_LIFE_S + SKEW_S:
        raise TicketInvalid(f"it would live for {ticket.expires_s - now_s} s; check both devices' clocks")
    return ticket


def _read(data: bytes) -> Ticket:
    try:
        body = decode(data, MAX_TICKET_BYTES)
        ticket, signature = _fields(data, Fields(body, "ticket"))
    except (CodecInvalid, FieldInvalid, DidInvalid) as error:
        raise TicketInvalid(str(error)) from error
    assert isinstance(body, dict)
    signed = encode({name: value for name, value in body.items() if name != "sig"})
    try:
        verify(ticket.did, domain("ticket") + signed, signature)
    except SignatureInvalid:
        raise TicketInvalid("the signature does not verify: it was changed on the way") from None
    return ticket


def _fields(data: bytes, fields: Fields) -> tuple[Ticket, bytes]:
    fields.int("v", VERSION, VERSION)
    if fields.text("purpose", max=32) != PURPOSE:
        raise fields.invalid("purpose", "it is not a ticket for linking")
    ticket = Ticket(
        did=(did := parse_did(fields.text("did", max=80))),
        addresses=dialable(fields.texts("addrs", max=MAX_ADDRESSES, max_each=MAX_ADDRESS_CHARS), peer_id_of(did)),
        secret=fields.bytes("secret", length=SECRET_BYTES),
        nonce=fields.bytes("nonce", length=NONCE_BYTES),
        expires_s=fields.int("exp", 0, _MAX_TIME_S),
        digest=hashlib.sha256(data).digest(),
    )
    signature = fields.bytes("sig", length=64)
    fields.done()
    return ticket, signature


class _Place(Enum):
    OPEN = "open"
    IN_FLIGHT = "in flight"
    USED = "used"
    BURNED = "burned"
    WITHDRAWN = "withdrawn"


@dataclass
class _Shown:
    ticket: Ticket
    place: _Place = _Place.OPEN
    wrong_proofs: int = 0


class TicketBook:
    """The tickets that this device has shown: one session at a time, used once, burned by wrong proofs."""

    def __init__(self) -> None:
        self._shown: dict[bytes, _Shown] = {}

    def add(self, ticket: Ticket, now_s: int) -> None:
        """Let the ticket be used from now on; those that expired long ago are forgotten."""
        kept = {digest: old for digest, old in self._shown.items() if now_s <= old.ticket.expires_s + SKEW_S}
        self._shown = {**kept, ticket.digest: _Shown(ticket)}

    def withdraw(self, ticket: Ticket) -> None:
        """Let no session begin with the ticket any more."""
        shown = self._shown.get(ticket.digest)
        if shown is not None and shown.place in (_Place.OPEN, _Place.IN_FLIGHT):
            shown.place = _Place.WITHDRAWN

    def begin(self, digest: bytes, now_s: int) -> Ticket:
        """Return the ticket for a session that begins; `end` it in any case.

        Raises:
            TicketUnknown, TicketExpired, TicketUsed, TicketBurned: it cannot be used any more.
            TicketBusy: another session with it is in flight.
        """
        shown = self._shown.get(digest)
        if shown is None:
            raise TicketUnknown
        if shown.place is _Place.USED:
            raise TicketUsed
        if shown.place is _Place.BURNED:
            raise TicketBurned
        if now_s >= shown.ticket.expires_s:
            raise TicketExpired(now_s - shown.ticket.expires_s)
        if shown.place is _Place.WITHDRAWN:
            raise TicketUnknown
        if shown.place is _Place.IN_FLIGHT:
            raise TicketBusy
        shown.place = _Place.IN_FLIGHT
        return shown.ticket

    def end(self, ticket: Ticket) -> None:
        """Note that the session is over; a ticket that was not used up can be tried again."""
        shown = self._shown.get(ticket.digest)
        if shown is not None and shown.place is _Place.IN_FLIGHT:
            shown.place = _Place.OPEN

    def use(self, ticket: Ticket) -> bool:
        """Use the ticket up with a valid proof; return False when that is not allowed any more."""
        shown = self._shown.get(ticket.digest)
        if shown is None or shown.place is not _Place.IN_FLIGHT:
            return False
        shown.place = _Place.USED
        return True

    def wrong_proof(self, ticket: Ticket) -> bool:
        """Count a wrong proof; return whether the ticket is burned now."""
        shown = self._shown[ticket.digest]
        shown.wrong_proofs += 1
        if shown.wrong_proofs >= MAX_WRONG_PROOFS:
            shown.place = _Place.BURNED
        return shown.place is _Place.BURNED
