"""`export` and `import`: models carried by hand to a device that nothing else reaches."""

import time
from collections.abc import Iterator, Sequence
from typing import Any

from node.cli.background import ensure_node
from node.cli.exit_codes import ExitCode
from node.cli.invocation import Invocation
from node.cli.render import Screen, format_age, format_bytes
from node.errors import TerminalNeeded, UsageInvalid

Facts = dict[str, Any]


def export(invocation: Invocation) -> int:
    """Write models into a directory, signed, with everything that another device needs to check them."""
    arguments = invocation.arguments
    directory = arguments.to.expanduser().resolve()
    since = {"since": arguments.since} if arguments.since else {}
    body = {"names": arguments.names, "directory": str(directory), **since}
    with ensure_node(invocation) as client, client.stream("POST", "/v1/bundle/export", **body) as events:
        facts = _follow(invocation.screen, events, f"to {directory}")
    invocation.screen.facts(facts)
    names = ", ".join(model["name"] for model in facts["models"])
    left_out = f" ({format_bytes(facts['left_out_bytes'])} left out)" if facts["left_out_bytes"] else ""
    invocation.screen.done(
        f"exported {names} into {directory}: {format_bytes(facts['carried_bytes'])}{left_out}, signed as this device",
        "take it in on the other device",
        f"tilenode import {directory}",
    )
    invocation.screen.say(f"  that device asks whether to accept {facts['exporter']}")
    return ExitCode.OK


def take(invocation: Invocation) -> int:
    """Check a bundle and take its models in; devices that are not known here need the person's word."""
    arguments, screen = invocation.arguments, invocation.screen
    directory = str(arguments.directory.expanduser().resolve())
    with ensure_node(invocation) as client:
        found = client.post("/v1/bundle/look", directory=directory)
        _show(screen, found)
        trusted, older = _trusted(invocation, found), _may_go_back(invocation, found)
        body = {"directory": directory, "trusted": trusted, "older": older}
        with client.stream("POST", "/v1/bundle/import", **body) as events:
            facts = _follow(screen, events, f"from {directory}")
    screen.facts({**facts, "exporter": found["exporter"], "trusted": trusted})
    names = [model["name"] for model in facts["models"]]
    signed = all(model["publisher"] for model in found["models"])
    verified = "every signature, log proof and byte verified" if signed else "every byte verified, not all signed"
    screen.done(
        f"imported {', '.join(names)}: {format_bytes(facts['copied_bytes'])} copied, {verified}",
        "chat with it",
        f"tilenode run {names[0]}",
    )
    return ExitCode.OK


def _show(screen: Screen, found: Facts) -> None:
    age = format_age(time.time() - found["created_s"])
    who = _named(found["exporter_name"], found["exporter"])
    screen.say(f"bundle of {who}, made {age}, {format_bytes(found['carried_bytes'])}")
    for model in found["models"]:
        signer = _named(model["publisher_name"], model["publisher"]) if model["publisher"] else "nobody"
        older = ", older than the one here" if model["older"] else ""
        older = f", in place of one by {model['taken_from']}" if model["taken_from"] else older
        screen.say(f"  {model['name']}  {format_bytes(model['size_bytes'])}  signed by {signer}{older}")


def _named(name: str, did: str) -> str:
    return f"{name} ({did})" if name else did


def _trusted(invocation: Invocation, found: Facts) -> Sequence[str]:
    """Return the devices that the person accepts for this import.

    Raises:
        TerminalNeeded: somebody has to be asked, and there is no terminal.
        UsageInvalid: the answer was no.
    """
    arguments, screen = invocation.arguments, invocation.screen
    unknown = [signer["did"] for signer in found["signers"] if not signer["known"]]
    if arguments.yes:
        return [*arguments.trust, *unknown]
    asked = [did for did in unknown if did not in arguments.trust]
    if asked and not screen.interactive:
        raise TerminalNeeded(
            f"whether to accept {', '.join(asked)}, not known here",
            f"compare with the other device (tilenode account) and add --trust {asked[0]}, or --yes",
        )
    for did in asked:
        screen.say(f"\n{did}\nis not known here. On that device `tilenode account` shows the same identity.")
        if input("Accept what it signed? [y/N] ").strip().lower() not in ("y", "yes"):
            raise UsageInvalid("nothing was imported", "ask whoever gave you the bundle for the device's identity")
    return [*arguments.trust, *asked]


def _may_go_back(invocation: Invocation, found: Facts) -> bool:
    """Return whether names may go back to an older model or to another publisher's; the node refuses where not."""
    moved = [model["name"] for model in found["models"] if model["older"] or model["taken_from"]]
    if invocation.arguments.yes or not moved or not invocation.screen.interactive:
        return bool(invocation.arguments.yes)
    answer = input(f"{', '.join(moved)} would stand for an older model, or another publisher's. Go on? [y/N] ")
    return answer.strip().lower() in ("y", "yes")


def _follow(screen: Screen, events: Iterator[Facts], where: str) -> Facts:
    event: Facts = {}
    began: tuple[float, int] | None = None
    for event in events:
        if "total" not in event:
            if event.get("status") != "success":
                screen.progress(str(event.get("status", "")))
            continue
        now_s = time.monotonic()
        began = began or (now_s, event["completed"])
        rate = (event["completed"] - began[1]) / max(now_s - began[0], 0.001)
        screen.progress(
            f"{event['status']} {event['digest'][:12]} {where}: {format_bytes(event['completed'])} of "
            f"{format_bytes(event['total'])} at {format_bytes(rate)}/s"
        )
    event.pop("status", None)
    return event
