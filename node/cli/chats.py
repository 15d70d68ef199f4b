"""`chats` and `sync`: what was said, on all of one's own devices."""

import time
from typing import Any

from node.cli.background import ensure_node
from node.cli.exit_codes import ExitCode
from node.cli.invocation import Invocation
from node.cli.render import format_age, format_bytes

Facts = dict[str, Any]


def sync(invocation: Invocation) -> int:
    """Exchange entries with one or all of the person's own devices and say what moved."""
    peer = {"peer": invocation.arguments.peer} if invocation.arguments.peer else {}
    with ensure_node(invocation) as client:
        facts = client.post("/v1/sync", **peer)
    screen = invocation.screen
    screen.facts(facts)
    for report in facts["reports"]:
        if report.get("error"):
            screen.warn(f"{report['peer_name']}: {report['error']['message']}")
            if report["error"]["hint"]:
                screen.warn(f"hint: {report['error']['hint']}")
        else:
            screen.say(
                f"  {report['peer_name']}: {report['received']} entries received, {report['sent']} sent, "
                f"{format_bytes(report['bytes'])}"
            )
    reached, wanted = sum(1 for report in facts["reports"] if not report.get("error")), len(facts["reports"])
    if not wanted:
        screen.say("no own device is linked. To link one, run: tilenode link enable")
    elif reached:
        screen.done(f"synced with {reached} of {wanted} devices", "see the chats", "tilenode chats")
    return ExitCode.OK if reached == wanted else ExitCode.PEER_UNREACHABLE


def list_chats(invocation: Invocation) -> int:
    """Print the chats, the latest first."""
    with ensure_node(invocation) as client:
        facts = client.get("/v1/chats")
    invocation.screen.facts(facts)
    if not facts["chats"]:
        invocation.screen.say("no chats yet. To begin one, run: tilenode run demo")
        return ExitCode.OK
    now_ms = time.time() * 1000
    rows = [
        (chat["id"][:12], format_age((now_ms - chat["updated_ms"]) / 1000), str(chat["lines"]), chat["title"])
        for chat in facts["chats"]
    ]
    invocation.screen.table(("CHAT", "CHANGED", "LINES", "TITLE"), rows)
    return ExitCode.OK


def show(invocation: Invocation) -> int:
    """Print the lines of one chat."""
    with ensure_node(invocation) as client:
        facts = client.get("/v1/chat", id=invocation.arguments.id)
    screen = invocation.screen
    screen.facts(facts)
    screen.say(f"{facts['title']}\n")
    for line in facts["lines"]:
        who = line["role"] if line["role"] != "assistant" else line["model"] or "assistant"
        screen.say(f"{screen.dim(line['id'][:12])} {who} ({line['device_name']}){' edited' if line['edited'] else ''}")
        screen.say(f"  {line['content']}")
    screen.say(f"\nTo go on, run: tilenode run MODEL --chat {facts['id'][:12]}")
    return ExitCode.OK


def rename(invocation: Invocation) -> int:
    """Give a chat another title."""
    arguments = invocation.arguments
    return _change(
        invocation, "rename", f"renamed the chat to {arguments.title}", id=arguments.id, title=arguments.title
    )


def edit(invocation: Invocation) -> int:
    """Replace the text of one line; the change is an entry of its own and syncs like every other."""
    return _change(invocation, "edit", "edited the line", id=invocation.arguments.id, text=invocation.arguments.text)


def delete(invocation: Invocation) -> int:
    """Delete a chat or one line of it, on all of one's own devices."""
    line = {"line": invocation.arguments.line} if invocation.arguments.line else {}
    return _change(
        invocation, "delete", "deleted the line" if line else "deleted the chat", id=invocation.arguments.id, **line
    )


def _change(invocation: Invocation, verb: str, what: str, **body: str) -> int:
    with ensure_node(invocation) as client:
        facts = client.post(f"/v1/chats/{verb}", **body)
    invocation.screen.facts(facts)
    invocation.screen.done(what, "send it to your devices now", "tilenode sync")
    return ExitCode.OK
