"""`tilenode demo`: the whole way on two nodes on this machine, every step verified, each with its figure."""

import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from node.cli.demo_node import CommandFailed, DemoNode, running
from node.cli.demo_weights import write_changed_copy
from node.cli.exit_codes import ExitCode
from node.cli.invocation import Invocation
from node.cli.render import Screen, format_bytes, format_did
from node.errors import DemoStepFailed

MODELFILE: Final = """\
FROM {base}
PARAMETER temperature 0
SYSTEM Always answer in upper case.
"""
QUESTION: Final = "What colour is grass?"
# The demo model's greedy answer; in capitals only where the Modelfile's SYSTEM was applied.
ANSWER: Final = "GREEN."
NAME: Final = "pocket"
GOSSIP_WAIT_S: Final = 30.0
SYNC_WAIT_S: Final = 30.0
Facts = dict[str, Any]


def demo(invocation: Invocation) -> int:
    """Run every step and return 0 only when each was verified."""
    # SIGTERM ends Python without a word; as an exception it stops the two nodes first.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    directory = Path(tempfile.mkdtemp(prefix="tilenode-demo-"))
    kept, started = invocation.arguments.keep, time.monotonic()
    try:
        run = _Demo(directory, invocation.screen)
        with running([run.first, run.second]):
            run.all_steps()
    except DemoStepFailed:
        kept = True
        raise
    finally:
        if not kept:
            shutil.rmtree(directory, ignore_errors=True)
    _where_to_go(invocation.screen, time.monotonic() - started, directory if kept else None)
    return ExitCode.OK


def _where_to_go(screen: Screen, seconds: float, directory: Path | None) -> None:
    program = "tilenode" if shutil.which("tilenode") else sys.argv[0]
    screen.say(f"\nEvery step was verified, in {seconds:.0f} s. Where to go next:")
    screen.say(f"  {program}               your own identity, then a chat with the embedded model")
    screen.say(f"  {program} link enable   link a second device; run what it prints there")
    screen.say("  README.md: the commands, the APIs, and how to check all of this yourself")
    if directory:
        screen.say(f"  {directory}: the two nodes of this demo")


@dataclass(frozen=True)
class _Step:
    name: str
    act: Callable[[], str]


class _Demo:
    """The two nodes and what one step leaves for the next."""

    def __init__(self, directory: Path, screen: Screen) -> None:
        self._directory = directory
        self._screen = screen
        self.first: Final = DemoNode(directory, "kitchen")
        self.second: Final = DemoNode(directory, "study")
        self._created: Facts = {}
        self._whole_bytes = 0
        self._answered_ms = 0
        self._chat = ""

    def all_steps(self) -> None:
        """Run the steps in order; the first that is not verified ends the demo by name."""
        steps = (
            _Step("identity", self._identity),
            _Step("start", self._start),
            _Step("link", self._link),
            _Step("build, sign, log", self._build),
            _Step("gossip", self._gossip),
            _Step("fetch", self._fetch),
            _Step("verify", self._verify),
            _Step("answer", self._answer),
            _Step("sync", self._sync),
            _Step("second version", self._second_version),
        )
        for number, step in enumerate(steps, 1):
            started = time.monotonic()
            self._screen.progress(f"  {number:>2}/{len(steps)}  {step.name} …")
            try:
                figure = step.act()
            except CommandFailed as error:
                raise DemoStepFailed(step.name, str(error), self._directory) from error
            seconds = time.monotonic() - started
            if self._screen.json_wanted:
                self._screen.event({"event": "step", "step": step.name, "figure": figure, "seconds": round(seconds, 3)})
            self._screen.say(f"✓ {number:>2}/{len(steps)}  {step.name:<17} {figure}  [{seconds:.1f} s]")

    def _identity(self) -> str:
        made = [node.command("account", "create", "--nickname", node.nickname) for node in (self.first, self.second)]
        _require(made[0]["did"] != made[1]["did"], "the two nodes have one identity")
        names = " and ".join(f"{facts['nickname']} {format_did(facts['did'])}" for facts in made)
        return f"{names}, keys in a {made[0]['rung']} each"

    def _start(self) -> str:
        ready = [node.serve() for node in (self.first, self.second)]
        return f"two processes, APIs at {ready[0]['api']} and {ready[1]['api']}"

    def _link(self) -> str:
        listener = self.first.follow("link", "enable")
        ticket = listener.next_event("ticket")["ticket"]
        joiner = self.second.follow("link", "enable", ticket, "--yes")
        theirs, ours = joiner.next_event("request"), listener.next_event("request")
        _require(theirs["digits"] == ours["digits"], f"the digits differ: {ours['digits']} and {theirs['digits']}")
        _require(ours["did"] == self.second.ready["did"], "the listener saw another identity than the joiner's")
        _require(theirs["did"] == self.first.ready["did"], "the joiner saw another identity than the listener's")
        self.first.command("link", "approve", ours["id"])
        listener.next_event("linked")
        joiner.next_event("linked")
        _require(listener.finish() == joiner.finish() == 0, "a link command did not end well")
        for node, other in ((self.first, self.second), (self.second, self.first)):
            known = [peer["did"] for peer in node.command("link", "list-peers")["peers"]]
            _require(known == [other.ready["did"]], f"{node.nickname} lists {known}")
        digits = f"{ours['digits'][:3]} {ours['digits'][3:]}"
        return f"by a ticket of {len(ticket)} characters; both showed {digits}, both said yes"

    def _build(self) -> str:
        modelfile = self._directory / "Modelfile"
        modelfile.write_text(MODELFILE.format(base="demo"))
        self._created = self.first.command("create", NAME, "-f", str(modelfile))
        log = self.first.command("log", "verify")
        _require(log["size"] > max(self._created["entries"]), "the log does not hold the model's entries")
        return (
            f"{NAME} is {format_bytes(self._created['size_bytes'])}, manifest {self._created['manifest'][:12]}; "
            f"log of {log['size']} verifies to {log['root'][:12]}"
        )

    def _gossip(self) -> str:
        return self._learned(self._created)

    def _learned(self, created: Facts) -> str:
        """Return how the second node learned of a model, by both nodes' own events."""
        signed = self.first.wait_for(
            "the signing of the model",
            lambda event: event.get("event") == "signed" and event["manifest"] == created["manifest"],
            GOSSIP_WAIT_S,
        )
        event = self.second.wait_for(
            "news of the model",
            lambda event: event.get("event") == "offer" and event["manifest"] == created["manifest"],
            GOSSIP_WAIT_S,
        )
        _require(event["publisher"] == self.first.ready["did"], "the news names another publisher")
        seconds = max(0, event["at_ms"] - signed["at_ms"]) / 1000
        return f"study learned of {event['manifest'][:12]} by {event['via']} {seconds:.2f} s after it was signed"

    def _fetch(self) -> str:
        pulled = self.second.command("pull", NAME, "--from", self.first.nickname)
        _require(pulled["manifest"] == self._created["manifest"], "another manifest arrived")
        _require(pulled["bytes_moved"] >= self._created["size_bytes"] // 2, "fewer bytes moved than the model has")
        self._whole_bytes = pulled["bytes_moved"]
        rate = format_bytes(int(pulled["bytes_moved"] / max(pulled["seconds"], 0.001)))
        return f"{format_bytes(pulled['bytes_moved'])} moved in {pulled['seconds']:.2f} s ({rate}/s)"

    def _verify(self) -> str:
        return self._verified(f"{NAME}:latest", self._created)

    def _verified(self, name: str, created: Facts) -> str:
        facts = self.second.command("verify", name)
        _require(facts["manifest"] == created["manifest"], "another manifest was verified")
        _require(facts["publisher"] == self.first.ready["did"], "another device signed it")
        return (
            f"{facts['chunks']} chunks and {len(facts['layers'])} layers hash; "
            f"both signatures and log proofs hold at size {facts['log_size']}"
        )

    def _answer(self) -> str:
        facts = self.second.command("run", NAME, QUESTION)
        _require(facts["answer"].strip() == ANSWER, f"{QUESTION!r} was answered {facts['answer']!r}, not {ANSWER!r}")
        self._chat, self._answered_ms = facts["chat"], facts["at_ms"]
        return f"{QUESTION} → {ANSWER}  {facts['tokens_per_s']:.0f} tokens/s with MLX on study's copy"

    def _sync(self) -> str:
        lines: list[tuple[str, str]] = []
        while len(lines) < 2:
            event = self.first.wait_for(
                "the chat's arrival on kitchen",
                lambda event: (
                    event.get("event") == "synced"
                    and self._chat in event["chats"]
                    and event["received"] > 0
                    and event["at_ms"] >= self._answered_ms
                ),
                SYNC_WAIT_S,
            )
            shown = self.first.command("chats", "show", self._chat)
            lines = [(line["role"], line["content"].strip()) for line in shown["lines"]]
        _require(lines == [("user", QUESTION), ("assistant", ANSWER)], f"kitchen shows {len(lines)} other lines")
        moved = self.second.command("sync", self.first.nickname)["reports"][0]
        _require(moved["received"] == moved["sent"] == 0, "entries were still missing after the sync")
        seconds = (event["at_ms"] - self._answered_ms) / 1000
        return f"question and answer on kitchen {seconds:.2f} s after the answer; nothing is missing"

    def _second_version(self) -> str:
        changed = self._directory / "changed"
        tensor_bytes = write_changed_copy(changed)
        modelfile = self._directory / "Modelfile.v2"
        modelfile.write_text(MODELFILE.format(base="./changed"))
        created = self.first.command("create", f"{NAME}:v2", "-f", str(modelfile))
        self._learned(created)
        pulled = self.second.command("pull", f"{NAME}:v2", "--from", self.first.nickname)
        _require(pulled["manifest"] == created["manifest"], "another manifest arrived")
        _require(pulled["bytes_moved"] < self._whole_bytes // 4, f"{pulled['bytes_moved']} bytes moved")
        self._verified(f"{NAME}:v2", created)
        answer = self.second.command("run", f"{NAME}:v2", QUESTION)["answer"].strip()
        _require(answer == ANSWER, f"the second version answered {answer!r}")
        share = 100 * pulled["bytes_moved"] / created["size_bytes"]
        return (
            f"one tensor of {format_bytes(tensor_bytes)} changed: {format_bytes(pulled['bytes_moved'])} of "
            f"{format_bytes(created['size_bytes'])} moved ({share:.1f} %), verified, answers"
        )


def _require(condition: bool, otherwise: str) -> None:
    if not condition:
        raise CommandFailed(otherwise)
