"""A store under faults: operations run in children to which one happens at a random disk call; then it is looked at.

    python -m tests.faults.fault_loop DIRECTORY --faults 1000 --seed 1                    SIGKILL
    python -m tests.faults.fault_loop DIRECTORY --faults 1000 --seed 1 --errors           the call fails: ENOSPC or EIO

A child says over a pipe what it has acknowledged, and only after it is so. After every fault another process opens the
store, puts right what a start puts right, hashes everything again and says what is there. The last line on stdout is
the result as JSON; a failing round is printed with what it takes to run it again.
"""

import argparse
import errno
import json
import os
import random
import sys
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from protocol.errors import ProtocolError
from store.errors import StoreError
from tests.faults.operations import GONE, OPERATIONS, Place, Step, clean, fill_registry, look
from tests.faults.ptrace import DISK_CALLS, Fault, Traced, run_traced

ANY: Final = "any"
ERRNOS: Final = (errno.ENOSPC, errno.EIO)
# Calls that a disk may refuse; to open a file is not among them, because programs are read from a disk as well.
FAILING: Final = frozenset(DISK_CALLS.values()) - {"openat", "flock", "write"}


@dataclass
class Ledger:
    """What was promised: for each name the digests that it may stand for now; `GONE` where it may be gone."""

    names: dict[str, set[str]] = field(default_factory=dict)

    def begin(self, step: Step) -> None:
        """From now on each name that the step touches may have changed already, or not."""
        for name in step.sets:
            self.names.setdefault(name, {GONE}).add(ANY)
        for name in step.removes:
            self.names.setdefault(name, {GONE}).add(GONE)

    def acknowledge(self, name: str, digest: str) -> None:
        """The step said that it is done with `name`."""
        self.names[name] = {digest}

    def faults(self, found: dict[str, str]) -> list[str]:
        """Return what is not as promised."""
        faults = []
        for name, allowed in self.names.items():
            digest = found.get(name, GONE)
            if digest not in allowed and not (ANY in allowed and digest != GONE):
                faults.append(f"{name} is {digest[:12]}, promised was {sorted(word[:12] for word in allowed)}")
        faults += [f"{name} came from nowhere" for name in found.keys() - self.names.keys()]
        return faults

    def settle(self, found: dict[str, str]) -> None:
        """What was found is what counts from now on."""
        self.names = {name: {found.get(name, GONE)} for name in self.names}


@dataclass
class Loop:
    """One run of the loop over one store."""

    place: Place
    random: random.Random
    errors: bool = False
    ledger: Ledger = field(default_factory=Ledger)
    lengths: dict[str, Counter[str]] = field(default_factory=dict)
    struck: Counter[str] = field(default_factory=Counter)
    calls: Counter[str] = field(default_factory=Counter)
    acknowledged: int = 0

    def run(self, faults: int) -> None:
        """Go on until so many faults have happened.

        Raises:
            AssertionError: something that was promised is not so.
        """
        names = [name for name, operation in OPERATIONS.items() if operation.possible(self.place)]
        while sum(self.struck.values()) < faults:
            self.round(names[0] if not self.lengths else self.random.choice(names))

    def round(self, name: str) -> None:
        """Run one operation, with a fault unless it is the first of its kind, and look at what is left."""
        step = OPERATIONS[name].step(self.place, self.random)
        fault = self._somewhere(name)
        self.ledger.begin(step)
        traced = self._run(step, fault)
        if fault and traced.struck:
            self.struck[name] += 1
            self.calls[fault.call] += 1
        else:
            self.lengths[name] = traced.calls
        found, faults = ask(lambda: look(self.place, step))
        faults += self.ledger.faults(found)
        if traced.exit_code not in (None, 0):
            faults.append(f"the operation itself failed with {traced.exit_code}")
        assert not faults, f"{name} {step} with {fault}: {faults}"
        self.ledger.settle(found)

    def _somewhere(self, name: str) -> Fault | None:
        """Return a random call of those that the operation was seen to make: every kind of call as often as the others.

        Otherwise nearly all would be those that open files to read. None in a fifth of all cases, and where none was
        seen yet: what runs to its end is what later faults must not undo.
        """
        calls = self.lengths.get(name, Counter())
        kinds = sorted(calls.keys() & FAILING if self.errors else calls)
        if not kinds or self.random.random() < 1 / 5:
            return None
        call = self.random.choice(kinds)
        return Fault(call, self.random.randrange(calls[call]), self.random.choice(ERRNOS) if self.errors else None)

    def _run(self, step: Step, fault: Fault | None) -> Traced:
        reader, writer = os.pipe()

        def acknowledge(name: str, digest: str) -> None:
            with suppress(OSError):  # the fault has hit the pipe, which is no disk
                os.write(writer, f"{name} {digest}\n".encode())

        def work() -> None:
            os.close(reader)
            try:
                step.run(self.place, acknowledge)
            except (StoreError, ProtocolError) as error:
                if not self.errors or not str(error):
                    raise

        try:
            traced = run_traced(work, fault)
        finally:
            os.close(writer)
        with os.fdopen(reader) as said:
            for line in said:
                self.ledger.acknowledge(*line.split())
                self.acknowledged += 1
        return traced


def ask(question: Callable[[], tuple[dict[str, str], list[str]]]) -> tuple[dict[str, str], list[str]]:
    """Return the answer of `question`, asked in a process of its own, as one that was started after the fault."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.write(writer, json.dumps(question()).encode())
            code = 0
        except BaseException:  # noqa: BLE001 - a forked child must end here, whatever went wrong
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader) as said:
        text = said.read()
    _, status = os.waitpid(child, 0)
    assert status == 0, "looking at the store failed; see above"
    found, faults = json.loads(text)
    return found, faults


def main() -> int:
    """Run the loop as the command line says."""
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=Path)
    parser.add_argument("--faults", type=int, default=1000)
    parser.add_argument("--errors", action="store_true", help="calls fail with ENOSPC or EIO, and nothing is killed")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--elsewhere", type=Path, help="a directory on another file system")
    parser.add_argument("--registry", default="", help="HOST:PORT of a registry to push to and pull from")
    arguments = parser.parse_args()
    place = Place(arguments.directory, arguments.elsewhere, arguments.registry)
    if place.registry:
        ask(lambda: fill_registry(place))
    loop = Loop(place, random.Random(arguments.seed), arguments.errors)
    try:
        loop.run(arguments.faults)
    except AssertionError as fault:
        print(f"seed {arguments.seed}, after {sum(loop.struck.values())} faults: {fault}", file=sys.stderr)
        return 1
    finally:
        clean(place)
    result = {"faults": dict(loop.struck), "at": dict(loop.calls), "acknowledged": loop.acknowledged}
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
