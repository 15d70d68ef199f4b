"""Tickets: what opens, what is refused and why, and how often one works."""

import base64
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from identity.did import peer_id_of
from identity.keys import domain
from identity.testing import key_from_number
from protocol import errors
from protocol.codec import decode, encode
from protocol.errors import (
    TicketBurned,
    TicketBusy,
    TicketExpired,
    TicketInvalid,
    TicketUnknown,
    TicketUsed,
)
from protocol.ticket import MAX_LIFE_S, SKEW_S, Ticket, TicketBook, issue_ticket, open_ticket

VECTORS = json.loads((Path(__file__).parents[2] / "specs/vectors/0005-link/tickets.json").read_text())
KEY, NOW_S = key_from_number(1), 1_800_000_000
AT = "/ip4/192.168.1.20/tcp/4001"


def issue(life_s: int = 600) -> tuple[str, Ticket]:
    return issue_ticket(KEY, [AT], NOW_S, life_s, b"s" * 16, b"n" * 16)


@pytest.mark.parametrize("case", VECTORS, ids=lambda case: case["comment"])
def test_vectors(case: dict[str, object]) -> None:
    given, expect = case["input"], case["expect"]
    assert isinstance(given, dict)
    if expect == "ok":
        ticket = open_ticket(given["ticket"], given["now_s"])
        assert {
            "did": ticket.did,
            "addresses": list(ticket.addresses),
            "secret": ticket.secret.hex(),
            "nonce": ticket.nonce.hex(),
            "expires_s": ticket.expires_s,
            "digest": ticket.digest.hex(),
        } == case["output"]
        return
    with pytest.raises(getattr(errors, str(expect))):
        open_ticket(given["ticket"], given["now_s"])


def test_a_ticket_opens_as_it_was_issued_also_with_line_breaks() -> None:
    text, ticket = issue()
    assert open_ticket(text, NOW_S) == ticket
    assert open_ticket(f" {text[:70]}\n  {text[70:]}\n", NOW_S) == ticket
    assert ticket.addresses == (f"{AT}/p2p/{peer_id_of(KEY.did)}",)
    assert "secret" not in repr(ticket)
    assert text not in str(ticket)


@pytest.mark.parametrize(
    ("now_s", "error"),
    [
        (NOW_S + 600 + SKEW_S, None),
        (NOW_S + 600 + SKEW_S + 1, TicketExpired),
        (NOW_S - SKEW_S, None),
        (NOW_S - SKEW_S - 1, TicketInvalid),
    ],
)
def test_time_is_checked_with_room_for_wrong_clocks(now_s: int, error: type[Exception] | None) -> None:
    text, ticket = issue()
    if error is None:
        assert open_ticket(text, now_s) == ticket
        return
    with pytest.raises(error):
        open_ticket(text, now_s)


@given(st.data())
def test_a_changed_ticket_never_opens(data: st.DataObject) -> None:
    text, _ = issue()
    raw = bytearray(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(TicketInvalid):
        open_ticket(base64.urlsafe_b64encode(raw).decode().rstrip("="), NOW_S)


@pytest.mark.parametrize(
    "change", [{"v": 2}, {"purpose": "witness"}, {"secret": b"short"}, {"more": 1}, {"addrs": [1]}]
)
def test_a_signed_ticket_of_another_form_is_refused(change: dict[str, object]) -> None:
    text, _ = issue()
    body = decode(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), 4_096)
    assert isinstance(body, dict)
    del body["sig"]
    body.update(change)
    forged = encode({**body, "sig": KEY.sign(domain("ticket") + encode(body))})
    with pytest.raises(TicketInvalid):
        open_ticket(base64.urlsafe_b64encode(forged).decode().rstrip("="), NOW_S)


@pytest.mark.parametrize("text", ["", "!!!!", "QUJD", "é", "a" * 10_000, "did:key:z6Mk"])
def test_text_that_is_no_ticket_is_refused(text: str) -> None:
    with pytest.raises(TicketInvalid):
        open_ticket(text, NOW_S)


@pytest.mark.parametrize(("life_s", "secret"), [(0, bytes(16)), (MAX_LIFE_S + 1, bytes(16)), (1, bytes(15))])
def test_our_own_mistakes_are_not_issued(life_s: int, secret: bytes) -> None:
    with pytest.raises(ValueError, match="a ticket lives"):
        issue_ticket(KEY, [AT], NOW_S, life_s, secret, bytes(16))


def test_one_session_at_a_time_and_one_use() -> None:
    book, (_, ticket) = TicketBook(), issue()
    with pytest.raises(TicketUnknown):
        book.begin(ticket.digest, NOW_S)
    book.add(ticket, NOW_S)
    assert book.begin(ticket.digest, NOW_S) == ticket
    with pytest.raises(TicketBusy):
        book.begin(ticket.digest, NOW_S)
    book.end(ticket)
    assert book.begin(ticket.digest, NOW_S) == ticket
    assert book.use(ticket)
    assert not book.use(ticket)
    book.end(ticket)
    with pytest.raises(TicketUsed):
        book.begin(ticket.digest, NOW_S)


def test_a_ticket_is_used_only_by_a_session_in_flight() -> None:
    book, (_, ticket) = TicketBook(), issue()
    assert not book.use(ticket)
    book.add(ticket, NOW_S)
    assert not book.use(ticket)
    book.begin(ticket.digest, NOW_S)
    book.withdraw(ticket)
    assert not book.use(ticket)


def test_time_ends_a_ticket_for_its_issuer_exactly() -> None:
    book, (_, ticket) = TicketBook(), issue()
    book.add(ticket, NOW_S)
    book.begin(ticket.digest, NOW_S + 599)
    book.end(ticket)
    with pytest.raises(TicketExpired):
        book.begin(ticket.digest, NOW_S + 600)
    book.withdraw(ticket)
    with pytest.raises(TicketExpired):
        book.begin(ticket.digest, NOW_S + 600)


def test_three_wrong_proofs_burn_a_ticket() -> None:
    book, (_, ticket) = TicketBook(), issue()
    book.add(ticket, NOW_S)
    for burned in (False, False, True):
        book.begin(ticket.digest, NOW_S)
        assert book.wrong_proof(ticket) is burned
        book.end(ticket)
    with pytest.raises(TicketBurned):
        book.begin(ticket.digest, NOW_S)
    assert not book.use(ticket)


def test_a_withdrawn_ticket_is_unknown_and_old_ones_are_forgotten() -> None:
    book, (_, ticket) = TicketBook(), issue()
    book.add(ticket, NOW_S)
    book.withdraw(ticket)
    with pytest.raises(TicketUnknown):
        book.begin(ticket.digest, NOW_S)
    _, other = issue_ticket(KEY, [AT], NOW_S, 600, b"t" * 16, b"n" * 16)
    book.add(other, NOW_S + 600 + SKEW_S + 1)
    with pytest.raises(TicketUnknown):
        book.begin(ticket.digest, NOW_S + 601)
