"""Hostile tickets and link messages: only named errors come out, and nobody is asked without a proof."""

from contextlib import suppress

from hypothesis import given
from hypothesis import strategies as st

from identity.testing import key_from_number
from protocol.address import parse_peer_address
from protocol.codec import encode
from protocol.errors import AddressInvalid, TicketError
from protocol.link import Agreed, Ask, Failed, FindTicket, LinkSession, Party
from protocol.scope import Scope
from protocol.ticket import issue_ticket, open_ticket

KEY, PEER = key_from_number(1), key_from_number(2)
TICKET = issue_ticket(KEY, ["/ip4/10.0.0.1/tcp/1"], 1_000, 600, bytes(16), bytes(16))[1]
FIELDS = st.sampled_from(["v", "t", "ticket", "commit", "nickname", "scope", "nonce", "proof", "sig", "addrs", "code"])
VALUES = (
    st.integers(-1, 2)
    | st.sampled_from(["hello", "challenge", "reveal", "confirm", "accept", "linked", "refused", "own-device", "x"])
    | st.sampled_from([bytes(32), bytes(64), b""])
    | st.lists(st.text(max_size=5), max_size=3)
    | st.none()
)
MESSAGES = st.dictionaries(FIELDS, VALUES, max_size=6).map(lambda said: encode({"v": 1, **said})) | st.binary(
    max_size=99
)


@given(st.text(max_size=300) | st.binary(max_size=300).map(lambda data: data.hex()))
def test_any_text_is_a_ticket_or_is_refused(text: str) -> None:
    with suppress(TicketError):
        open_ticket(text, 1_000)


@given(st.lists(MESSAGES, max_size=6), st.booleans())
def test_any_messages_end_in_a_named_failure_or_in_nothing(messages: list[bytes], joins: bool) -> None:
    if joins:
        us = Party(PEER.did, "x", Scope.OWN)
        session = LinkSession.join(PEER, us, TICKET, bytes(32), [])[0]
    else:
        session = LinkSession.listen(KEY, "x", PEER.did, bytes(32), [])
    for message in messages:
        for event in session.receive(message):
            assert not isinstance(event, Ask | Agreed)
            if isinstance(event, FindTicket):
                session.ticket_found(TICKET, Scope.OWN)
            if isinstance(event, Failed):
                assert str(event.error)
                assert session.receive(message) == []


@given(st.text(max_size=80) | st.from_regex(r"/ip[46]/[0-9a-f:.]{1,20}/tcp/[0-9]{1,6}", fullmatch=True))
def test_any_text_is_an_address_or_is_refused(text: str) -> None:
    with suppress(AddressInvalid):
        assert parse_peer_address(text, "").port
