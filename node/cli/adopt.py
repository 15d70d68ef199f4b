"""`adopt`: a name for a model that another program copied into the store."""

from typing import Any

from node.cli.background import ensure_node
from node.cli.exit_codes import ExitCode
from node.cli.invocation import Invocation
from node.cli.render import Screen, format_bytes
from node.errors import ControlFailed

Facts = dict[str, Any]


def adopt(invocation: Invocation) -> int:
    """Hash the model whole and let a name stand for it."""
    arguments, screen = invocation.arguments, invocation.screen
    body = {"source": arguments.source, **({"name": arguments.name} if arguments.name else {})}
    with ensure_node(invocation) as client, client.stream("POST", "/v1/adopt", **body) as events:
        for event in events:
            if screen.json_wanted:
                screen.event(event)
            if event["status"] != "success":
                screen.progress(f"{event['status']}  {format_bytes(event['total'])}")
                continue
            about = (
                f"{event['manifest'][:12]}, {format_bytes(event['size_bytes'])}, every byte hashed, signed by nobody"
            )
            name = event["name"]
            screen.done(f"adopted {name} ({about})", "sign it under a name of your own", f"tilenode cp {name} NAME")
            return ExitCode.OK
    raise ControlFailed("AdoptionEnded", "the node ended while it worked on this", "run it again", ExitCode.NOT_RUNNING)


def say_foreign(screen: Screen, models: list[Facts]) -> None:
    """Say what other programs put into the store, each with the command that names it."""
    for model in models:
        called = f"{model['reference']} " if model["reference"] else ""
        what = f"{called}({model['manifest'][:12]}, {format_bytes(model['size_bytes'])})"
        if model["problem"]:
            screen.say(f"put here by another program, not usable: {what}: {model['problem']}")
        else:
            screen.say(
                f"put here by another program: {what}. To use it, run: tilenode adopt {model['manifest'][:12]} NAME"
            )
