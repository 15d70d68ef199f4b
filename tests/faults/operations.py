"""What the fault loop does to a store, and how it looks at one: the store's own operations, on a disk."""

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from protocol.errors import ProtocolError
from protocol.model_name import format_model_name, parse_model_name
from protocol.registry import parse_reference
from store.disk import replace_file
from store.errors import LayerCorrupt, StoreError
from store.gc import collect
from store.models import ModelStore
from store.move import move_store, settle_move
from store.move_journal import read_move
from store.registry.pull import pull_model
from store.registry.push import push_model
from store.testing import add_model, make_model_directory, make_tensors

Acknowledge = Callable[[str, str], None]
NAMES: Final = tuple(f"m{number}:latest" for number in range(6))
SOURCES: Final = 4
GONE: Final = "gone"
WEIGHTS: Final = "model.safetensors"


@dataclass(frozen=True)
class Place:
    """A home with a store whose place is a setting, as a node's is, sources to build from, and perhaps a registry.

    `elsewhere` is a directory on another file system, None where there is none.
    """

    home: Path
    elsewhere: Path | None = None
    registry: str = ""

    @property
    def setting(self) -> Path:
        """The file that says where the store lies."""
        return self.home / "store-path"

    @property
    def root(self) -> Path:
        """Where the store lies."""
        return Path(self.setting.read_text()) if self.setting.exists() else self.home / "store"

    def switch(self, root: Path) -> None:
        """Change the setting, durably."""
        replace_file(self.home, self.setting, str(root).encode())

    def source(self, number: int) -> Path:
        """Return a directory to build from; those of one number are always the same."""
        directory = self.home / f"source{number}"
        if not directory.exists():
            make_model_directory(directory, make_tensors(seed=number, blocks=4, width=192))
        return directory

    def open(self) -> ModelStore:
        """Open the store as a start does."""
        settle_move(self.home, self.root, self.switch)
        store = ModelStore(self.root)
        store.tidy()
        return store


@dataclass(frozen=True)
class Step:
    """One run of an operation: what it does, and which names it may set or remove. `damaged` may be found damaged."""

    run: Callable[[Place, Acknowledge], None]
    words: str
    sets: tuple[str, ...] = ()
    removes: tuple[str, ...] = ()
    damaged: str = ""

    def __str__(self) -> str:
        return self.words


@dataclass(frozen=True)
class Operation:
    """A kind of step, and where it can be run."""

    step: Callable[[Place, random.Random], Step]
    possible: Callable[[Place], bool] = lambda place: True


def look(place: Place, step: Step) -> tuple[dict[str, str], list[str]]:
    """Return which name stands for which manifest, and what is wrong: read anew, everything hashed.

    What `step` was allowed to leave damaged is built once more, which must heal it.
    """
    faults: list[str] = []
    store = place.open()
    if step.damaged:
        _heal(store, place, step.damaged)
    found: dict[str, str] = {}
    for entry in store.refs.list():
        name = format_model_name(entry.name)
        found[name] = entry.digest
        try:
            store.verify(entry.name)
            for version in store.refs.history(entry.name):
                store.require_readable(version.digest)
        except (StoreError, ProtocolError) as fault:
            faults.append(f"{name}: {fault}")
    faults += [str(fault) for fault in store.refs.unreadable()]
    faults += _index_faults(store, found)
    store.close()
    return found, faults


def _index_faults(store: ModelStore, found: dict[str, str]) -> list[str]:
    index = json.loads(store.layout.index.read_bytes())
    listed = sorted(entry["digest"].removeprefix("sha256:") for entry in index["manifests"])
    return (
        [] if listed == sorted(found.values()) else [f"index.json lists {listed}, the names {sorted(found.values())}"]
    )


def _create(place: Place, chance: random.Random) -> Step:
    name, source, words = chance.choice(NAMES), place.source(chance.randrange(SOURCES)), chance.randrange(10**6)

    def run(place: Place, acknowledge: Acknowledge) -> None:
        store = place.open()
        acknowledge(name, add_model(store, name, source, f"FROM .\nSYSTEM {words}").manifest)

    return Step(run, f"create {name} from {source.name} with SYSTEM {words}", sets=(name,))


def _remove(place: Place, chance: random.Random) -> Step:
    name = chance.choice(NAMES)

    def run(place: Place, acknowledge: Acknowledge) -> None:
        store = place.open()
        if store.refs.get(parse_model_name(name)) is not None:
            store.remove(parse_model_name(name))
        acknowledge(name, GONE)

    return Step(run, f"rm {name}", removes=(name,))


def _collect(place: Place, chance: random.Random) -> Step:
    keep = chance.choice((None, 1, 2))

    def run(place: Place, acknowledge: Acknowledge) -> None:
        store = place.open()
        collect(store, min_age_s=0, keep=keep, quarantine_age_s=0)

    return Step(run, f"gc --keep {keep}")


def _verify(place: Place, chance: random.Random) -> Step:
    """Verify a model after a byte of its weights was flipped on the disk: that blob goes into quarantine, no other."""
    name, at = chance.choice(NAMES), chance.random()

    def run(place: Place, acknowledge: Acknowledge) -> None:
        store = place.open()
        parsed = parse_model_name(name)
        if store.refs.get(parsed) is None:
            return
        layer = store.resolve(parsed).manifest.layer(WEIGHTS)
        assert layer is not None
        try:
            _flip(store.layout.blob_path(layer.digest), int(at * layer.size))
        except OSError:  # the fault has hit the damage
            return
        with pytest.raises(LayerCorrupt) as fault:
            store.verify(parsed)
        assert fault.value.expected == layer.digest

    return Step(run, f"verify {name} after byte {at:.3f} of its weights was flipped", damaged=name)


def _flip(path: Path, at: int) -> None:
    """Flip a byte in a copy under the blob's name, so that files that share the blob's bytes keep theirs."""
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    damaged = path.with_name("damaged")
    damaged.write_bytes(content)
    damaged.chmod(0o444)
    damaged.replace(path)


def _heal(store: ModelStore, place: Place, name: str) -> None:
    """Put the weights of `name` back from the sources; every source is tried, because several models share one."""
    if store.refs.get(parse_model_name(name)) is None:
        return
    layer = store.resolve(parse_model_name(name)).manifest.layer(WEIGHTS)
    assert layer is not None
    if store.blobs.has(layer.digest):
        try:
            store.blobs.verify(layer.digest)
            return
        except LayerCorrupt:
            store.blobs.delete(layer.digest)
    for number in range(SOURCES):
        store.blobs.publish_file(place.source(number) / WEIGHTS)


def _move(place: Place, chance: random.Random) -> Step:
    """Move the store to the other side of the file system or to another one, or go on with what a kill has left."""
    sides = [place.home / "store", place.home / "store2"] + ([place.elsewhere / "store"] if place.elsewhere else [])
    target = chance.choice(sides)

    def run(place: Place, acknowledge: Acknowledge) -> None:
        place.open().close()
        begun = read_move(place.home)
        goal = begun.target if begun else target
        if goal != place.root:
            move_store(place.home, place.root, goal, place.switch, lambda _: None)
        assert place.root == goal
        ModelStore(place.root).close()

    return Step(run, f"set-path {target}")


def fill_registry(place: Place) -> tuple[dict[str, str], list[str]]:
    """Push a model from each source into the registry, from a store that is used for nothing else; nothing is found."""
    store = ModelStore(place.home / "publisher")
    for number in range(SOURCES):
        name = parse_model_name(f"s{number}")
        add_model(store, str(name), place.source(number), f"FROM .\nSYSTEM from the registry, {number}")
        reference = parse_reference(f"{place.registry}/faults/s{number}")
        push_model(store, store.resolve(name), reference, report=_unheard)
    store.close()
    return {}, []


def _pull(place: Place, chance: random.Random) -> Step:
    name, number = chance.choice(NAMES), chance.randrange(SOURCES)

    def run(place: Place, acknowledge: Acknowledge) -> None:
        store = place.open()
        reference = parse_reference(f"{place.registry}/faults/s{number}")
        acknowledge(name, pull_model(store, reference, parse_model_name(name), report=_unheard).manifest)

    return Step(run, f"pull {name} from the registry's s{number}", sets=(name,))


def _unheard(event: dict[str, object]) -> None:
    """Nobody listens."""


OPERATIONS: Final = {
    "create": Operation(_create),
    "rm": Operation(_remove),
    "gc": Operation(_collect),
    "verify": Operation(_verify),
    "set-path": Operation(_move),
    "pull": Operation(_pull, possible=lambda place: bool(place.registry)),
}


def clean(place: Place) -> None:
    """Remove what lies outside the home."""
    if place.elsewhere:
        shutil.rmtree(place.elsewhere, ignore_errors=True)
