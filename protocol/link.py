"""The link protocol: two devices that hold one ticket, two people who both say yes (specs/0005-link).

One machine, two roles. It knows no socket, clock or store: it is fed messages and decisions and answers with events.

    joiner                                         listener
    S0_nothing        hello(ticket, commit) ──▶    S0_nothing
                                                   S1_called: the ticket is looked up
    S1_committed      ◀── challenge(nonce)         S1_challenged
    S2_revealed       reveal(nonce, proof) ──▶     S2_proven: the ticket is used up
    S3_asking         ◀── confirm(proof)           S3_asking
                      accept(sig, addrs) ⇄ accept  (either first, each after its person's yes)
    S4_agreed         linked ⇄ linked              S4_agreed: both store the link
    S5_done                                        S5_done
"""

import hashlib
import hmac
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from identity.did import DeviceId, peer_id_of
from identity.errors import SignatureInvalid
from identity.keys import DeviceKey, domain, verify
from protocol.address import MAX_ADDRESS_CHARS, MAX_ADDRESSES, dialable
from protocol.codec import Fields, decode_message, encode, encode_message
from protocol.errors import (
    CodecInvalid,
    FieldInvalid,
    LinkMessageInvalid,
    LinkRefused,
    LinkRejected,
    ProofWrong,
    ProtocolError,
    TicketBurned,
    TicketBusy,
    TicketExpired,
    TicketUnknown,
    TicketUsed,
)
from protocol.refusal import REFUSED, encode_refusal, parse_refusal
from protocol.scope import Scope, narrower
from protocol.text import MAX_NAME_CHARS, clean_name
from protocol.ticket import Ticket

PROTOCOL: Final = "/tilenode/link/1"
MAX_MESSAGE_BYTES: Final = 8_192
MAX_NICKNAME_BYTES: Final = 4 * MAX_NAME_CHARS
NONCE_BYTES: Final = 32
_HASH_BYTES: Final = 32
_DIGITS: Final = 6


@dataclass(frozen=True)
class Party:
    """One side as it shows itself: the authenticated key, the nickname, the scope its person chose."""

    did: DeviceId
    nickname: str
    scope: Scope


@dataclass(frozen=True)
class Send:
    """Send this message to the other side."""

    payload: bytes


@dataclass(frozen=True)
class FindTicket:
    """Listener: look this ticket up, and answer with `ticket_found` or `refuse`."""

    digest: bytes


@dataclass(frozen=True)
class UseTicket:
    """Listener: the proof is valid. Use the ticket up, durably, and answer with `ticket_used` or `refuse`."""


@dataclass(frozen=True)
class Ask:
    """Ask this device's person: is it this peer, and does the other screen show the same six digits?"""

    peer: Party
    digits: str
    scope: Scope


@dataclass(frozen=True)
class Agreed:
    """Both people said yes. Store the link, and answer with `stored`."""

    peer: Party
    scope: Scope
    addresses: tuple[str, ...]


@dataclass(frozen=True)
class Done:
    """Both sides have stored the link."""


@dataclass(frozen=True)
class Failed:
    """The session is over without a link; `reply` is to be sent first where there is one."""

    error: ProtocolError
    reply: bytes | None


Event = Send | FindTicket | UseTicket | Ask | Agreed | Done | Failed


class State(Enum):
    """What a side knows."""

    S0_NOTHING = "nothing"
    S1_COMMITTED = "committed"
    S1_CALLED = "called"
    S1_CHALLENGED = "challenged"
    S2_REVEALED = "revealed"
    S2_PROVEN = "proven"
    S3_ASKING = "asking"
    S4_AGREED = "agreed"
    S5_DONE = "done"
    FAILED = "failed"


class LinkSession:
    """One attempt to link, on either side. Make it with `join` or `listen`."""

    def __init__(self, key: DeviceKey, us: Party, peer: DeviceId, nonce: bytes, addresses: Sequence[str]) -> None:
        """`peer` is the key that the connection proved; `nonce` is 32 random bytes; `addresses` are our own."""
        self.state = State.S0_NOTHING
        self._key = key
        self._us = us
        self._peer_did = peer
        self._nonce = nonce
        self._addresses = tuple(addresses)
        self._ticket: Ticket | None = None
        self._peer: Party | None = None
        self._commitment = b""
        self._peer_nonce = b""
        self._we_join = False
        self._we_accepted = False
        self._peer_addresses: tuple[str, ...] | None = None
        self._we_stored = False
        self._peer_stored = False

    @classmethod
    def join(
        cls, key: DeviceKey, us: Party, ticket: Ticket, nonce: bytes, addresses: Sequence[str]
    ) -> "tuple[LinkSession, list[Event]]":
        """Return the joiner's session with the ticket's device, and what to send first."""
        session = cls(key, us, ticket.did, nonce, addresses)
        session._we_join, session._ticket = True, ticket
        session._commitment = _commit(us.did, nonce)
        session.state = State.S1_COMMITTED
        hello = encode_message(
            "hello",
            ticket=ticket.digest,
            commit=session._commitment,
            nickname=us.nickname,
            scope=str(us.scope),
        )
        return session, [Send(hello)]

    @classmethod
    def listen(
        cls, key: DeviceKey, nickname: str, peer: DeviceId, nonce: bytes, addresses: Sequence[str]
    ) -> "LinkSession":
        """Return the listener's session with the connection's `peer`, which speaks first."""
        return cls(key, Party(key.did, nickname, Scope.MODELS), peer, nonce, addresses)

    @property
    def ticket(self) -> Ticket | None:
        """The ticket that this session is about, once it is known."""
        return self._ticket

    @property
    def waits(self) -> bool:
        """Whether this device's person is asked and has not answered."""
        return self.state is State.S3_ASKING and not self._we_accepted

    def receive(self, data: bytes) -> list[Event]:
        """Take one message from the other side and return what follows from it. Nothing hostile raises."""
        if self.state in _OVER:
            return []
        try:
            kind, fields = decode_message(data, MAX_MESSAGE_BYTES)
            if kind == REFUSED:
                refusal = parse_refusal(fields)
                return self.refused(refusal.code, refusal.why)
            step = _TRANSITIONS.get((self.state, kind))
            if step is None:
                raise LinkMessageInvalid(f"{kind!r} in the state {self.state.value!r}")
            return step(self, fields)
        except (CodecInvalid, FieldInvalid) as error:
            return self._fail(LinkMessageInvalid(str(error)))
        except ProtocolError as error:
            return self._fail(error)

    def accept(self) -> list[Event]:
        """Take the yes of this device's person."""
        if not self.waits:
            return []
        self._we_accepted = True
        signature = self._key.sign(self._consent(self._we_join))
        return [Send(encode_message("accept", sig=signature, addrs=list(self._addresses))), *self._agree()]

    def reject(self) -> list[Event]:
        """Take the no of this device's person."""
        if not self.waits:
            return []
        return self._fail(LinkRejected("this device"))

    def ticket_found(self, ticket: Ticket, scope: Scope) -> list[Event]:
        """Listener: take the ticket that was asked for, and the scope with which its person has shown it."""
        if self.state is not State.S1_CALLED:
            return []
        self._ticket = ticket
        self._us = replace(self._us, scope=scope)
        self.state = State.S1_CHALLENGED
        us = self._us
        return [Send(encode_message("challenge", nonce=self._nonce, nickname=us.nickname, scope=str(us.scope)))]

    def ticket_used(self) -> list[Event]:
        """Listener: take that this session, and no other, has used the ticket up."""
        if self.state is not State.S2_PROVEN:
            return []
        self.state = State.S3_ASKING
        return [Send(encode_message("confirm", proof=self._proof(of_joiner=False))), self._ask()]

    def refuse(self, error: ProtocolError) -> list[Event]:
        """End the session with `error`, and tell the other side its code; nothing happens once it is over."""
        return [] if self.state in _OVER else self._fail(error)

    def refused(self, code: str, why: str) -> list[Event]:
        """Take that the other side ended the session with `code`."""
        if self.state in _OVER:
            return []
        self.state = State.FAILED
        known = _REFUSALS.get(code)
        return [Failed(known() if known is not None else LinkRefused(code, why), None)]

    def stored(self) -> list[Event]:
        """Take that the link is stored here."""
        if self.state is not State.S4_AGREED:
            return []
        self._we_stored = True
        return [Send(encode_message("linked")), *self._finish()]

    # Listener

    def _hello(self, fields: Fields) -> list[Event]:
        digest = fields.bytes("ticket", length=_HASH_BYTES)
        self._commitment = fields.bytes("commit", length=_HASH_BYTES)
        self._peer = self._party(fields)
        self.state = State.S1_CALLED
        return [FindTicket(digest)]

    def _reveal(self, fields: Fields) -> list[Event]:
        self._peer_nonce = fields.bytes("nonce", length=NONCE_BYTES)
        proof = fields.bytes("proof", length=_HASH_BYTES)
        fields.done()
        committed = hmac.compare_digest(_commit(self._peer_did, self._peer_nonce), self._commitment)
        if not hmac.compare_digest(proof, self._proof(of_joiner=True)) or not committed:
            raise ProofWrong("the joining device")
        self.state = State.S2_PROVEN
        return [UseTicket()]

    # Joiner

    def _challenge(self, fields: Fields) -> list[Event]:
        self._peer_nonce = fields.bytes("nonce", length=NONCE_BYTES)
        self._peer = self._party(fields)
        self.state = State.S2_REVEALED
        return [Send(encode_message("reveal", nonce=self._nonce, proof=self._proof(of_joiner=True)))]

    def _confirm(self, fields: Fields) -> list[Event]:
        proof = fields.bytes("proof", length=_HASH_BYTES)
        fields.done()
        if not hmac.compare_digest(proof, self._proof(of_joiner=False)):
            raise ProofWrong("the device that showed the ticket")
        self.state = State.S3_ASKING
        return [self._ask()]

    # Both

    def _accept(self, fields: Fields) -> list[Event]:
        signature = fields.bytes("sig", length=64)
        addresses = fields.texts("addrs", max=MAX_ADDRESSES, max_each=MAX_ADDRESS_CHARS)
        fields.done()
        if self._peer_addresses is not None:
            raise LinkMessageInvalid("a second 'accept'")
        try:
            verify(self._peer_did, self._consent(not self._we_join), signature)
        except SignatureInvalid:
            raise LinkMessageInvalid("the signature under 'accept' does not verify") from None
        self._peer_addresses = dialable(addresses, peer_id_of(self._peer_did))
        return self._agree()

    def _linked(self, fields: Fields) -> list[Event]:
        fields.done()
        self._peer_stored = True
        return self._finish()

    def _agree(self) -> list[Event]:
        if not self._we_accepted or self._peer_addresses is None:
            return []
        self.state = State.S4_AGREED
        return [Agreed(self._known_peer(), self._scope(), self._peer_addresses)]

    def _finish(self) -> list[Event]:
        if not (self._we_stored and self._peer_stored):
            return []
        self.state = State.S5_DONE
        return [Done()]

    def _ask(self) -> Ask:
        number = int.from_bytes(hashlib.sha256(b"digits" + self._transcript()).digest()[:8], "big")
        return Ask(self._known_peer(), str(number % 10**_DIGITS).zfill(_DIGITS), self._scope())

    def _fail(self, error: ProtocolError) -> list[Event]:
        self.state = State.FAILED
        code = getattr(error, "code", "bad-request")
        return [Failed(error, encode_refusal(code, ""))]

    def _party(self, fields: Fields) -> Party:
        nickname = fields.text("nickname", max=MAX_NICKNAME_BYTES)
        scope = fields.text("scope", max=32)
        fields.done()
        if clean_name(nickname) != nickname:
            raise fields.invalid("nickname", "it holds characters that are not shown")
        if scope not in set(Scope):
            raise fields.invalid("scope", "unknown scope")
        return Party(self._peer_did, nickname, Scope(scope))

    def _known_peer(self) -> Party:
        assert self._peer is not None, "the peer is known once it was heard"
        return self._peer

    def _scope(self) -> Scope:
        return narrower(self._us.scope, self._known_peer().scope)

    def _proof(self, *, of_joiner: bool) -> bytes:
        assert self._ticket is not None, "a proof is about a ticket"
        role = b"joiner" if of_joiner else b"listener"
        return hmac.new(self._ticket.secret, role + b"\0" + self._transcript(), hashlib.sha256).digest()

    def _consent(self, of_joiner: bool) -> bytes:
        return domain("link") + (b"joiner" if of_joiner else b"listener") + b"\0" + self._transcript()

    def _transcript(self) -> bytes:
        """Return the hash of everything both sides have said; the joiner's words come first."""
        assert self._ticket is not None, "the transcript begins with a ticket"
        ours = [self._us.did, self._us.nickname, str(self._us.scope), self._nonce]
        peer = self._known_peer()
        theirs = [peer.did, peer.nickname, str(peer.scope), self._peer_nonce]
        joiner, listener = (ours, theirs) if self._we_join else (theirs, ours)
        said = encode([PROTOCOL, self._ticket.digest, self._commitment, *joiner, *listener])
        return hashlib.sha256(said).digest()


_OVER: Final = frozenset({State.S5_DONE, State.FAILED})

# What the other side's refusal codes mean here; any other code is told as it came.
_REFUSALS: Final[dict[str, Callable[[], ProtocolError]]] = {
    TicketUnknown.code: TicketUnknown,
    TicketExpired.code: TicketExpired,
    TicketUsed.code: TicketUsed,
    TicketBurned.code: TicketBurned,
    TicketBusy.code: TicketBusy,
    ProofWrong.code: lambda: ProofWrong("this device"),
    LinkRejected.code: lambda: LinkRejected("the other device"),
}

Step = Callable[[LinkSession, Fields], list[Event]]

_TRANSITIONS: Final[dict[tuple[State, str], Step]] = {
    (State.S0_NOTHING, "hello"): LinkSession._hello,
    (State.S1_CHALLENGED, "reveal"): LinkSession._reveal,
    (State.S1_COMMITTED, "challenge"): LinkSession._challenge,
    (State.S2_REVEALED, "confirm"): LinkSession._confirm,
    (State.S3_ASKING, "accept"): LinkSession._accept,
    (State.S4_AGREED, "linked"): LinkSession._linked,
}


def _commit(did: DeviceId, nonce: bytes) -> bytes:
    return hashlib.sha256(domain("link") + b"commit\0" + did.encode() + b"\0" + nonce).digest()
