"""Tickets that must not link: wrong, tampered, expired, withdrawn, used, guessed. Two real nodes and a raw attacker."""

import dataclasses
from collections.abc import Iterator

import pytest
import trio

from identity.testing import key_from_number
from node.cli.exit_codes import ExitCode
from node.errors import RemoteRefused
from node.net.access import LinkedPeers
from node.net.transport import Transport
from node.ports import SystemClock
from protocol.link import MAX_MESSAGE_BYTES, PROTOCOL, LinkSession, Party, Send
from protocol.scope import Scope
from protocol.ticket import Ticket, issue_ticket, open_ticket
from tests.end_to_end.nodes import NodeProcess, link, started
from tests.end_to_end.refusals import check_logs, interrupt, refused

pytestmark = [pytest.mark.processes, pytest.mark.timeout(120)]

Nodes = tuple[NodeProcess, NodeProcess]


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    with started(tmp_path_factory.mktemp("tickets"), "shower", "joiner") as (shower, joiner):
        yield shower, joiner
        for node in (shower, joiner):
            check_logs(node)


@pytest.fixture(autouse=True)
def nobody_is_linked(nodes: Nodes) -> Iterator[None]:
    yield
    for node in nodes:
        listed = node.command("link", "list-peers")
        assert (listed["peers"], listed["requests"]) == ([], [])


def test_a_changed_ticket_is_refused_and_the_true_one_still_works(nodes: Nodes) -> None:
    shower, joiner = nodes
    listening = shower.follow("link", "enable")
    ticket = str(listening.next_event("ticket")["ticket"])
    middle = len(ticket) // 2
    changed = ticket[:middle] + ("A" if ticket[middle] != "A" else "B") + ticket[middle + 1 :]
    for wrong in ("hello", "äöü", "A" * 4000, changed, ticket[:-8], ticket + "AAAA"):
        said = refused(joiner, ExitCode.TICKET_INVALID, "link", "enable", wrong, "--yes")
        assert said.kind == "TicketInvalid"
        assert "tilenode link enable" in said.hint
        assert ticket not in said.message
    joining = joiner.follow("link", "enable", ticket, "--yes")
    request = listening.next_event("request")
    refused(shower, ExitCode.MODEL_NOT_FOUND, "link", "approve", "ffffffff")
    shower.command("link", "reject", request["id"])
    assert (joining.finish(), listening.finish()) == (ExitCode.LINK_REJECTED, ExitCode.LINK_REJECTED)
    for node in nodes:
        check_logs(node, ticket, str(request["digits"]))


def test_an_expired_ticket_and_one_of_a_wrong_clock_are_refused(nodes: Nodes) -> None:
    _, joiner = nodes
    now_s = SystemClock().now_s()
    said = refused(joiner, ExitCode.TICKET_EXPIRED, "link", "enable", _ticket(now_s - 1000), "--yes")
    assert "expired" in said.message
    assert "link enable" in said.hint
    said = refused(joiner, ExitCode.TICKET_INVALID, "link", "enable", _ticket(now_s + 5000), "--yes")
    assert "clock" in said.message


def test_a_ticket_of_a_device_that_is_away_names_it(nodes: Nodes) -> None:
    said = refused(nodes[1], ExitCode.PEER_UNREACHABLE, "link", "enable", _ticket(SystemClock().now_s() + 300), "--yes")
    assert key_from_number(66).did in said.message
    assert "tilenode serve" in said.hint


def test_a_ticket_that_was_withdrawn_or_is_ones_own_is_refused(nodes: Nodes) -> None:
    shower, joiner = nodes
    listening = shower.follow("link", "enable")
    ticket = str(listening.next_event("ticket")["ticket"])
    said = refused(shower, ExitCode.TICKET_INVALID, "link", "enable", ticket, "--yes")
    assert "itself" in said.message
    assert interrupt(listening) == ExitCode.INTERRUPTED
    said = refused(joiner, ExitCode.TICKET_INVALID, "link", "enable", ticket, "--yes")
    assert said.kind == "TicketUnknown"


async def test_a_used_ticket_links_nobody_else(nodes: Nodes) -> None:
    shower, joiner = nodes
    ticket = await trio.to_thread.run_sync(_use_a_ticket, shower, joiner)
    assert await _attempt(open_ticket(ticket, SystemClock().now_s())) == "ticket-used"
    await trio.to_thread.run_sync(_see_that_it_is_used, ticket, shower, joiner)


def _use_a_ticket(shower: NodeProcess, joiner: NodeProcess) -> str:
    listening = shower.follow("link", "enable")
    ticket = str(listening.next_event("ticket")["ticket"])
    joining = joiner.follow("link", "enable", ticket, "--yes")
    shower.command("link", "approve", listening.next_event("request")["id"])
    joining.next_event("linked")
    listening.next_event("linked")
    return ticket


def _see_that_it_is_used(ticket: str, shower: NodeProcess, joiner: NodeProcess) -> None:
    said = refused(joiner, ExitCode.TICKET_USED, "link", "enable", ticket, "--yes")
    assert "used" in said.message
    assert [peer["nickname"] for peer in shower.command("link", "list-peers")["peers"]] == ["joiner"]
    shower.command("link", "disable", "joiner")
    joiner.command("link", "disable", "shower")
    link(shower, joiner)  # the next right command
    shower.command("link", "disable", "joiner")
    joiner.command("link", "disable", "shower")


async def test_a_ticket_is_burned_by_guesses_at_its_secret_and_both_sides_hear_of_it(nodes: Nodes) -> None:
    shower, joiner = nodes
    listening = shower.follow("link", "enable")
    text = str((await trio.to_thread.run_sync(listening.next_event, "ticket"))["ticket"])
    ticket = open_ticket(text, SystemClock().now_s())
    for _ in range(3):
        assert await _attempt(dataclasses.replace(ticket, secret=bytes(16))) == "proof-wrong"
    assert await _attempt(ticket) == "ticket-burned"
    failed = await trio.to_thread.run_sync(listening.next_event, "failed")
    assert failed["kind"] == "TicketBurned"
    assert await trio.to_thread.run_sync(listening.finish) == ExitCode.TICKET_USED
    said = await trio.to_thread.run_sync(refused, joiner, ExitCode.TICKET_USED, "link", "enable", text, "--yes")
    assert "burned" in said.message


async def _attempt(ticket: Ticket) -> str:
    """Use a ticket as a device of its own and return the code with which the other side refuses."""
    key = key_from_number(66)
    transport = Transport(key, ["/ip4/127.0.0.1/tcp/0"], LinkedPeers([(ticket.did, Scope.MODELS)]))
    session, events = LinkSession.join(key, Party(key.did, "mallory", Scope.OWN), ticket, bytes(32), ())
    async with trio.open_nursery() as nursery:
        await nursery.start(transport.run)
        await transport.dial(ticket.did, ticket.addresses)
        async with transport.open(ticket.did, PROTOCOL) as stream:
            try:
                while True:
                    for event in events:
                        if isinstance(event, Send):
                            await stream.send(event.payload)
                    events = session.receive(await stream.receive(MAX_MESSAGE_BYTES))
            except RemoteRefused as error:
                nursery.cancel_scope.cancel()
                return error.code


def _ticket(expires_s: int) -> str:
    """Return a well signed ticket of a device that nobody runs, which expires then."""
    key = key_from_number(66)
    return issue_ticket(key, ["/ip4/127.0.0.1/tcp/9"], expires_s - 600, 600, bytes(16), bytes(16))[0]
