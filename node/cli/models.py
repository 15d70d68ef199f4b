"""`create`, `list`, `show`, `rm`, `pull`: models, here and on linked devices."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from node.cli.background import ensure_node, running_node
from node.cli.exit_codes import ExitCode
from node.cli.invocation import Invocation
from node.cli.render import Screen, as_argument, format_age, format_bytes, format_did
from node.errors import IdentityMissing, UsageInvalid

MAX_MODELFILE_BYTES: Final = 1024 * 1024
MAX_TIME_S: Final = 2**33
Facts = dict[str, Any]


def create(invocation: Invocation) -> int:
    """Build a model from a Modelfile, sign it, log it and tell the linked devices."""
    path = Path(invocation.arguments.file)
    body = {
        "name": invocation.arguments.name,
        "modelfile": _read_modelfile(path),
        "directory": str(path.resolve().parent),
        "created_s": _created_s(invocation),
    }
    with ensure_node(invocation) as client, client.stream("POST", "/v1/create", **body) as events:
        facts = _last(invocation.screen, events)
    invocation.screen.facts(facts)
    invocation.screen.done(
        f"created {facts['name']} (manifest {facts['manifest'][:12]}, {format_bytes(facts['size_bytes'])}), "
        f"signed and logged as entries {facts['entries'][0]} and {facts['entries'][1]}",
        "chat with it",
        f"tilenode run {facts['name']}",
    )
    return ExitCode.OK


def _created_s(invocation: Invocation) -> int:
    """Return the time that goes into the manifest: SOURCE_DATE_EPOCH, else 0, so that a build has one digest."""
    text = invocation.environment.source_date_epoch
    if not (text.isascii() and text.isdecimal()) or int(text) > MAX_TIME_S:
        raise UsageInvalid(
            f"SOURCE_DATE_EPOCH is {text[:20]!r}, not seconds since 1970", "unset it, or set it to a number"
        )
    return int(text)


def _read_modelfile(path: Path) -> str:
    hint = "name the file: tilenode create NAME -f PATH"
    try:
        with path.open("rb") as file:
            content = file.read(MAX_MODELFILE_BYTES + 1)
    except OSError as error:
        raise UsageInvalid(f"Modelfile {path}: {error.strerror}", hint) from error
    if len(content) > MAX_MODELFILE_BYTES:
        raise UsageInvalid(f"Modelfile {path}: more than {MAX_MODELFILE_BYTES} bytes", hint)
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise UsageInvalid(f"Modelfile {path}: not UTF-8 at byte {error.start}", hint) from error


def _last(screen: Screen, events: Iterator[Facts]) -> Facts:
    """Show each step of a longer work as progress and return its last event."""
    event: Facts = {}
    for event in events:
        if event.get("status"):
            screen.progress(str(event["status"]))
    return event


def list_models(invocation: Invocation) -> int:
    """Print the models here, or with `--peers` what linked devices offer."""
    return _list_offers(invocation) if invocation.arguments.peers else _list_local(invocation)


def _list_local(invocation: Invocation) -> int:
    client = running_node(invocation)
    pattern = {"mir": invocation.arguments.mir} if invocation.arguments.mir else {}
    facts = client.get("/v1/models", **pattern) if client is not None else _models_offline(invocation)
    invocation.screen.facts(facts)
    rows = [
        (
            model["name"],
            model["manifest"][:12] or "-",
            format_bytes(model["size_bytes"]),
            "embedded, built at its first use" if model["embedded"] else format_age(time.time() - model["modified_s"]),
            _publisher(model),
        )
        for model in facts["models"]
    ]
    if not invocation.arguments.mir:
        invocation.screen.table(("NAME", "MANIFEST", "SIZE", "MODIFIED", "SIGNED BY"), rows)
    elif rows:
        found = [(*row, model["mir"]) for row, model in zip(rows, facts["models"], strict=True)]
        invocation.screen.table(("NAME", "MANIFEST", "SIZE", "MODIFIED", "SIGNED BY", "MIR"), found)
    else:
        invocation.screen.say(
            f"no model has a MIR name like {invocation.arguments.mir!r}. To see all, run: tilenode list"
        )
    return ExitCode.OK


def _models_offline(invocation: Invocation) -> Facts:
    settings = invocation.settings()
    if not settings.did:
        raise IdentityMissing(invocation.home.root)
    # Imported here: the store and the signatures cost 200 ms that a running node saves.
    from node.cli.offline import models_here

    return models_here(invocation.home, settings, invocation.arguments.mir)


def _publisher(model: Facts) -> str:
    return str(model["publisher_name"] or format_did(model["publisher"])) or "-"


def _list_offers(invocation: Invocation) -> int:
    with ensure_node(invocation) as client:
        facts = client.get("/v1/offers")
    invocation.screen.facts(facts)
    if not facts["offers"]:
        invocation.screen.say("no linked device offers a model. To see the devices, run: tilenode status")
        return ExitCode.OK
    rows = [
        (
            offer["name"],
            offer["manifest"][:12],
            format_bytes(offer["size_bytes"]),
            offer["peer_name"],
            _publisher(offer),
        )
        for offer in facts["offers"]
    ]
    invocation.screen.table(("NAME", "MANIFEST", "SIZE", "ON", "SIGNED BY"), rows)
    first = facts["offers"][0]
    invocation.screen.say(
        f"To fetch one, run: tilenode pull {first['name']} --from {as_argument(first['peer_name'], first['peer'])}"
    )
    return ExitCode.OK


def show(invocation: Invocation) -> int:
    """Print one model's Modelfile, layers and provenance."""
    with ensure_node(invocation) as client:
        facts = client.get("/v1/show", name=invocation.arguments.name)
    screen = invocation.screen
    screen.facts(facts)
    screen.say(f"name       {facts['name']}")
    screen.say(f"manifest   sha256:{facts['manifest']}")
    screen.say(f"size       {format_bytes(facts['size_bytes'])} in {len(facts['layers'])} layers")
    provenance = facts["provenance"]
    if provenance:
        who = provenance["publisher_name"] or "a device that is not linked"
        screen.say(f"signed by  {who}, {provenance['publisher']}")
        screen.say(
            f"logged     entries {' and '.join(map(str, provenance['entries']))} of {provenance['log_size']}, "
            f"root {provenance['log_root'][:12]}"
        )
    if facts["mir"]:
        screen.say(f"mir        {facts['mir']}")
    for text in facts["licenses"]:
        screen.say(f"license    {_first_line(text)}")
    screen.say()
    screen.table(
        ("LAYER", "SIZE", "FILE", "TYPE"),
        [(f["digest"][:12], format_bytes(f["size_bytes"]), f["file"], f["media_type"]) for f in facts["layers"]],
    )
    screen.say(f"\n{facts['modelfile'].rstrip()}")
    return ExitCode.OK


def _first_line(text: str) -> str:
    lines = text.strip().splitlines() or [""]
    return lines[0][:80] + (f" (… {len(lines)} lines, below)" if len(lines) > 1 else "")


def remove(invocation: Invocation) -> int:
    """Remove models by name; layers that nothing else names go with them."""
    removed = []
    with ensure_node(invocation) as client:
        for name in invocation.arguments.names:
            facts = client.post("/v1/remove", name=name)
            removed.append(facts)
            invocation.screen.done(f"removed {facts['name']}", "see what is left", "tilenode list")
    invocation.screen.facts({"removed": removed})
    return ExitCode.OK


def pull(invocation: Invocation) -> int:
    """Fetch a model from linked devices; only chunks that are missing here move, each verified before it is kept."""
    arguments = invocation.arguments
    source = {"source": arguments.source} if arguments.source else {}
    with ensure_node(invocation) as client, client.stream("POST", "/v1/pull", name=arguments.name, **source) as events:
        facts = _follow_pull(invocation.screen, events)
    total = facts["bytes_moved"] + facts["bytes_reused"]
    invocation.screen.done(
        f"pulled {facts['name']} (manifest {facts['manifest'][:12]}): {format_bytes(facts['bytes_moved'])} moved "
        f"of {format_bytes(total)} in {facts['seconds']:.1f} s, every chunk and layer verified, "
        f"signed by {_publisher(facts)}",
        "chat with it",
        f"tilenode run {facts['name']}",
    )
    return ExitCode.OK


def _follow_pull(screen: Screen, events: Iterator[Facts]) -> Facts:
    event: Facts = {}
    for event in events:
        if screen.json_wanted:
            screen.event(event)
        elif "total" in event:
            screen.progress(
                f"{event['status']} from {event['source'] or 'this device'}: {format_bytes(event['completed'])} of "
                f"{format_bytes(event['total'])} at {format_bytes(event['rate'])}/s"
            )
        elif event.get("status") != "success":
            screen.progress(str(event.get("status", "")))
    return event
