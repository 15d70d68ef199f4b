"""`registry serve` and `registry connect`: the models as an OCI registry, here and from a linked device."""

from typing import Any, Final

from node.cli.background import ensure_node, running_node
from node.cli.exit_codes import ExitCode
from node.cli.invocation import Invocation
from node.cli.render import Screen, as_argument
from node.errors import ControlFailed, IdentityMissing, UsageInvalid

Facts = dict[str, Any]
SHOWN_MODELS: Final = 8
MAX_PORT: Final = 65535


def serve(invocation: Invocation) -> int:
    """Say whether programs on this machine may read the models as a registry, or switch that on or off."""
    if not invocation.settings().did:
        raise IdentityMissing(invocation.home.root)
    wanted = invocation.arguments.switch
    if wanted not in (None, "on", "off"):
        raise UsageInvalid(f"serve {wanted!r}: expected on or off", "see: tilenode registry serve --help")
    client = running_node(invocation) if wanted is None else ensure_node(invocation)
    if client is None:
        return _say_of_stopped(invocation)
    facts = client.get("/v1/registry/serve") if wanted is None else client.post("/v1/registry/serve", on=wanted == "on")
    invocation.screen.facts(facts)
    _say_serving(invocation.screen, facts)
    return ExitCode.OK


def _say_of_stopped(invocation: Invocation) -> int:
    serving = invocation.settings().serve_registry
    invocation.screen.facts({"serving": serving, "running": False})
    state = "serves" if serving else "does not serve"
    invocation.screen.say(f"the node does not run; when it does it {state} its models to programs on this machine")
    return ExitCode.OK


def _say_serving(screen: Screen, facts: Facts) -> None:
    if not facts["serving"]:
        screen.done("programs on this machine see no registry", "let them", "tilenode registry serve on")
        return
    screen.done(f"every program and user of this machine can read the signed models here at {facts['url']}")
    screen.say(f"  To see what is there, run: curl {facts['url']}_catalog")
    screen.say("  To end it, run: tilenode registry serve off")


def connect(invocation: Invocation) -> int:
    """Open a port on this machine for a linked device's registry until Ctrl-C."""
    arguments = invocation.arguments
    body = {"peer": arguments.peer, "port": arguments.port}
    shown: Facts = {}
    if not 0 <= arguments.port <= MAX_PORT:
        raise UsageInvalid(f"port {arguments.port}: expected 0 to {MAX_PORT}, 0 for any", "leave --port away")
    with ensure_node(invocation) as client, client.stream("POST", "/v1/registry/connect", **body) as events:
        try:
            for event in events:
                if invocation.screen.json_wanted:
                    invocation.screen.event(event)
                _show_connection(invocation.screen, event)
                shown = event
        except KeyboardInterrupt:
            if not shown:
                raise
            invocation.screen.done(
                f"the port is closed and its password is void; {shown['nickname']} stays linked",
                "open it again",
                f"tilenode registry connect {as_argument(shown['nickname'], shown['did'])}",
            )
            return ExitCode.OK
    raise ControlFailed(
        "ConnectionEnded", "the connection ended", "see how it is: tilenode status", ExitCode.NOT_RUNNING
    )


def _show_connection(screen: Screen, event: Facts) -> None:
    server, models = event["server"], event["models"]
    screen.done(f"{event['nickname']}'s models are at {server}, on this machine only, until Ctrl-C")
    screen.say(f"  user      {event['user']}")
    screen.say(f"  password  {event['password']}")
    screen.say(f"  login     {event['login_file']}")
    for number, model in enumerate(models[:SHOWN_MODELS]):
        screen.say(f"  {'models' if number == 0 else '':<9} {model}")
    if len(models) > SHOWN_MODELS:
        screen.say(f"  {'':<9} … and {len(models) - SHOWN_MODELS} more")
    if not models:
        screen.say("  models    none is offered there yet")
        return
    name = models[0].rpartition("/")[2].partition(":")[0]
    screen.say("\nTo copy a model to a directory, run in another terminal:")
    screen.say(
        f"  skopeo copy --src-tls-verify=false --src-authfile {event['login_file']} "
        f"docker://{server}/{models[0]} oci:{name}-copy:latest"
    )
