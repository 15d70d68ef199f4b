"""`history`, `diff`, `rollback`, `pin`, `unpin`, `cp`, `tag`, `rm`, `du`, `gc`: the versions of models."""

import time
from collections.abc import Iterable, Iterator
from typing import Any, Final

from node.cli.background import ensure_node
from node.cli.exit_codes import ExitCode
from node.cli.invocation import Invocation
from node.cli.render import Screen, format_age, format_bytes, format_did
from node.errors import UsageInvalid

Facts = dict[str, Any]
MINUTE_S: Final = 60
DAY_S: Final = 86_400
MAX_LINES: Final = 40
_WORDS: Final = {"added": "+", "removed": "-", "changed": "~"}


def history(invocation: Invocation) -> int:
    """Print every version of a name, the newest first."""
    with ensure_node(invocation) as client:
        facts = client.get("/v1/history", name=invocation.arguments.name)
    screen = invocation.screen
    screen.facts(facts)
    rows = [
        (
            f"{'* ' if past['current'] else '  '}{past['version']}",
            past["manifest"][:12],
            format_age(time.time() - past["time_s"]),
            _event(past),
            past["what"],
            "-" if past["size_bytes"] is None else format_bytes(past["size_bytes"]),
            " ".join([*(f"@{release}" for release in past["releases"]), *(["pinned"] if past["pinned"] else [])]),
        )
        for past in reversed(facts["versions"])
    ]
    screen.table(("  VERSION", "MANIFEST", "SINCE", "BY", "NEW", "SIZE", "RELEASE"), rows)
    name = facts["name"]
    if len(rows) > 1:
        screen.say(f"* is what {name} stands for. To compare it with the one before, run: tilenode diff {name}")
    return ExitCode.OK


def _event(past: Facts) -> str:
    way = "to" if past["event"] == "rollback" else "from"
    return f"{past['event']} {way} {past['source']}" if past["source"] else str(past["event"])


def diff(invocation: Invocation) -> int:
    """Print what differs between two models, tensor by tensor."""
    arguments = invocation.arguments
    after = {} if arguments.after is None else {"after": arguments.after}
    with ensure_node(invocation) as client:
        facts = client.get("/v1/diff", before=arguments.before, **after)
    screen = invocation.screen
    screen.facts(facts)
    screen.say(
        f"{facts['before']} ({facts['before_manifest'][:12]}) → {facts['after']} ({facts['after_manifest'][:12]})"
    )
    if not facts["differs"]:
        screen.done("nothing differs that counts when the model runs")
        return ExitCode.OK
    _say_tensors(screen, facts)
    _say_part(screen, "files", map(_file_line, facts["files"]))
    _say_part(screen, "config.json", map(_config_line, facts["config"]))
    _say_part(screen, "Modelfile", facts["recipe"].splitlines()[2:])
    screen.say(f"\nA device that has the first moves {format_bytes(facts['new_bytes'])} for the second.")
    return ExitCode.OK


def _say_tensors(screen: Screen, facts: Facts) -> None:
    counts = {word: [each for each in facts["tensors"] if each["change"] == word] for word in _WORDS}
    told = ", ".join(f"{len(found)} {word}" for word, found in counts.items() if found)
    same = f"{facts['same_tensors']} the same ({format_bytes(facts['same_bytes'])})"
    screen.say(f"\ntensors: {told or 'none differs'}, {same}")
    _say_lines(screen, map(_tensor_line, facts["tensors"]))


def _say_part(screen: Screen, head: str, lines: Iterable[str]) -> None:
    found = list(lines)
    if found:
        screen.say(f"\n{head}")
        _say_lines(screen, found)


def _say_lines(screen: Screen, lines: Iterable[str]) -> None:
    found = list(lines)
    for line in found[:MAX_LINES]:
        screen.say(f"  {line}")
    if len(found) > MAX_LINES:
        screen.say(f"  … and {len(found) - MAX_LINES} more; all of them: --json")


def _tensor_line(change: Facts) -> str:
    about = change["after"] or change["before"]
    if change["before"] and change["after"] and change["before"] != change["after"]:
        about = f"{change['before']} → {change['after']}"
    return f"{_WORDS[change['change']]} {change['name']}  {about}  {_sizes(change)}"


def _file_line(change: Facts) -> str:
    return f"{_WORDS[change['change']]} {change['file']}  {_sizes(change)}"


def _sizes(change: Facts) -> str:
    before, after = change["before_bytes"], change["after_bytes"]
    if change["change"] == "changed" and before != after:
        return f"{format_bytes(before)} → {format_bytes(after)}"
    return format_bytes(after or before)


def _config_line(change: Facts) -> str:
    return f"{change['key']}: {change['before'] or '(not there)'} → {change['after'] or '(not there)'}"


def rollback(invocation: Invocation) -> int:
    """Let a name stand for an earlier version again."""
    facts = _post_version(invocation, "/v1/rollback")
    name, number = facts["name"], facts["version"]
    if facts["changed"]:
        what = f"{name} stands for {facts['source']} again ({_manifest(facts)}), as version {number}; {_reach(facts)}"
        invocation.screen.done(what, "undo that", f"tilenode rollback {name}")
    else:
        what = f"{name} stands for {_manifest(facts)} already"
        invocation.screen.done(what, "see its versions", f"tilenode history {name}")
    return ExitCode.OK


def copy(invocation: Invocation) -> int:
    """Copy a model to a name under which this device signs it."""
    facts = _post_move(invocation, "/v1/copy")
    what = f"copied {invocation.arguments.source} to {facts['name']} ({_manifest(facts)}); {_reach(facts)}"
    if not facts["changed"]:
        what = f"{facts['name']} is that copy already ({_manifest(facts)})"
    invocation.screen.done(what, "chat with it", f"tilenode run {facts['name']}")
    return ExitCode.OK


def tag(invocation: Invocation) -> int:
    """Give a model another name, tag or release."""
    facts = _post_move(invocation, "/v1/tag")
    what = f"tagged {invocation.arguments.source} as {facts['name']} ({_manifest(facts)}); {_reach(facts)}"
    if not facts["changed"]:
        what = f"{facts['name']} stands for {_manifest(facts)} already"
    invocation.screen.done(what, "see its versions", f"tilenode history {facts['name']}")
    return ExitCode.OK


def pin(invocation: Invocation) -> int:
    """Keep a version whatever is removed or cleared up."""
    facts = _post_version(invocation, "/v1/pin")
    name, number = facts["name"], facts["version"]
    what = f"pinned version {number} of {name} ({_manifest(facts)}): neither rm nor gc takes it"
    invocation.screen.done(what, "let it go again", f"tilenode unpin {name} {number}")
    return ExitCode.OK


def unpin(invocation: Invocation) -> int:
    """Keep a version no more than the others."""
    facts = _post_version(invocation, "/v1/unpin")
    what = f"version {facts['version']} of {facts['name']} ({_manifest(facts)}) is no longer pinned"
    invocation.screen.done(what, "see its versions", f"tilenode history {facts['name']}")
    return ExitCode.OK


def _post_version(invocation: Invocation, path: str) -> Facts:
    arguments = invocation.arguments
    which = {} if arguments.which is None else {"version": arguments.which}
    with ensure_node(invocation) as client:
        facts = client.post(path, name=arguments.name, **which)
    invocation.screen.facts(facts)
    return facts


def _post_move(invocation: Invocation, path: str) -> Facts:
    with ensure_node(invocation) as client:
        facts = client.post(path, source=invocation.arguments.source, target=invocation.arguments.target)
    invocation.screen.facts(facts)
    return facts


def _manifest(facts: Facts) -> str:
    return f"manifest {facts['manifest'][:12]}"


def _reach(facts: Facts) -> str:
    """Return who knows of a name that moved, and whose the model is."""
    if facts["published"]:
        return "signed and logged by this device, and the linked devices were told"
    if not facts["publisher"]:
        return "nobody signed it, so only this device knows the name"
    return (
        f"it stays signed by {facts['publisher_name'] or format_did(facts['publisher'])}, and the name moved only here"
    )


def remove(invocation: Invocation) -> int:
    """Remove models by name, or one version; layers that nothing else names go with them."""
    arguments, removed = invocation.arguments, []
    which = {} if arguments.removed_version is None else {"version": arguments.removed_version}
    if which and len(arguments.names) > 1:
        raise UsageInvalid("--version goes with one NAME", "remove one version at a time: tilenode rm NAME --version N")
    with ensure_node(invocation) as client:
        for name in arguments.names:
            facts = client.post("/v1/remove", name=name, force=arguments.force, **which)
            removed.append(facts)
            _say_removed(invocation.screen, facts)
    invocation.screen.facts({"removed": removed})
    return ExitCode.OK


def _say_removed(screen: Screen, facts: Facts) -> None:
    what = f"version {facts['version']} of {facts['name']}" if facts["version"] else str(facts["name"])
    whole = facts["versions"] > 1 and not facts["version"] and "@" not in facts["name"]
    count = f" with its {facts['versions']} versions" if whole else ""
    freed = format_bytes(facts["freed_bytes"])
    screen.done(f"removed {what}{count}, {freed} freed", "see what is left", "tilenode list")
    if facts["releases"]:
        names = " ".join(facts["releases"])
        screen.say(f"  its releases stay. To remove them as well, run: tilenode rm {names}")


def usage(invocation: Invocation) -> int:
    """Print where the store's bytes are."""
    with ensure_node(invocation) as client:
        facts = client.get("/v1/usage")
    screen = invocation.screen
    screen.facts(facts)
    rows = [
        (each["name"], str(each["versions"]), format_bytes(each["unique_bytes"]), format_bytes(each["shared_bytes"]))
        for each in sorted(facts["models"], key=lambda each: -each["unique_bytes"])
    ]
    screen.table(("NAME", "VERSIONS", "ALONE", "SHARED"), rows)
    screen.say()
    screen.table(("WHERE", "SIZE"), [(what, format_bytes(size)) for what, size in _places(facts) if size])
    garbage = facts["garbage"]
    if garbage is None:
        screen.say("\nwhat gc would free cannot be told. To see why, run: tilenode gc --dry-run")
        return ExitCode.OK
    if garbage["freed_bytes"]:
        screen.say(f"\ngc would free {format_bytes(garbage['freed_bytes'])}. To see what, run: tilenode gc --dry-run")
    if garbage["young_bytes"]:
        size = format_bytes(garbage["young_bytes"])
        screen.say(f"\n{size} that nothing needs stay for now: younger than an hour, or of a model that just ran.")
    return ExitCode.OK


def _places(facts: Facts) -> Iterator[tuple[str, int]]:
    yield "models (blobs)", facts["blob_bytes"] - facts["chunk_map_bytes"]
    yield "chunk maps", facts["chunk_map_bytes"]
    yield "signatures", facts["provenance_bytes"]
    yield "copies for running", facts["copy_bytes"]
    yield "unfinished downloads", facts["partial_bytes"]
    yield "quarantine", facts["quarantine_bytes"]
    yield "indexes", facts["index_bytes"]
    yield "prompts that were read", facts["prefix_bytes"]
    yield "total", facts["total_bytes"]


def collect(invocation: Invocation) -> int:
    """Remove what nothing needs any more, or with --dry-run say what would go."""
    arguments = invocation.arguments
    body: Facts = {"dry_run": arguments.dry_run}
    if arguments.keep is not None:
        body["keep"] = arguments.keep
    if arguments.min_age is not None:
        body["min_age_s"] = arguments.min_age * MINUTE_S
    if arguments.quarantine is not None:
        body["quarantine_s"] = arguments.quarantine * DAY_S
    with ensure_node(invocation) as client:
        facts = client.post("/v1/gc", **body)
    options = (("--keep", arguments.keep), ("--min-age", arguments.min_age), ("--quarantine", arguments.quarantine))
    given = "".join(f" {option} {value}" for option, value in options if value is not None)
    _say_collected(invocation.screen, facts, given)
    return ExitCode.OK


def _say_collected(screen: Screen, facts: Facts, options: str) -> None:
    screen.facts(facts)
    _say_lines(screen, _collected(facts))
    if facts["young_blobs"]:
        young = format_bytes(facts["young_bytes"])
        screen.say(
            f"  {facts['young_blobs']} blobs ({young}) that nothing needs stay for now: they, or the last run of their "
            "model, are not old enough (an hour, or --min-age MINUTES)"
        )
    parts = (("versions", "version"), ("blobs", "blob"), ("leftovers", "leftover"))
    counts = [f"{len(facts[key])} {one}{'s' * (len(facts[key]) != 1)}" for key, one in parts if facts[key]]
    counted = f"{', '.join(counts)}: {format_bytes(facts['freed_bytes'])}"
    if not counts:
        screen.done("nothing to remove", "see where the bytes are", "tilenode du")
    elif facts["dry_run"]:
        screen.done(f"would remove {counted}; nothing was changed", "remove it", f"tilenode gc{options}")
    else:
        screen.done(f"removed {counted}", "see where the bytes are", "tilenode du")


def _collected(facts: Facts) -> Iterator[str]:
    for each in facts["versions"]:
        yield f"version {each['version']} of {each['name']}  {each['manifest'][:12]}  not among the newest"
    for blob in facts["blobs"]:
        yield f"{blob['digest'][:12]}  {format_bytes(blob['size_bytes']):>9}  {blob['what']}, no name leads to it"
    for left in facts["leftovers"]:
        yield f"{left['path'][:24]:24}  {format_bytes(left['size_bytes'])}  {left['what']}"
