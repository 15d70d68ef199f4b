"""`log`: this device's transparency log."""

from typing import Any

from node.cli.background import ensure_node, running_node
from node.cli.exit_codes import ExitCode
from node.cli.invocation import Invocation
from node.errors import IdentityMissing


def show(invocation: Invocation) -> int:
    """Print the entries and the signed checkpoint."""
    with ensure_node(invocation) as client:
        facts = client.get("/v1/log")
    screen = invocation.screen
    screen.facts(facts)
    if facts["entries"]:
        rows = [(str(e["index"]), e["kind"], e["model"], e["leaf"][:12]) for e in facts["entries"]]
        screen.table(("INDEX", "WHAT", "MODEL", "LEAF"), rows)
    screen.say(facts["checkpoint"].rstrip("\n"))
    screen.done(f"{facts['size']} entries, root {facts['root'][:12]}", "check every hash", "tilenode log verify")
    return ExitCode.OK


def export(invocation: Invocation) -> int:
    """Write checkpoint, tiles and entries as an independent tlog-tiles verifier reads them."""
    directory = str(invocation.arguments.directory.resolve())
    with ensure_node(invocation) as client:
        facts = client.post("/v1/log/export", directory=directory)
    invocation.screen.facts(facts)
    invocation.screen.done(f"wrote {facts['size']} entries to {facts['directory']}")
    invocation.screen.say(f"  the verifier key is {facts['verifier_key']}")
    return ExitCode.OK


def verify(invocation: Invocation) -> int:
    """Recompute the whole tree from the entries and check the checkpoint's signature."""
    client = running_node(invocation)
    facts = client.post("/v1/log/verify") if client is not None else _verify_offline(invocation)
    invocation.screen.facts(facts)
    invocation.screen.done(
        f"{facts['size']} entries verify to root {facts['root'][:12]}",
        "hand them to somebody",
        "tilenode log export DIR",
    )
    return ExitCode.OK


def _verify_offline(invocation: Invocation) -> dict[str, Any]:
    settings = invocation.settings()
    if not settings.did:
        raise IdentityMissing(invocation.home.root)
    if not (invocation.home.log / "checkpoint").exists():
        # The first start makes the log; where it was lost instead, only the keys know, and only a node opens them.
        with ensure_node(invocation) as client:
            return client.post("/v1/log/verify")
    # Imported here: the log's code costs time that a running node saves.
    from node.cli.offline import verified_log

    return verified_log(invocation.home, settings)
