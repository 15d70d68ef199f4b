"""`list`, `show`, `rm`, `pull`: models, here and on linked devices."""

import time
from collections.abc import Iterator
from typing import Any

from node.cli.adopt import say_foreign
from node.cli.background import ensure_node, running_node
from node.cli.exit_codes import ExitCode
from node.cli.invocation import Invocation
from node.cli.render import Screen, as_argument, format_age, format_bytes, format_did
from node.errors import IdentityMissing, UsageInvalid

Facts = dict[str, Any]


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
    say_foreign(invocation.screen, facts["foreign"])
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
    if facts["build"]:
        _say_build(screen, facts["build"])
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


def _say_build(screen: Screen, build: Facts) -> None:
    for source in build["sources"]:
        revision = f" at {source['revision'][:12]}" if source["revision"] else ""
        size = format_bytes(sum(file["size_bytes"] for file in source["files"]))
        screen.say(f"built from {source['name']}{revision} ({source['kind']}, {len(source['files'])} files, {size})")
    if build["quantization"] != "none":
        screen.say(f"quantized  {build['quantization']}")
    screen.say(f"tools      {', '.join(f'{tool} {version}' for tool, version in sorted(build['tools'].items()))}")
    screen.say(f"created    {build['created']}")
    screen.say(f"content    {build['content']}")


def _first_line(text: str) -> str:
    lines = text.strip().splitlines() or [""]
    return lines[0][:80] + (f" (… {len(lines)} lines, below)" if len(lines) > 1 else "")


def pull(invocation: Invocation) -> int:
    """Fetch a model from linked devices; only chunks that are missing here move, each verified before it is kept."""
    # Imported here: `list` and `show` need none of it.
    from node.cli.registry import pull as pull_from_registry
    from protocol.registry import names_registry

    arguments = invocation.arguments
    if names_registry(arguments.name) and not arguments.source:  # a device may have it under the same name
        return pull_from_registry(invocation)
    if arguments.own_name or arguments.no_deltas:
        raise UsageInvalid(
            f"{arguments.name} is not fetched from a registry, and only from one is there --as and --no-deltas",
            "name one: tilenode pull HOST/REPOSITORY:TAG",
        )
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
