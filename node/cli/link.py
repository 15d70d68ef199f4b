"""`link`: tickets, consent on both screens, the list of devices, and the end of a link."""

from collections.abc import Iterator
from typing import Any

from node.cli.background import ensure_node
from node.cli.client import ControlClient
from node.cli.exit_codes import ExitCode
from node.cli.invocation import Invocation
from node.cli.render import Screen, format_did
from node.cli.service import peer_line
from node.errors import ControlFailed, TerminalNeeded, UsageInvalid

Facts = dict[str, Any]
_SCOPES = {
    "own-device": "may sync chats and fetch models in both directions",
    "models-only": "may fetch models; chats never flow",
}


def enable(invocation: Invocation) -> int:
    """Show a ticket and wait for the other device, or use the ticket that it shows."""
    arguments = invocation.arguments
    scope = "models-only" if arguments.models_only else "own-device"
    if arguments.ticket is None:
        if arguments.yes:
            raise UsageInvalid(
                "--yes without a ticket: the listening side compares six digits before it says yes",
                "answer the request by its id: tilenode link approve ID",
            )
        return _listen(invocation, scope)
    if not arguments.yes and not invocation.screen.interactive:
        raise TerminalNeeded("whether to link", "give this side's consent on the command line: add --yes")
    return _join(invocation, scope)


def _listen(invocation: Invocation, scope: str) -> int:
    with ensure_node(invocation) as client, client.stream("POST", "/v1/link/enable", scope=scope) as events:
        return _follow(invocation, client, events, answers=invocation.screen.interactive)


def _join(invocation: Invocation, scope: str) -> int:
    arguments = invocation.arguments
    with (
        ensure_node(invocation) as client,
        client.stream("POST", "/v1/link/join", ticket=arguments.ticket, scope=scope, accept=arguments.yes) as events,
    ):
        return _follow(invocation, client, events, answers=not arguments.yes)


def _follow(invocation: Invocation, client: ControlClient, events: Iterator[Facts], *, answers: bool) -> int:
    """Show each event of one link; ask on the terminal where `answers`; return at its end."""
    screen = invocation.screen
    for event in events:
        if screen.json_wanted:
            screen.event(event)
        kind = event["event"]
        if kind == "ticket":
            _show_ticket(screen, event)
        elif kind == "request":
            _show_request(screen, event, answers=answers)
            if answers:
                _answer(client, event)
        elif kind == "linked":
            screen.done(
                f"linked {event['nickname']} ({format_did(event['did'])})", "use its models", "tilenode list --peers"
            )
            return ExitCode.OK
        elif kind in ("rejected", "expired", "failed"):
            raise _ended(kind, event)
    raise ControlFailed(
        "LinkEnded", "the link ended without an answer", "try again: tilenode link enable", ExitCode.LINK_REJECTED
    )


def _show_ticket(screen: Screen, event: Facts) -> None:
    screen.say("On the other device, run:")
    screen.say(f"\n  tilenode link enable {event['ticket']}\n")
    screen.say(f"The ticket works once and for {event['expires_s'] // 60} minutes. Waiting for the other device…")


def _show_request(screen: Screen, event: Facts, *, answers: bool) -> None:
    screen.say(f"\n  device   {event['nickname']} ({format_did(event['did'])})")
    screen.say(f"  digits   {event['digits'][:3]} {event['digits'][3:]}   (the other screen must show the same)")
    screen.say(f"  scope    {_SCOPES.get(event['scope'], event['scope'])}\n")
    if not answers and not screen.interactive:
        screen.say(f"To answer, run: tilenode link approve {event['id']} (or reject)")


def _answer(client: ControlClient, event: Facts) -> None:
    reply = input(f"Link to {event['nickname']}? Both screens show {event['digits'][:3]} {event['digits'][3:]}. [y/N] ")
    verb = "approve" if reply.strip().lower() in ("y", "yes") else "reject"
    client.post(f"/v1/link/{verb}", id=event["id"])


def _ended(kind: str, event: Facts) -> ControlFailed:
    default = {"rejected": ExitCode.LINK_REJECTED, "expired": ExitCode.TICKET_EXPIRED, "failed": ExitCode.INTERNAL}[
        kind
    ]
    return ControlFailed(
        str(event.get("kind", f"Link{kind.capitalize()}")),
        str(event.get("message") or f"the link was {kind}"),
        str(event.get("hint") or "begin again: tilenode link enable"),
        int(event.get("exit_code", default)),
    )


def approve(invocation: Invocation) -> int:
    """Say yes to the request with this id."""
    return _decide(invocation, "approve", "approved", "see the device", "tilenode link list-peers")


def reject(invocation: Invocation) -> int:
    """Say no to the request with this id."""
    return _decide(invocation, "reject", "rejected", "show another ticket", "tilenode link enable")


def _decide(invocation: Invocation, verb: str, past: str, next_step: str, command: str) -> int:
    facts = ControlClient(invocation.home).post(f"/v1/link/{verb}", id=invocation.arguments.id)
    invocation.screen.facts(facts)
    invocation.screen.done(f"{past} {invocation.arguments.id}", next_step, command)
    return ExitCode.OK


def disable(invocation: Invocation) -> int:
    """End the link to a device: its connections are cut now and it gets nothing more."""
    with ensure_node(invocation) as client:
        facts = client.post("/v1/link/disable", peer=invocation.arguments.peer)
    invocation.screen.facts(facts)
    invocation.screen.done(
        f"unlinked {facts['nickname']} ({format_did(facts['did'])})", "link it again", "tilenode link enable"
    )
    return ExitCode.OK


def list_peers(invocation: Invocation) -> int:
    """Print the linked devices and the requests that wait for an answer."""
    with ensure_node(invocation) as client:
        facts = client.get("/v1/peers")
    screen = invocation.screen
    screen.facts(facts)
    if not facts["peers"] and not facts["requests"]:
        screen.say("no device is linked. To link one, run: tilenode link enable")
    for peer in facts["peers"]:
        screen.say(f"{peer['nickname']}  {peer_line(peer)}")
    for request in facts["requests"]:
        screen.say(
            f"request {request['id']}: {request['nickname']} ({format_did(request['did'])}) digits {request['digits']}"
        )
        screen.say(f"  To answer, run: tilenode link approve {request['id']} (or reject)")
    return ExitCode.OK
