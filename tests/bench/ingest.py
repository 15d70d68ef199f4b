"""How fast a weight file is taken into the store, beside sha256 over the same file alone and the disk's own speed."""

import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from mmap import mmap
from pathlib import Path
from statistics import median

from protocol.manifest import WEIGHT
from store.disk import Temporary
from store.ingest import ingest_file
from store.models import ModelStore
from store.safetensors import read_header
from tests.bench.run import Run
from tests.bench.table import Row
from tests.bench.weights import write_weights

LIMIT = 0.6
MEMORY = Path("/dev/shm")
SPARE_BYTES = 4_000_000_000


def measure(run: Run) -> Iterator[Row]:
    """The medians of some turns; in each, sha256, the disk and the store get the same bytes, from the page cache."""
    path, flat = weights_of(run), weights_of(run, flat=True)
    size = path.stat().st_size
    hashed, written, taken, taken_flat, kept_in_memory = [], [], [], [], []
    for turn in range(run.sizes.turns):
        run.progress(f"taking a file of {size / 1e6:.0f} MB into the store, turn {turn + 1} of {run.sizes.turns}")
        hashed.append(hash_rate(path))
        taken.append(ingest_rate(path, run.scratch))
        taken_flat.append(ingest_rate(flat, run.scratch))
        written.append(write_rate(run.scratch, size))
        if has_memory_disk(size):
            kept_in_memory.append(ingest_rate(path, MEMORY))
    figure = f"ingest of {size / 1e6:.0f} MB"
    judged = None if run.sizes.quick else LIMIT
    yield against_sha256(figure, "hashed, cut, checked, durable", taken, hashed, judged)
    yield against_sha256(f"{figure}, vectors only", "all of it cut by content", taken_flat, hashed)
    if kept_in_memory:
        yield against_sha256(f"{figure}, tmpfs", "without a disk", kept_in_memory, hashed)
    remark = f"each byte written once and flushed; by turn {', '.join(f'{rate:.0f}' for rate in written)}"
    yield Row(figure, median(taken), "MB/s", "higher", "the disk's own writing", median(written), remark)


def against_sha256(
    figure: str, remark: str, taken: Sequence[float], hashed: Sequence[float], limit: float | None = None
) -> Row:
    """The turn with the median ratio; a turn's two measurements lie seconds apart, so they share the machine's mood."""
    turns = sorted(zip(taken, hashed, strict=True), key=lambda turn: turn[0] / turn[1])
    mine, reference = turns[len(turns) // 2]
    by_turn = ", ".join(f"{rate / beside:.2f}" for rate, beside in turns)
    remark = f"{remark}; median of {by_turn}"
    return Row(figure, mine, "MB/s", "higher", "sha256 of the same file", reference, remark, limit)


def weights_of(run: Run, *, flat: bool = False) -> Path:
    """The file that is measured with, made once in a run and then in the page cache; `flat`: see `write_weights`."""
    path = run.scratch / ("vectors.safetensors" if flat else "weights.safetensors")
    if not path.exists():
        run.progress(f"making a weight file of {run.sizes.file_bytes / 1e6:.0f} MB")
        write_weights(path, run.sizes.file_bytes, flat=flat)
        os.sync()  # what was written for the measurement must not be written during it
        hash_rate(path)
    return path


def hash_rate(path: Path) -> float:
    """MB/s of sha256 over the file, as the standard library reads it."""
    with path.open("rb", buffering=0) as file:
        started_s = time.perf_counter()
        hashlib.file_digest(file, "sha256")
        return path.stat().st_size / (time.perf_counter() - started_s) / 1e6


def ingest_rate(path: Path, scratch: Path) -> float:
    """MB/s from the first byte read to blob and chunk map durable under their names."""
    with tempfile.TemporaryDirectory(dir=scratch) as directory:
        store = ModelStore(Path(directory))
        header = read_header(path)
        with store.lease() as lease, path.open("rb", buffering=0) as file:
            started_s = time.perf_counter()
            ingest_file(store.blobs, lease, file, path.stat().st_size, path.name, WEIGHT, header)
            spent_s = time.perf_counter() - started_s
        store.close()
    return path.stat().st_size / spent_s / 1e6


def write_rate(directory: Path, size_bytes: int) -> float:
    """MB/s of writing so many bytes past the page cache, where the file system can, and flushing them."""
    block = memoryview(mmap(-1, 4 << 20))
    block[:] = os.urandom(len(block))
    with Temporary(directory) as temporary:
        temporary.write_past_cache()
        started_s = time.perf_counter()
        for start in range(0, size_bytes, len(block)):
            temporary.write(block[: size_bytes - start])
        os.fsync(temporary.file.fileno())
        return size_bytes / (time.perf_counter() - started_s) / 1e6


def has_memory_disk(size_bytes: int) -> bool:
    """Whether there is a tmpfs with room to spare."""
    return MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > 2 * size_bytes + SPARE_BYTES
