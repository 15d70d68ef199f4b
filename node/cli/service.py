"""`serve`, `status`, `stop`, `ps`, `events`: the node itself."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from node.cli.background import running_node
from node.cli.client import ControlClient
from node.cli.exit_codes import ExitCode
from node.cli.invocation import Invocation
from node.cli.processes import wait_for_exit
from node.cli.render import Screen, format_address, format_age, format_bytes, format_did
from node.config import DEFAULT_API_HOST, DEFAULT_API_PORT, Config, parse_api_address
from node.errors import NodeNotRunning, NodeStopFailed
from node.imports import without_collections
from node.models.process import WorkerProcess
from node.serving import read_serving

STOP_WAIT_S: Final = 30.0
Facts = dict[str, Any]


def serve(invocation: Invocation) -> int:
    """Run the node until it is told to stop; prints one line once it accepts work."""
    config = serve_config(invocation)
    if config.passphrase is not None:
        from node.early_key import EarlyKey  # here, since no other verb opens a vault

        config = replace(config, derive=EarlyKey(config.home.vault, config.passphrase))
    worker = WorkerProcess.start() if invocation.arguments.warm else None
    # Imported here: the network and the HTTP server take seconds, and no other verb needs them in this process.
    with without_collections():
        from node.daemon import run_daemon

    def ready(facts: Mapping[str, Any]) -> None:
        if invocation.screen.json_wanted:
            invocation.screen.event({"event": "ready", **facts})
            return
        invocation.screen.done(f"{facts['nickname']} ({format_did(facts['did'])}) serves {facts['api']}")
        invocation.screen.say(f"  peers connect to {', '.join(map(format_address, facts['addresses']))}")
        invocation.screen.say(f"  everything lives in {facts['home']}")
        invocation.screen.say("  To chat, run in another terminal: tilenode run demo. To stop, press Ctrl-C.")

    run_daemon(config, ready, worker)
    return ExitCode.OK


def serve_config(invocation: Invocation) -> Config:
    """Return the node's configuration as the command line, the environment and the home give it."""
    arguments = invocation.arguments
    api = parse_api_address(arguments.api) if arguments.api else (DEFAULT_API_HOST, DEFAULT_API_PORT)
    given = invocation.passphrase_source()
    if given is None and invocation.screen.interactive:
        _ask_before_start(invocation)
    return Config(
        home=invocation.home,
        listen=tuple(arguments.listen or ()),
        api_host=api[0],
        api_port=api[1],
        # Started for a command such as `run`, the API is a guest: any port serves. `serve` itself means the port.
        api_is_chosen=bool(arguments.api) or not arguments.background,
        passphrase=given or _typed(invocation),
        # A passphrase that was handed over means the vault; a home whose keys have a place keeps it all the same.
        may_use_keychain=given is None,
        sources=invocation.environment.sources,
        serving=read_serving(invocation.environment.variables),
    )


def _ask_before_start(invocation: Invocation) -> None:
    """Ask for a passphrase now if one will be needed: once the node runs, Ctrl-C belongs to the node."""
    if not invocation.settings().did:
        from node.account import create_account

        create_account(
            invocation.home,
            nickname=None,
            passphrase=lambda: invocation.ask_passphrase(new=True),
            may_use_keychain=True,
        )
    elif invocation.home.vault.exists():
        invocation.ask_passphrase(new=False)


def _typed(invocation: Invocation) -> Callable[[], bytes] | None:
    typed = invocation.typed_passphrase()
    return None if typed is None else lambda: typed


def status(invocation: Invocation) -> int:
    """Print how the node and every linked device are; every line that is not green has cause, age and command."""
    screen = invocation.screen
    client = running_node(invocation)
    if client is None:
        return _status_of_stopped(invocation)
    facts = client.get("/v1/status")
    screen.facts(facts)
    screen.say(f"{facts['nickname']}  {facts['did']}")
    screen.say(f"  running     process {facts['pid']}, since {format_age(facts['uptime_s'])}")
    screen.say(f"  API         {facts['api']}")
    if facts["registry"]["serving"]:
        screen.say(f"  registry    {facts['registry']['url']}: every user of this machine can read the signed models")
    screen.say(f"  addresses   {', '.join(map(format_address, facts['addresses']))}")
    screen.say(f"  keys        {facts['rung']}: {facts['place']}")
    screen.say(f"  log         {facts['log']['size']} entries, root {facts['log']['root'][:12]}")
    screen.say(f"  models      {facts['models']} here, {facts['offers']} offered by linked devices")
    _print_peers(screen, facts["peers"])
    for line in facts["health"]:
        age = f" ({format_age(line['age_s'])})" if line["age_s"] is not None else ""
        screen.warn(f"{line['what']}: {line['cause']}{age}. Next: {line['command']}")
    return ExitCode.OK


def _status_of_stopped(invocation: Invocation) -> int:
    settings = invocation.settings()
    invocation.screen.facts(
        {"running": False, "home": str(invocation.home.root), "did": settings.did, "nickname": settings.nickname}
    )
    invocation.screen.say(f"{settings.nickname or 'no identity yet'}  {settings.did}")
    if invocation.screen.json_wanted:
        return ExitCode.NOT_RUNNING
    return invocation.screen.fail(NodeNotRunning(invocation.home.root))


def _print_peers(screen: Screen, peers: Sequence[Facts]) -> None:
    if not peers:
        screen.say("  devices     none linked. To link one, run: tilenode link enable")
        return
    for peer in peers:
        screen.say(f"  {peer['nickname']:<11} {peer_line(peer)}")


def peer_line(peer: Facts) -> str:
    """Return one line about a linked device: path, scope, last contact."""
    scope = "chats and models" if peer["scope"] == "own-device" else "models only"
    if peer["connected"]:
        path = f"direct, {format_address(peer['path'])}" if peer["path"] else "direct"
        return f"connected ({path}) · {scope} · {format_did(peer['did'])}"
    last = (
        "never reached"
        if peer["last_contact_age_s"] is None
        else f"last contact {format_age(peer['last_contact_age_s'])}"
    )
    return f"not connected, {last} · {scope} · {format_did(peer['did'])}"


def stop(invocation: Invocation) -> int:
    """Unload one model, or stop the node and wait until its process has ended."""
    client = running_node(invocation)
    if client is None:
        raise NodeNotRunning(invocation.home.root)
    if invocation.arguments.model:
        facts = client.post("/v1/models/stop", name=invocation.arguments.model)
        invocation.screen.facts(facts)
        invocation.screen.done(f"unloaded {facts['name']}", "load it again", f"tilenode run {facts['name']}")
        return ExitCode.OK
    return _stop_node(invocation, client)


def _stop_node(invocation: Invocation, client: ControlClient) -> int:
    pid = stop_and_wait(client)
    invocation.screen.facts({"stopped": True, "pid": pid})
    invocation.screen.done("the node has stopped", "start it again", "tilenode serve")
    return ExitCode.OK


def stop_and_wait(client: ControlClient) -> int:
    """Stop the node and return its process id once that has ended.

    Raises:
        NodeStopFailed: it has not ended after 30 seconds.
    """
    pid = int(client.get("/v1/ping")["pid"])
    client.post("/v1/stop")
    if not wait_for_exit(pid, STOP_WAIT_S):
        raise NodeStopFailed(pid, STOP_WAIT_S)
    return pid


def list_loaded(invocation: Invocation) -> int:
    """Print the models that are loaded."""
    facts = ControlClient(invocation.home).get("/v1/ps")
    invocation.screen.facts(facts)
    if not facts["models"]:
        invocation.screen.say("no model is loaded. To load one, run: tilenode run demo")
        return ExitCode.OK
    rows = [
        (model["name"], model["digest"][:12], format_bytes(model["memory_bytes"]), _until(model["expires_in_s"]))
        for model in facts["models"]
    ]
    invocation.screen.table(("NAME", "DIGEST", "MEMORY", "UNTIL"), rows)
    return ExitCode.OK


def _until(seconds: int | None) -> str:
    return "told to stop" if seconds is None else f"{seconds} s from now"


def follow_events(invocation: Invocation) -> int:
    """Print each event of the node as it happens, until Ctrl-C or until the node stops."""
    with ControlClient(invocation.home).stream("GET", "/v1/events") as events:
        for event in events:
            if invocation.screen.json_wanted:
                invocation.screen.event(event)
            else:
                fields = " ".join(f"{key}={value}" for key, value in event.items() if key != "event")
                invocation.screen.say(f"{event.get('event', '')} {fields}")
    return ExitCode.OK


def directory_size(directory: Path) -> int:
    """Return the bytes of all files below `directory`, links not followed; 0 where there is none."""
    total = 0
    for place, _, names in os.walk(directory):
        for name in names:
            try:
                total += (Path(place) / name).lstat().st_size
            except FileNotFoundError:
                continue  # a running node removes temporary files under our feet
    return total
