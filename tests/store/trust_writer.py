"""A process to be killed: appends to a log, follows another log, or publishes a model, and says what it was promised.

    python trust_writer.py KIND DIRECTORY     once
    python trust_writer.py jobs               for each line [KIND, DIRECTORY, CALL, POINT]: in a child of its own,
                                              which kills itself before its POINT-th CALL; then a line [status]

Every other line on standard output was printed after the call had returned: what it says must survive.
"""

import itertools
import json
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from identity.durable import read_file, replace_file
from identity.secrets import EMPTY_ROOT
from identity.testing import key_from_number
from protocol.attestation import Artifact
from protocol.digest import digest_of
from protocol.model_name import parse_model_name
from protocol.testing import MemoryLog, small_manifest
from store.blobs import Blobs
from store.evidence import SeenLogs
from store.layout import Layout
from store.leases import Leases
from store.log import Log
from store.provenance import publish_model
from store.refs import Refs

KEY = key_from_number(1)
OTHER = MemoryLog(key_from_number(2), [b"%d" % number for number in range(9)])
# From 255 entries on: over the edge of a tile, and on.
BATCHES = (2, 1)
START = 255
MODELS = {"demo:v1": b"weights", "demo:v2": b"other weights"}


class FileGuard:
    """A rollback guard in a file of its own, as durable as the vault is."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> tuple[int, bytes]:
        content = read_file(self._path, 1000)
        if content is None:
            return 0, EMPTY_ROOT
        state = json.loads(content)
        return state["size"], bytes.fromhex(state["root"])

    def advance(self, size: int, root: bytes) -> None:
        replace_file(self._path, json.dumps({"size": size, "root": root.hex()}).encode())


def open_log(directory: Path) -> Log:
    return Log.open(directory / "log", KEY, FileGuard(directory / "guard"))


def entry(number: int) -> bytes:
    return b"entry %d" % number


def root_of(size: int) -> bytes:
    """Return what the root must be: the first `size` entries, in order, and no others."""
    return MemoryLog(KEY, [entry(number) for number in range(size)]).root()


def promise(value: object) -> None:
    print(json.dumps(value), flush=True)


def append(directory: Path) -> None:
    log = open_log(directory)
    for batch in BATCHES:
        log.append([entry(number) for number in range(log.size, log.size + batch)])
        promise([log.size, log.root.hex()])


def follow(directory: Path) -> None:
    seen = SeenLogs(directory / "evidence")
    for old, new in ((0, 1), (1, 4), (4, 9)):
        seen.advance(OTHER.checkpoint(new), OTHER.key.did, OTHER.consistency(old, new))
        promise(new)


@dataclass(frozen=True)
class Record:
    """What a build would say about itself."""

    sources: tuple[Artifact, ...] = ()
    external_parameters: Mapping[str, str] = field(default_factory=dict)
    tool_versions: Mapping[str, str] = field(default_factory=dict)


def publish(directory: Path) -> None:
    log, blobs, refs = open_log(directory), *open_store(directory)
    for text, weights in MODELS.items():
        publish_model(
            blobs=blobs,
            refs=refs,
            log=log,
            key=KEY,
            name=parse_model_name(text),
            manifest=digest_of(small_manifest(weights)),
            build=Record(),
            now_s=1_700_000_000,
            entropy=lambda count: b"\x07" * count,
        )
        promise(text)


def open_store(directory: Path) -> tuple[Blobs, Refs]:
    layout = Layout(directory / "store")
    blobs = Blobs(layout)
    return blobs, Refs(layout, blobs, Leases(layout))


def run(kind: str, directory: Path) -> None:
    {"append": append, "follow": follow, "publish": publish}[kind](directory)


def do_jobs() -> None:
    for line in sys.stdin:
        kind, directory, call, point = json.loads(line)
        child = os.fork()
        if child == 0:
            kill_before(call, point)
            run(kind, Path(directory))
            os._exit(0)
        promise({"status": os.waitpid(child, 0)[1]})


def kill_before(call: str, point: int) -> None:
    """Let the `point`-th use of `os.<call>` be the end of this process."""
    real = getattr(os, call)
    uses = itertools.count(1)

    def counted(*arguments: Any, **options: Any) -> Any:
        if next(uses) == point:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **options)

    setattr(os, call, counted)


if __name__ == "__main__":
    if sys.argv[1] == "jobs":
        do_jobs()
    else:
        run(sys.argv[1], Path(sys.argv[2]))
