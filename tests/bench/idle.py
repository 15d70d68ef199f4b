"""What a node costs that does nothing: memory and processor time of a real node process with one linked peer."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil

from tests.bench.run import Run
from tests.bench.table import Row

BUDGET_MB = 90.0
BUDGET_CPU_PERCENT = 0.2
BARE_TRIO = "import sys, trio; print(flush=True); trio.run(trio.to_thread.run_sync, sys.stdin.read)"


@dataclass(frozen=True)
class Idle:
    """A process while nothing was asked of it, with its children."""

    memory_mb: float
    cpu_percent: float


def measure(run: Run) -> Iterator[Row]:
    """Watch one of two linked nodes, beside a bare Python process that runs trio, and beside the budget."""
    _, node = run.nodes
    time.sleep(
        run.sizes.settle_s
    )  # what starting and linking left to do is not idleness; there is no event for its end
    run.progress(f"watching an idle node for {run.sizes.idle_s:g} s")
    with bare_trio() as bare_pid:
        ours, bare = watch([int(node.ready["pid"]), bare_pid], run.sizes.idle_s)
    memory, cpu = "idle node, resident memory", "idle node, processor time"
    remark = "one linked peer"
    yield Row(memory, ours.memory_mb, "MB", "lower", "Python with trio alone", bare.memory_mb, remark)
    yield Row(memory, ours.memory_mb, "MB", "lower", "budget", BUDGET_MB, remark)
    yield Row(cpu, ours.cpu_percent, "%", "lower", "Python with trio alone", bare.cpu_percent, remark)
    yield Row(cpu, ours.cpu_percent, "%", "lower", "budget", BUDGET_CPU_PERCENT, remark)


def watch(pids: list[int], seconds: float) -> list[Idle]:
    """Processor time of each process over the same `seconds`, as percent of one core, and its memory at the end."""
    families = [_family(pid) for pid in pids]
    before = [_cpu_s(family) for family in families]
    started_s = time.perf_counter()
    time.sleep(seconds)
    spent_s = time.perf_counter() - started_s
    return [
        Idle(
            sum(process.memory_info().rss for process in family) / 1e6,
            100 * (_cpu_s(family) - start_s) / spent_s,
        )
        for family, start_s in zip(families, before, strict=True)
    ]


def _family(pid: int) -> list[psutil.Process]:
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def _cpu_s(family: list[psutil.Process]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in family)


@contextmanager
def bare_trio() -> Iterator[int]:
    """Give the process id of a Python process that runs trio and waits."""
    command = [sys.executable, "-c", BARE_TRIO]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid
        process.stdin.close()
