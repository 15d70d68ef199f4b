"""How soon a large store answers: a fresh process opens it and lists every name, beside the budgets."""

import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

from store.models import ModelStore
from store.thousand import fill
from tests.bench.memory import peak_memory_mb
from tests.bench.run import ROOT, CannotMeasure, Run
from tests.bench.table import Row

BUDGET_MS = 150.0
BUDGET_MB = 120.0
TIMES = 9
LIST = """
import sys
from pathlib import Path
from store.listing import open_listing
with open_listing(Path(sys.argv[1])) as listing:
    for model in listing.models():
        print(model.name, model.digest, model.facts, model.publisher, flush=True)
print(flush=True)
sys.stdin.readline()
"""
BARE = "print('line', flush=True); print(flush=True); input()"


@dataclass(frozen=True)
class Listed:
    """A process that listed: milliseconds from its start to the first line and to its end, its lines, its memory."""

    first_ms: float
    end_ms: float
    lines: int
    memory_mb: float


def measure(run: Run) -> Iterator[Row]:
    """The median of several fresh processes, the first of which also fills the cache, and a bare Python beside it."""
    manifests, chunks = run.sizes.manifests, run.sizes.chunks
    run.progress(f"filling a store with {manifests:,} signed models and {chunks:,} chunks")
    root = run.scratch / "large-store"
    store = ModelStore(root)
    fill(store, manifests, chunks)
    store.close()
    run.progress("listing it in fresh processes")
    listed, bare = [], []
    for _ in range(1 if run.sizes.quick else TIMES):
        listed.append(list_in_process(LIST, str(root)))
        bare.append(list_in_process(BARE))
    if any(process.lines != manifests for process in listed):
        raise CannotMeasure(f"{listed[0].lines} of {manifests} names were listed")
    first, end = (statistics.median(process.first_ms for process in listed), listed[0].first_ms)
    all_ms = statistics.median(process.end_ms for process in listed)
    judged = None if run.sizes.quick else 1.0
    figure = f"opening and listing {manifests:,} models, first line"
    remark = f"fresh process, median of {len(listed)}; with an empty cache {end:.0f} ms; all lines {all_ms:.0f} ms"
    yield Row(figure, first, "ms", "lower", "budget", BUDGET_MS, remark, judged)
    python_ms = statistics.median(process.first_ms for process in bare)
    yield Row(figure, first, "ms", "lower", "Python that prints a line", python_ms)
    most_mb = max(process.memory_mb for process in listed)
    yield Row(f"listing {manifests:,} models, memory", most_mb, "MB", "lower", "budget", BUDGET_MB, "peak", judged)


def list_in_process(program: str, *arguments: str) -> Listed:
    """Run `program` in a Python of its own; an empty line ends its list, and then it waits."""
    started_s = time.perf_counter()
    command = [sys.executable, "-c", program, *arguments]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        if not process.stdout.readline():
            raise CannotMeasure("the listing process printed nothing")
        first_s = time.perf_counter()
        lines = 1 + sum(1 for _ in iter(process.stdout.readline, b"\n"))
        ended_s = time.perf_counter()
        peak_mb = peak_memory_mb(process.pid)
        process.stdin.write(b"\n")
        process.stdin.close()
    return Listed(1000 * (first_s - started_s), 1000 * (ended_s - started_s), lines, peak_mb)
