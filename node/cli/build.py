"""`create` and `build`: a recipe becomes a model, and `build --check` builds one again to see that it comes out."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from node.cli.background import ensure_node
from node.cli.exit_codes import ExitCode
from node.cli.invocation import Invocation
from node.cli.render import Screen, format_bytes
from node.errors import BuildDiffers, UsageInvalid

MAX_RECIPE_BYTES: Final = 1024 * 1024
MAX_TIME_S: Final = 2**33
RECIPES: Final = ("Modelfile", "ModelSpec.yaml")
_SPEC_ENDINGS: Final = (".yaml", ".yml")
_MAX_SHOWN: Final = 20
Facts = dict[str, Any]


def create(invocation: Invocation) -> int:
    """Build a model from a recipe, sign it, log it and tell the linked devices."""
    arguments = invocation.arguments
    path = _recipe_path(arguments.file)
    body: Facts = {
        "recipe": _read_recipe(path),
        "kind": "modelspec" if path.suffix.lower() in _SPEC_ENDINGS else "modelfile",
        "directory": str(path.resolve().parent),
        "name": arguments.name,
        "quantization": arguments.quantize,
        "created_s": _created_s(invocation),
    }
    with ensure_node(invocation) as client, client.stream("POST", "/v1/create", **body) as events:
        facts = _follow(invocation.screen, events)
    invocation.screen.facts(facts)
    invocation.screen.done(
        f"created {facts['name']} (manifest {facts['manifest'][:12]}, {format_bytes(facts['size_bytes'])}), "
        f"signed and logged as entries {facts['entries'][0]} and {facts['entries'][1]}",
        "chat with it",
        f"tilenode run {facts['name']}",
    )
    return ExitCode.OK


def build(invocation: Invocation) -> int:
    """Build a model as `create` does; with `--check` build NAME again and compare."""
    if not invocation.arguments.check:
        if invocation.arguments.source:
            raise UsageInvalid("--source goes with --check", "to build from a directory, name it after FROM")
        return create(invocation)
    return _check(invocation)


def _check(invocation: Invocation) -> int:
    arguments, screen = invocation.arguments, invocation.screen
    if arguments.name is None:
        raise UsageInvalid("--check needs the NAME of a model", "see what there is: tilenode list")
    if arguments.file or arguments.quantize:
        raise UsageInvalid(
            "--check takes the recipe that the model records", "leave out --file and --quantize, or --check"
        )
    source = {"source": str(Path(arguments.source).resolve())} if arguments.source else {}
    with (
        ensure_node(invocation) as client,
        client.stream("POST", "/v1/build/check", name=arguments.name, **source) as events,
    ):
        facts = _follow(screen, events)
    screen.facts(facts)
    read_from = ", ".join(dict.fromkeys(facts["sources"])) or "nothing"
    if facts["same"]:
        screen.done(
            f"{facts['name']} was built again from {read_from}: the same manifest {facts['manifest'][:12]}",
            "see what went in",
            f"tilenode show {facts['name']}",
        )
        return ExitCode.OK
    screen.say(f"{facts['name']} was built again from {read_from}. Recorded → found now:")
    for difference in facts["differences"][:_MAX_SHOWN]:
        screen.say(f"  {difference['where']}: {_words(difference['expected'])} → {_words(difference['found'])}")
    if len(facts["differences"]) > _MAX_SHOWN:
        screen.say(f"  and {len(facts['differences']) - _MAX_SHOWN} more (all of them: --json)")
    raise BuildDiffers(facts["name"], facts["manifest"], facts["rebuilt"], len(facts["differences"]))


def _words(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 80 else f"{line[:79]}…"


def _recipe_path(given: str | None) -> Path:
    """Return the recipe's file: the one that was named, else the first of the usual names that is here."""
    if given:
        return Path(given)
    return next((path for path in map(Path, RECIPES) if path.exists()), Path(RECIPES[0]))


def _created_s(invocation: Invocation) -> int | None:
    """Return the time that goes into the manifest when SOURCE_DATE_EPOCH says one; else the sources decide."""
    text = invocation.environment.source_date_epoch
    if not text:
        return None
    if not (text.isascii() and text.isdecimal()) or int(text) > MAX_TIME_S:
        raise UsageInvalid(
            f"SOURCE_DATE_EPOCH is {text[:20]!r}, not seconds since 1970", "unset it, or set it to a number"
        )
    return int(text)


def _read_recipe(path: Path) -> str:
    hint = "name the file: tilenode create NAME -f PATH"
    try:
        with path.open("rb") as file:
            content = file.read(MAX_RECIPE_BYTES + 1)
    except OSError as error:
        raise UsageInvalid(f"recipe {path}: {(error.strerror or 'cannot be read').lower()}", hint) from error
    if len(content) > MAX_RECIPE_BYTES:
        raise UsageInvalid(f"recipe {path}: more than {MAX_RECIPE_BYTES} bytes", hint)
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise UsageInvalid(f"recipe {path}: not UTF-8 at byte {error.start}", hint) from error


def _arrival(event: Facts) -> str:
    """Return how the bytes of what FROM names came here."""
    commit = event["revision"][:12]
    name = f"{event['source']}{commit and f' at {commit}'}"
    ways = []
    if event["linked_bytes"] or event["copied_bytes"]:
        linked, copied = format_bytes(event["linked_bytes"]), format_bytes(event["copied_bytes"])
        ways.append(f"already in {event['cache']}: {linked} linked, {copied} copied")
    if event["stored_bytes"]:
        ways.append(f"{format_bytes(event['stored_bytes'])} already here")
    if event["downloaded_bytes"] or not ways:
        ways.append(f"{format_bytes(event['downloaded_bytes'])} downloaded")
    return f"{name}: {', '.join(ways)}"


def _follow(screen: Screen, events: Iterator[Facts]) -> Facts:
    """Show how far a longer work is and return its last event."""
    event: Facts = {}
    for event in events:
        if event.get("status") == "success":
            continue
        if screen.json_wanted:
            screen.event(event)
        elif event.get("status") == "fetched":
            screen.say(f"  {_arrival(event)}")
        elif "total" in event:
            rate = f" at {format_bytes(event['rate'])}/s" if event.get("rate") else ""
            place = f"from {event['source']}" if "digest" in event else event["source"]
            screen.progress(
                f"{event['status']} {place}: {format_bytes(event['completed'])} of {format_bytes(event['total'])}{rate}"
            )
        elif event.get("status"):
            screen.progress(str(event["status"]))
    return event
