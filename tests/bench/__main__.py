"""`python -m tests.bench` (`make bench`): one table, each figure beside its reference, measured in the same run."""

import argparse
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from identity.errors import IdentityError
from node.cli.demo_node import CommandFailed
from node.errors import NodeError
from protocol.errors import ProtocolError
from store.errors import StoreError
from tests.bench import (
    change_table,
    cold_start,
    delta,
    generation,
    idle,
    ingest,
    listing,
    memory,
    mixed_batch,
    overhead,
    peer_fetch,
    serving,
    transparency_log,
    verify,
)
from tests.bench.run import CannotMeasure, Run, Sizes
from tests.bench.table import Result, Unmeasured, format_json, format_table

FIGURES: dict[str, Callable[[Run], Iterator[Result]]] = {
    "log": transparency_log.measure,
    "idle": idle.measure,
    "generation": generation.measure,
    "cold-start": cold_start.measure,
    "serving": serving.measure,
    "mixed-batch": mixed_batch.measure,
    "overhead": overhead.measure,
    "fetch": peer_fetch.measure,
    "ingest": ingest.measure,
    "verify": verify.measure,
    "listing": listing.measure,
    "change-table": change_table.measure,
    "delta": delta.measure,
    "memory": memory.measure,
}
"""In the order in which they run: a node is idle before it is given work."""
FAILURES = (CannotMeasure, CommandFailed, NodeError, StoreError, ProtocolError, IdentityError, OSError)


def measure_all(run: Run, names: Sequence[str]) -> list[Result]:
    """The rows of the figures named; one that fails is a row that says why, and the others go on."""
    results: list[Result] = []
    for name in names:
        try:
            results += FIGURES[name](run)
        except FAILURES as error:
            results.append(Unmeasured(name, str(error).partition("\n")[0]))
    return results


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "tilenode": version("tilenode"),
        "mlx": version("mlx"),
        "libp2p": version("libp2p"),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; the exit status is 0 when every figure was measured and none missed its limit."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="One table of figures with references.")
    parser.add_argument("--json", action="store_true", help="print the table as one JSON object")
    parser.add_argument("--quick", action="store_true", help="sizes that only show that everything runs")
    parser.add_argument("--only", action="append", choices=FIGURES, metavar="FIGURE", help=", ".join(FIGURES))
    options = parser.parse_args(arguments)
    started_s = time.monotonic()

    def progress(text: str) -> None:
        print(f"[{time.monotonic() - started_s:5.1f} s] {text}", file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory(prefix="tilenode-bench-") as scratch:
        run = Run(Path(scratch), Sizes.small() if options.quick else Sizes(), progress)
        facts = machine()
        try:
            results = measure_all(run, options.only or list(FIGURES))
        finally:
            run.stop()
    print(format_json(results, facts) if options.json else f"{_headline(facts)}\n\n{format_table(results)}")
    return 1 if any(isinstance(result, Unmeasured) or result.missed for result in results) else 0


def _headline(facts: dict[str, Any]) -> str:
    programs = ", ".join(f"{name} {facts[name]}" for name in ("python", "tilenode", "mlx", "libp2p"))
    return f"{facts['system']}, {facts['cores']} cores, load {facts['load']} before; {programs}"


if __name__ == "__main__":
    sys.exit(main())
