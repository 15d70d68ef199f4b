"""The link protocol: the whole way, every way out of it, every message at the wrong moment, and its vectors."""

import json
from collections import deque
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from identity.did import DeviceId
from identity.keys import DeviceKey
from identity.testing import key_from_number
from protocol import errors
from protocol.codec import decode_message, encode_message
from protocol.errors import LinkMessageInvalid, LinkRefused, LinkRejected, ProofWrong, TicketUsed
from protocol.link import (
    _TRANSITIONS,
    Agreed,
    Ask,
    Done,
    Event,
    Failed,
    FindTicket,
    LinkSession,
    Party,
    Send,
    State,
    UseTicket,
)
from protocol.refusal import encode_refusal
from protocol.scope import Scope
from protocol.ticket import Ticket, issue_ticket

VECTORS = Path(__file__).parents[2] / "specs/vectors/0005-link"
NOW_S = 1_800_000_000
LISTENER, JOINER, OTHER = key_from_number(1), key_from_number(2), key_from_number(3)
AT_LISTENER, AT_JOINER = "/ip4/192.168.1.20/tcp/4001", "/ip4/192.168.1.30/tcp/4002"


def ticket_of(secret: bytes = b"s" * 16) -> Ticket:
    return issue_ticket(LISTENER, [AT_LISTENER], NOW_S, 600, secret, b"n" * 16)[1]


class Side:
    """A session and everything that came out of it."""

    def __init__(self, session: LinkSession, events: list[Event], ticket: Ticket, scope: Scope) -> None:
        self.session, self.ticket, self.scope = session, ticket, scope
        self.outbox: deque[bytes] = deque()
        self.events: list[Event] = []
        self.take(events)

    def take(self, events: list[Event]) -> None:
        for event in events:
            self.events.append(event)
            match event:
                case Send(payload):
                    self.outbox.append(payload)
                case FindTicket():
                    self.take(self.session.ticket_found(self.ticket, self.scope))
                case UseTicket():
                    self.take(self.session.ticket_used())
                case Agreed():
                    self.take(self.session.stored())
                case Failed(_, bytes() as reply):
                    self.outbox.append(reply)

    def only(self, kind: type[Any]) -> Any:
        (found,) = [event for event in self.events if isinstance(event, kind)]
        return found

    def has(self, kind: type[Any]) -> bool:
        return any(isinstance(event, kind) for event in self.events)


def joiner(
    ticket: Ticket | None = None, *, scope: Scope = Scope.OWN, nickname: str = "laptop", nonce: bytes = b"j" * 32
) -> Side:
    used = ticket or ticket_of()
    session, events = LinkSession.join(JOINER, Party(JOINER.did, nickname, scope), used, nonce, [AT_JOINER])
    return Side(session, events, used, scope)


def listener(peer: DeviceId = JOINER.did, *, scope: Scope = Scope.OWN, key: DeviceKey = LISTENER) -> Side:
    return Side(LinkSession.listen(key, "kitchen mac", peer, b"l" * 32, [AT_LISTENER]), [], ticket_of(), scope)


def exchange(one: Side, two: Side) -> None:
    while one.outbox or two.outbox:
        for here, there in ((one, two), (two, one)):
            while here.outbox:
                there.take(there.session.receive(here.outbox.popleft()))


def asked(**changes: Any) -> tuple[Side, Side]:
    j, l = joiner(**changes), listener()  # noqa: E741 - j and l are the roles
    exchange(j, l)
    return j, l


def test_the_whole_way() -> None:
    j, l = asked()  # noqa: E741 - j and l are the roles
    assert j.only(Ask).digits == l.only(Ask).digits
    assert j.only(Ask).peer == Party(LISTENER.did, "kitchen mac", Scope.OWN)
    assert l.only(Ask).peer == Party(JOINER.did, "laptop", Scope.OWN)
    j.take(j.session.accept())
    exchange(j, l)
    assert not j.has(Agreed)
    assert not l.has(Agreed)
    l.take(l.session.accept())
    exchange(j, l)
    for side, address in ((j, AT_LISTENER), (l, AT_JOINER)):
        assert side.only(Agreed).addresses[0].startswith(address)
        assert side.only(Agreed).scope is Scope.OWN
        assert side.has(Done)
        assert side.session.state is State.S5_DONE


@pytest.mark.parametrize("ours", list(Scope))
@pytest.mark.parametrize("theirs", list(Scope))
def test_the_link_is_own_only_when_both_chose_it(ours: Scope, theirs: Scope) -> None:
    j, l = joiner(scope=ours), listener(scope=theirs)  # noqa: E741 - j and l are the roles
    exchange(j, l)
    expected = Scope.OWN if ours is theirs is Scope.OWN else Scope.MODELS
    assert j.only(Ask).scope is l.only(Ask).scope is expected


@pytest.mark.parametrize("joiner_says_no", [True, False])
@pytest.mark.parametrize("other_said_yes", [True, False])
def test_one_no_ends_it_on_both_sides(joiner_says_no: bool, other_said_yes: bool) -> None:
    j, l = asked()  # noqa: E741 - j and l are the roles
    no, other = (j, l) if joiner_says_no else (l, j)
    if other_said_yes:
        other.take(other.session.accept())
    no.take(no.session.reject())
    exchange(j, l)
    for side in (j, l):
        assert isinstance(side.only(Failed).error, LinkRejected)
        assert not side.has(Agreed)


def test_answers_count_once_and_only_when_asked() -> None:
    j = joiner()
    assert j.session.accept() == j.session.reject() == []
    j, l = asked()  # noqa: E741 - j and l are the roles
    j.take(j.session.accept())
    assert j.session.accept() == j.session.reject() == []
    l.take(l.session.reject())
    assert l.session.accept() == []


def test_digits_depend_on_everything_that_was_said() -> None:
    digits = {
        asked()[0].only(Ask).digits,
        asked(nickname="laptop2")[0].only(Ask).digits,
        asked(scope=Scope.MODELS)[0].only(Ask).digits,
        asked(nonce=b"k" * 32)[0].only(Ask).digits,
    }
    assert len(digits) == 4
    assert all(len(text) == 6 and text.isdecimal() for text in digits)


def test_a_joiner_without_the_secret_is_refused() -> None:
    wrong = Ticket(**{**vars(ticket_of()), "secret": b"x" * 16})
    j, l = joiner(wrong), listener()  # noqa: E741 - j and l are the roles
    exchange(j, l)
    assert isinstance(l.only(Failed).error, ProofWrong)
    assert isinstance(j.only(Failed).error, ProofWrong)
    assert not l.has(UseTicket)


def test_a_listener_without_the_secret_is_refused() -> None:
    j = joiner()
    l = listener()  # noqa: E741 - j and l are the roles
    l.ticket = Ticket(**{**vars(ticket_of()), "secret": b"x" * 16})
    l.take(l.session.receive(j.outbox.popleft()))
    j.take(j.session.receive(l.outbox.popleft()))
    j.outbox.clear()
    j.take(j.session.receive(encode_message("confirm", proof=bytes(32))))
    assert isinstance(j.only(Failed).error, ProofWrong)
    assert not j.has(Ask)


def test_another_key_than_the_proven_one_gets_nowhere() -> None:
    """The ticket is right, but the connection was made by a third device that relays the messages."""
    j, l = joiner(), listener(OTHER.did)  # noqa: E741 - j and l are the roles
    exchange(j, l)
    assert isinstance(l.only(Failed).error, ProofWrong)


def test_a_nonce_other_than_the_committed_one_is_refused() -> None:
    j, l = joiner(), listener()  # noqa: E741 - j and l are the roles
    hello = j.outbox.popleft()
    l.take(l.session.receive(hello))
    other = joiner(nonce=b"z" * 32)
    other.outbox.clear()
    other.session._commitment = j.session._commitment
    other.take(other.session.receive(l.outbox.popleft()))
    l.take(l.session.receive(other.outbox.popleft()))
    assert isinstance(l.only(Failed).error, ProofWrong)


def test_an_accept_signed_by_somebody_else_is_refused() -> None:
    j, l = asked()  # noqa: E741 - j and l are the roles
    l.take(l.session.accept())
    l.outbox.clear()
    l.take(l.session.receive(encode_message("accept", sig=bytes(64), addrs=[])))
    assert isinstance(l.only(Failed).error, LinkMessageInvalid)
    j.take(j.session.accept())
    accept = j.outbox[0]
    j.take(j.session.receive(accept))  # its own words sent back to it
    assert isinstance(j.only(Failed).error, LinkMessageInvalid)


def test_a_used_ticket_ends_the_session_with_its_code() -> None:
    j, l = joiner(), listener()  # noqa: E741 - j and l are the roles
    l.take(l.session.receive(j.outbox.popleft()))
    j.take(j.session.receive(l.outbox.popleft()))
    (event,) = l.session.receive(j.outbox.popleft())
    assert isinstance(event, UseTicket)
    l.take(l.session.refuse(TicketUsed()))
    exchange(j, l)
    assert isinstance(j.only(Failed).error, TicketUsed)


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("ticket-unknown", "TicketUnknown"),
        ("ticket-expired", "TicketExpired"),
        ("ticket-used", "TicketUsed"),
        ("ticket-burned", "TicketBurned"),
        ("ticket-busy", "TicketBusy"),
        ("proof-wrong", "ProofWrong"),
        ("rejected", "LinkRejected"),
        ("busy", "LinkRefused"),
        ("from-the-future", "LinkRefused"),
    ],
)
def test_refusals_are_distinct_errors_with_hints(code: str, name: str) -> None:
    j = joiner()
    j.take(j.session.receive(encode_refusal(code, "because")))
    error = j.only(Failed).error
    assert type(error) is getattr(errors, name)
    assert error.hint
    assert j.session.receive(encode_refusal(code, "again")) == []
    assert j.session.refuse(LinkRefused("x", "")) == []


MESSAGES = {
    "hello": encode_message("hello", ticket=bytes(32), commit=bytes(32), nickname="x", scope="own-device"),
    "challenge": encode_message("challenge", nonce=bytes(32), nickname="x", scope="own-device"),
    "reveal": encode_message("reveal", nonce=bytes(32), proof=bytes(32)),
    "confirm": encode_message("confirm", proof=bytes(32)),
    "accept": encode_message("accept", sig=bytes(64), addrs=[]),
    "linked": encode_message("linked"),
    "nonsense": encode_message("nonsense"),
}


def in_state(state: State) -> Side:
    j, l = joiner(), listener()  # noqa: E741 - j and l are the roles
    l.session.state = state
    if state is State.S1_COMMITTED:
        return j
    if state is not State.S0_NOTHING:
        l.session.state = State.S0_NOTHING
        exchange(j, l)
        l.session.state = state
    return l


@pytest.mark.parametrize("state", [state for state in State if state not in (State.S5_DONE, State.FAILED)])
@pytest.mark.parametrize("kind", list(MESSAGES))
def test_every_message_in_every_state(state: State, kind: str) -> None:
    side = in_state(state)
    events = side.session.receive(MESSAGES[kind])
    failed = [event for event in events if isinstance(event, Failed)]
    if (state, kind) not in _TRANSITIONS:
        assert isinstance(failed[0].error, LinkMessageInvalid)
        assert "in the state" in str(failed[0].error)
    else:
        assert not failed or "in the state" not in str(failed[0].error)


@pytest.mark.parametrize("state", [State.S5_DONE, State.FAILED])
@pytest.mark.parametrize("kind", list(MESSAGES))
def test_nothing_happens_after_the_end(state: State, kind: str) -> None:
    side = in_state(state)
    assert side.session.receive(MESSAGES[kind]) == []


@pytest.mark.parametrize(
    "nickname",
    ["a\nb", "\u202eevil", "x" * 65, "", "  x", "did:key:z6MkjchhfUsD6", "Did:key:x", "z6MkjchhfUsD6", "\uff44id:key"],
)
def test_a_nickname_that_cannot_be_shown_is_refused(nickname: str) -> None:
    l = listener()  # noqa: E741 - the role
    hello = encode_message("hello", ticket=bytes(32), commit=bytes(32), nickname=nickname, scope="own-device")
    l.take(l.session.receive(hello))
    assert isinstance(l.only(Failed).error, LinkMessageInvalid)


@given(st.lists(st.sampled_from(["yes-j", "yes-l", "no-j", "no-l", "deliver-j", "deliver-l"]), max_size=14))
def test_in_any_order_nobody_stores_unless_both_said_yes(steps: list[str]) -> None:
    j, l = joiner(), listener()  # noqa: E741 - j and l are the roles
    yes: set[str] = set()
    for step in [*["deliver-j", "deliver-l"] * 2, *steps, *["deliver-j", "deliver-l"] * 3]:
        verb, role = step.split("-")
        here, there = (j, l) if role == "j" else (l, j)
        if verb == "deliver" and here.outbox:
            there.take(there.session.receive(here.outbox.popleft()))
        elif verb == "yes":
            yes |= {role} if here.session.waits else set()
            here.take(here.session.accept())
        elif verb == "no":
            here.take(here.session.reject())
        if j.has(Agreed) or l.has(Agreed):
            assert yes == {"j", "l"}


def test_the_session_vector() -> None:
    (case,) = json.loads((VECTORS / "sessions.json").read_text())
    given, output = case["input"], case["output"]
    keys = {role: DeviceKey(bytes.fromhex(given[role]["seed"])) for role in ("joiner", "listener")}
    text, ticket = issue_ticket(
        keys["listener"],
        given["listener"]["addresses"],
        given["now_s"],
        given["life_s"],
        bytes.fromhex(given["ticket_secret"]),
        bytes.fromhex(given["ticket_nonce"]),
    )
    assert text == output["ticket"]
    us = Party(keys["joiner"].did, given["joiner"]["nickname"], Scope(given["joiner"]["scope"]))
    nonces = {role: bytes.fromhex(given[role]["nonce"]) for role in keys}
    session, events = LinkSession.join(keys["joiner"], us, ticket, nonces["joiner"], given["joiner"]["addresses"])
    j = Side(session, events, ticket, us.scope)
    listening = LinkSession.listen(
        keys["listener"],
        given["listener"]["nickname"],
        us.did,
        nonces["listener"],
        given["listener"]["addresses"],
    )
    l = Side(listening, [], ticket, Scope(given["listener"]["scope"]))  # noqa: E741 - j and l are the roles
    exchange(j, l)
    for side in (j, l):
        side.take(side.session.accept())
        exchange(j, l)
    sent: dict[str, list[dict[str, str]]] = {"joiner": [], "listener": []}
    for role, side in (("joiner", j), ("listener", l)):
        for event in side.events:
            if isinstance(event, Send):
                sent[role].append({"type": decode_message(event.payload, 8_192)[0], "bytes": event.payload.hex()})
    assert sent == output["sent"]
    assert j.only(Ask).digits == output["digits"]
    assert j.only(Agreed).scope == output["scope"]


@pytest.mark.parametrize(
    "case", json.loads((VECTORS / "messages.json").read_text()), ids=lambda case: str(case["comment"])
)
def test_message_vectors(case: dict[str, Any]) -> None:
    side = in_state(State[case["input"]["state"]])
    failed = [
        event for event in side.session.receive(bytes.fromhex(case["input"]["message"])) if isinstance(event, Failed)
    ]
    if case["expect"] == "ok":
        assert not failed
    else:
        assert type(failed[0].error).__name__ == case["expect"]
