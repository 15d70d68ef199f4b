"""`verify` and `data set-path`: the store's health, and where it lies."""

import shlex
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from node.cli.background import ensure_node, running_node
from node.cli.client import ControlClient
from node.cli.exit_codes import ExitCode
from node.cli.invocation import Invocation
from node.cli.render import Screen, describe_error, format_bytes, format_did
from node.cli.service import stop_and_wait
from node.errors import ControlFailed, TerminalNeeded, UsageInvalid

REPORT_S: Final = 0.2
Facts = dict[str, Any]
T = TypeVar("T")


def verify(invocation: Invocation) -> int:
    """Hash every byte of models again and check signatures and log proofs; with `--repair` put right what is bad."""
    arguments = invocation.arguments
    if bool(arguments.name) == arguments.all:
        raise UsageInvalid("give one NAME, or --all", "see: tilenode verify --help")
    with ensure_node(invocation) as client:
        if not arguments.all:
            invocation.screen.facts(_verify_one(invocation, client, arguments.name))
            return ExitCode.OK
        names = [model["name"] for model in client.get("/v1/models")["models"] if not model["embedded"]]
        return _verify_all(invocation, client, names)


def _verify_one(invocation: Invocation, client: ControlClient, name: str) -> Facts:
    facts = _repair(invocation.screen, client, name) if invocation.arguments.repair else {}
    if facts and not facts["repaired"] and not invocation.arguments.all:
        invocation.screen.say("  nothing had to be repaired")
    checked = client.post("/v1/verify", name=name)
    screen = invocation.screen
    for layer in checked["layers"] if not invocation.arguments.all else ():
        screen.say(f"  {layer['digest'][:12]}  {format_bytes(layer['size_bytes']):>10}  {layer['file']}")
    screen.done(
        f"{checked['name']}: {len(checked['layers'])} layers ({format_bytes(checked['size_bytes'])}) hash to their "
        f"digests; {_vouched(checked)}",
        *(() if invocation.arguments.all else ("chat with it", f"tilenode run {checked['name']}")),
    )
    return {**checked, **({"repair": facts} if facts else {})}


def _vouched(checked: Facts) -> str:
    if not checked["publisher"]:
        return "nobody signed it"
    who = checked["publisher_name"] or format_did(checked["publisher"])
    return f"signed by {who}, both log entries proven under {checked['log_size']} entries"


def _verify_all(invocation: Invocation, client: ControlClient, names: Sequence[str]) -> int:
    """Verify every model; one that fails does not keep the others from being looked at."""
    outcomes, code = [], ExitCode.OK
    for name in names:
        try:
            outcomes.append({"ok": True, **_verify_one(invocation, client, name)})
        except ControlFailed as error:
            code = code or ExitCode(error.exit_code)
            outcomes.append({"ok": False, "name": name, "error": describe_error(error)})
            invocation.screen.warn(str(error) if str(error).startswith(name) else f"{name}: {error}")
    invocation.screen.facts({"models": outcomes})
    bad = sum(not outcome["ok"] for outcome in outcomes)
    if not names:
        invocation.screen.say("no model is in the store yet. To see what there is, run: tilenode list")
    elif bad:
        tried = invocation.arguments.repair
        hint = "see who is there, run: tilenode status" if tried else "repair them, run: tilenode verify --all --repair"
        invocation.screen.say(f"{bad} of {len(names)} models are not whole. To {hint}")
    else:
        invocation.screen.done(f"all {len(names)} models are what they were signed as", "see them", "tilenode list")
    return code


def _repair(screen: Screen, client: ControlClient, name: str) -> Facts:
    facts: Facts = {}
    with client.stream("POST", "/v1/repair", name=name) as events:
        for facts in events:
            _show_progress(screen, facts)
    facts.pop("status")
    for blob in facts["repaired"]:
        sources = [f"{format_bytes(blob['moved_bytes'])} from {', '.join(blob['sources'])}"] if blob["sources"] else []
        local = [f"{format_bytes(blob['local_bytes'])} from this device"] if blob["local_bytes"] else []
        screen.say(
            f"  repaired {blob['file']} ({blob['digest'][:12]}): {format_bytes(blob['bad_bytes'])} of "
            f"{format_bytes(blob['size_bytes'])} were bad; {' and '.join(sources + local) or 'nothing had to move'}"
        )
    return facts


def _show_progress(screen: Screen, event: Facts) -> None:
    if "total" in event:
        source = f" from {event['source']}" if event.get("source") else ""
        done = f"{format_bytes(event['completed'])} of {format_bytes(event['total'])}"
        screen.progress(f"{event['status']}{source}: {done}")
    elif event.get("status") != "success":
        screen.progress(str(event.get("status", "")))


def set_path(invocation: Invocation) -> int:
    """Move the store to another directory or disk; run again after a kill, it goes on where it was."""
    # Imported here: no other verb needs them.
    from node.store_place import set_store, switcher
    from store.errors import StoreAway
    from store.layout import Layout
    from store.lock import lock_home
    from store.move import MoveReport, give_up_move, move_store, settle_move
    from store.move_journal import locate_store, read_move

    home, screen = invocation.home, invocation.screen
    target = Path(invocation.arguments.directory).expanduser().resolve()

    def work() -> tuple[MoveReport, float] | None:
        began_s = time.monotonic()
        with lock_home(home.lock):
            settle_move(home.root, set_store(home), switcher(home))
            source = locate_store(home.root, set_store(home))
            if source == home.own_store:
                Layout(source)  # a home that has no model yet has no store yet
            elif not (source / "oci-layout").is_file():
                raise StoreAway(source)
            if target == source:
                given_up = read_move(home.root) and give_up_move(home.root)
                _say_stayed(screen, source, given_up.target if given_up else None)
                return None
            done = move_store(home.root, source, target, switcher(home), _Progress(screen, source))
            return done, time.monotonic() - began_s

    if target == home.store and read_move(home.root) is None:
        _say_stayed(screen, target, None)
        return ExitCode.OK
    report = _while_stopped(invocation, work)
    if report is not None:
        _say_moved(screen, *report)
    return ExitCode.OK


def _while_stopped(invocation: Invocation, work: Callable[[], T]) -> T:
    """Return what `work` does while no node runs; one that ran is stopped with consent, and started again after."""
    client = running_node(invocation)
    if client is None:
        return work()
    _require_consent(invocation)
    with client:
        stop_and_wait(client)
    try:
        return work()
    finally:
        ensure_node(invocation)


def _require_consent(invocation: Invocation) -> None:
    if invocation.arguments.yes:
        return
    if not invocation.screen.interactive:
        raise TerminalNeeded("whether the node may stop for the move", "add --yes, or stop it first: tilenode stop")
    answer = input("The node has to stop while its store moves, and is started again after. Go on? [y/N] ")
    if answer.strip().lower() not in ("y", "yes"):
        raise UsageInvalid("nothing was moved", "run it again when the node may stop")


class _Progress:
    """Shows what is copied, from where and how fast; a few times a second."""

    def __init__(self, screen: Screen, source: Path) -> None:
        self._screen = screen
        self._source = source
        self._began: tuple[float, int] | None = None
        self._shown_s = 0.0

    def __call__(self, copying: Any) -> None:
        now_s = time.monotonic()
        if self._began is None:
            self._began = (now_s, copying.completed)
        if now_s - self._shown_s < REPORT_S:
            return
        self._shown_s = now_s
        rate = (copying.completed - self._began[1]) / max(now_s - self._began[0], 0.001)
        self._screen.progress(
            f"copying {Path(copying.file).name[:12]} from {self._source}: {format_bytes(copying.completed)} of "
            f"{format_bytes(copying.total)} at {format_bytes(rate)}/s"
        )


def _say_stayed(screen: Screen, source: Path, given_up: Path | None) -> None:
    screen.facts({"store": str(source), "moved": False, "given_up": str(given_up) if given_up else None})
    if given_up:
        screen.done(f"the store stays at {source}; the copy begun at {given_up} is removed")
    else:
        screen.done(f"the store is at {source} already", "see everything", "tilenode data")


def _say_moved(screen: Screen, report: Any, seconds: float) -> None:
    screen.facts(
        {
            "store": str(report.target),
            "moved": True,
            "source": str(report.source),
            "how": report.how.value,
            "copied_bytes": report.copied_bytes,
            "kept_bytes": report.kept_bytes,
            "damaged": report.damaged,
            "left": str(report.left) if report.left else None,
            "seconds": round(seconds, 3),
        }
    )
    if report.left:
        screen.warn(f"the old tree could not be removed ({report.left}). Next: rm -r {shlex.quote(str(report.source))}")
    for digest in report.damaged:
        screen.warn(
            f"blob {digest[:12]} no longer hashed to its name before the move; it is in quarantine. "
            "Next: tilenode verify --all --repair"
        )
    if report.copied_bytes or report.kept_bytes:
        kept = f" ({format_bytes(report.kept_bytes)} were there from before)" if report.kept_bytes else ""
        copied = f"{format_bytes(report.copied_bytes)} copied and read back in {seconds:.1f} s"
        how = f"{copied}{kept}{'' if report.left else '; the old tree is removed'}"
    else:
        how = "in one step, on the same disk"
    screen.done(f"the store is at {report.target} now: {how}", "see everything", "tilenode data")
