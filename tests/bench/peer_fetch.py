"""How fast one node fetches a model from another: two processes, every byte verified and written to disk."""

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from node.cli.demo_node import DemoNode
from tests.bench.random_model import write_filler
from tests.bench.run import CannotMeasure, Run, output_of, program
from tests.bench.table import Row

MODEL = "bench"


def measure(run: Run) -> Iterator[Row]:
    """Fetch a model of the size wanted, beside a raw stream of stock py-libp2p and the hash of the same file."""
    size = run.sizes.fetch_bytes
    directory = run.scratch / "bench-model"
    weights = write_filler(directory, size)
    first, second = run.nodes
    run.progress(f"building a model of {size / 1e6:.0f} MB")
    modelfile = directory.with_suffix(".Modelfile")
    modelfile.write_text(f"FROM {directory}\n")
    first.command("create", MODEL, "-f", str(modelfile))
    ours, stock, hashed = [], [], []
    for turn in range(run.sizes.fetches):
        run.progress(f"fetching it, then the same bytes over stock py-libp2p, turn {turn + 1} of {run.sizes.fetches}")
        ours.append(_fetch_rate(second, first.nickname, size))
        stock.append(_stock_rate(size))
        hashed.append(_hash_rate(weights))
        second.command("rm", MODEL)
    figure, remark = f"peer fetch of {size / 1e6:.0f} MB", f"verified, on disk, median of {run.sizes.fetches}"
    for reference, rates in (("stock py-libp2p raw stream, discarded", stock), ("sha256 of the same file", hashed)):
        yield Row(figure, median(ours), "MB/s", "higher", reference, median(rates), remark)


def _fetch_rate(node: DemoNode, peer: str, size_bytes: int) -> float:
    moved, seconds = _pull(node, peer)
    if moved < size_bytes:
        raise CannotMeasure(f"only {moved} of {size_bytes} bytes moved")
    return moved / seconds / 1e6


def _pull(node: DemoNode, peer: str) -> tuple[int, float]:
    """Bytes moved, and seconds from the command's first event to its last."""
    lines = node.follow("pull", MODEL, "--from", peer)
    event: dict[str, Any] = {}
    started_s: float | None = None
    for event in lines:
        started_s = started_s or time.perf_counter()
        if "error" in event:
            raise CannotMeasure(str(event["error"]["message"]))
    ended_s = time.perf_counter()
    if lines.finish() != 0 or started_s is None:
        raise CannotMeasure("pull failed without saying why")
    return int(event["bytes_moved"]), ended_s - started_s


def _stock_rate(size_bytes: int) -> float:
    with program("tests.bench.stock_stream", "serve", str(size_bytes)) as server:
        assert server.stdout is not None
        fetched = output_of("tests.bench.stock_stream", "fetch", server.stdout.readline().strip())
    if fetched["bytes"] != size_bytes:
        raise CannotMeasure(f"the stock stream brought {fetched['bytes']} of {size_bytes} bytes")
    return float(fetched["bytes"] / fetched["seconds"] / 1e6)


def _hash_rate(path: Path) -> float:
    with path.open("rb") as file:
        started_s = time.perf_counter()
        hashlib.file_digest(file, "sha256")
        return path.stat().st_size / (time.perf_counter() - started_s) / 1e6
