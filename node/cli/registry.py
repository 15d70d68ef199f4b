"""`pull HOST/…`, `push`, `pack` and the logins: models to and from OCI registries."""

import sys
import time
from collections.abc import Iterator
from typing import Any, Final

from node.cli.background import ensure_node
from node.cli.exit_codes import ExitCode
from node.cli.invocation import Invocation
from node.cli.render import Screen, format_age, format_bytes, format_did
from node.errors import TerminalNeeded, UsageInvalid

MAX_PASSWORD_BYTES: Final = 8192
Facts = dict[str, Any]


def pull(invocation: Invocation) -> int:
    """Fetch a model from a registry; only chunks that are missing here move, everything is verified."""
    arguments = invocation.arguments
    body = {"reference": arguments.name, "own_name": arguments.own_name, "deltas": not arguments.no_deltas}
    with ensure_node(invocation) as client, client.stream("POST", "/v1/registry/pull", **body) as events:
        done = _follow(invocation.screen, events)
    total = done["bytes_moved"] + done["bytes_reused"] + done["bytes_resumed"]
    invocation.screen.done(
        f"pulled {done['name']} (manifest {done['manifest'][:12]}): {format_bytes(done['bytes_moved'])} moved "
        f"of {format_bytes(total)} in {done['seconds']:.1f} s, every layer verified, {_signed(done)}",
        "chat with it",
        f"tilenode run {done['name']}",
    )
    return ExitCode.OK


def _signed(done: Facts) -> str:
    if not done["publisher"]:
        return "signed by nobody"
    return f"signed by {done['publisher_name'] or format_did(done['publisher'])}"


def push(invocation: Invocation) -> int:
    """Put a model into a registry, with its chunk maps and signatures beside it."""
    arguments = invocation.arguments
    body = {"name": arguments.name, "target": arguments.target or "", "deltas": not arguments.no_deltas}
    with ensure_node(invocation) as client, client.stream("POST", "/v1/registry/push", **body) as events:
        done = _follow(invocation.screen, events)
    moving = "".join(f", and as {tag}" for tag in done["tags"][1:])
    there = done["blobs_there"] + done["blobs_mounted"]
    invocation.screen.done(
        f"pushed {done['name']} to {done['reference']}{moving} (manifest {done['manifest'][:12]}): "
        f"{format_bytes(done['bytes_sent'])} sent in {done['seconds']:.1f} s, {there} of "
        f"{there + done['blobs_sent']} blobs were there",
        "fetch it on another machine",
        f"tilenode pull {done['reference']}",
    )
    return ExitCode.OK


def _follow(screen: Screen, events: Iterator[Facts]) -> Facts:
    event: Facts = {}
    for event in events:
        if screen.json_wanted:
            screen.event(event)
        elif "total" in event:
            way = "to" if str(event["status"]).startswith("pushing") else "from"
            screen.progress(
                f"{event['status']} {way} {event['source']}: {format_bytes(event['completed'])} of "
                f"{format_bytes(event['total'])} at {format_bytes(event['rate'])}/s"
            )
        elif event.get("status") != "success":
            screen.progress(str(event.get("status", "")))
    return event


def pack(invocation: Invocation) -> int:
    """Write a model into a directory as an OCI image layout, for any program that reads one."""
    arguments = invocation.arguments
    with ensure_node(invocation) as client:
        packed = client.post("/v1/registry/pack", name=arguments.name, directory=str(arguments.directory.resolve()))
    invocation.screen.facts(packed)
    invocation.screen.done(
        f"packed {packed['name']} (manifest {packed['manifest'][:12]}) into {packed['directory']}: "
        f"{packed['blobs']} blobs, {format_bytes(packed['size_bytes'])}",
        "copy it to a registry",
        f"skopeo copy oci:{packed['directory']}:{packed['tags'][0]} docker://HOST/REPOSITORY:{packed['tags'][0]}",
    )
    return ExitCode.OK


def log_in(invocation: Invocation) -> int:
    """Show a login to a registry and keep it, encrypted, once it is accepted."""
    arguments = invocation.arguments
    username = arguments.username or _ask_username(invocation)
    password = _read_password() if arguments.password_stdin else _ask_password(invocation, username)
    with ensure_node(invocation) as client:
        kept = client.post("/v1/registry/login", host=arguments.host, username=username, password=password)
    invocation.screen.facts(kept)
    what = "logged in to" if kept["asked"] else "kept a login for"
    more = "" if kept["asked"] else ", which asks for none so far"
    invocation.screen.done(
        f"{what} {kept['host']} as {kept['username']}{more}; the password is in the encrypted database",
        "end it",
        f"tilenode registry logout {kept['host']}",
    )
    return ExitCode.OK


def _ask_username(invocation: Invocation) -> str:
    if not invocation.screen.interactive:
        raise TerminalNeeded("the user name", "give it: --username NAME")
    return input("User name: ").strip()


def _ask_password(invocation: Invocation, username: str) -> str:
    if not invocation.screen.interactive:
        raise TerminalNeeded(f"the password of {username}", "pipe it in with --password-stdin")
    import getpass

    return getpass.getpass(f"Password or access token of {username}: ")


def _read_password() -> str:
    """Return the password on standard input, without the newline at its end."""
    content = sys.stdin.buffer.read(MAX_PASSWORD_BYTES + 1)
    line = content.removesuffix(b"\n").removesuffix(b"\r")
    if not line or b"\n" in line or len(content) > MAX_PASSWORD_BYTES:
        raise UsageInvalid(
            f"standard input: expected a password on one line of at most {MAX_PASSWORD_BYTES} bytes",
            "pipe it in: tilenode registry login HOST --username NAME --password-stdin < FILE",
        )
    try:
        return line.decode()
    except UnicodeDecodeError:
        raise UsageInvalid("standard input: the password is not UTF-8", "type it on a terminal instead") from None


def log_out(invocation: Invocation) -> int:
    """Forget the login for a registry."""
    with ensure_node(invocation) as client:
        gone = client.post("/v1/registry/logout", host=invocation.arguments.host)
    invocation.screen.facts(gone)
    if not gone["forgotten"]:
        invocation.screen.say(
            f"there was no login for {gone['host']}. To see which there are, run: tilenode registry list"
        )
        return ExitCode.OK
    invocation.screen.done(
        f"the login for {gone['host']} is forgotten here", "log in again", f"tilenode registry login {gone['host']}"
    )
    return ExitCode.OK


def list_logins(invocation: Invocation) -> int:
    """List the registries that this node has a login for."""
    with ensure_node(invocation) as client:
        known = client.get("/v1/registry/logins")
    invocation.screen.facts(known)
    if not known["logins"]:
        invocation.screen.say("no login for any registry. To add one, run: tilenode registry login HOST")
        return ExitCode.OK
    rows = [(login["host"], login["username"], format_age(time.time() - login["added_s"])) for login in known["logins"]]
    invocation.screen.table(("REGISTRY", "USER", "SINCE"), rows)
    return ExitCode.OK
