"""How long a person waits for the first word when neither the node nor a worker runs yet."""

import statistics
import subprocess
import sys
import time
from collections.abc import Iterator

from node.cli.demo_node import DemoNode
from node.config import child_environment
from tests.bench.run import CannotMeasure, Run
from tests.bench.table import Row

BUDGET_S = 3.0


def measure(run: Run) -> Iterator[Row]:
    """`tilenode run demo "Hello!"` from its start to the first byte that it prints, node and worker started by it."""
    node = DemoNode(run.scratch, "attic")
    try:
        node.command("account", "create", "--nickname", node.nickname)
        turns = []
        for turn in range(run.sizes.turns + 1):
            run.progress(f"starting a node with a question, turn {turn} of {run.sizes.turns}")
            turns.append(_first_word_s(node))
            node.command("stop")
        first, *later = turns
        bare_s = _python_s()
    finally:
        node.stop()
    remark = f"median of {len(later)}; the very first, which builds the model, {first:.2f} s; vault with Argon2"
    budget = None if run.sizes.quick else 1.0
    figure = "first word after a cold start"
    yield Row(figure, statistics.median(later), "s", "lower", "budget", BUDGET_S, remark, budget)
    yield Row(figure, statistics.median(later), "s", "lower", "Python that imports mlx_lm", bare_s)


def _first_word_s(node: DemoNode) -> float:
    started_s = time.perf_counter()
    command = [sys.executable, "-m", "node.cli.main", "run", "demo", "Hello!"]
    environment = child_environment(node.home, node.directory / "passphrase")
    with subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        word = process.stdout.read(1)
        spent_s = time.perf_counter() - started_s
        process.stdout.read()
    if process.returncode or not word:
        raise CannotMeasure("`tilenode run demo` failed")
    return spent_s


def _python_s() -> float:
    started_s = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import mlx_lm"], check=True, capture_output=True)
    return time.perf_counter() - started_s
