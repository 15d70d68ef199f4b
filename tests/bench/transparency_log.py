"""What a log entry costs: appending it for good, and proving and checking what the log contains."""

import hashlib
import os
import statistics
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from identity.testing import key_from_number
from protocol.tlog import EMPTY_ROOT, check_consistency, check_inclusion, leaf_hash
from store.log import Log
from tests.bench.run import Run
from tests.bench.sampling import medians_ms
from tests.bench.table import Row

ENTRY_BYTES = 128
NODE_HASH_BYTES = 65
"""A tree node's hash covers a byte and two hashes."""


class MemoryGuard:
    """The rollback guard without the keychain that keeps it, whose price is another."""

    def __init__(self) -> None:
        self._state = (0, EMPTY_ROOT)

    def read(self) -> tuple[int, bytes]:
        """The newest state."""
        return self._state

    def advance(self, size: int, root: bytes) -> None:
        """Keep a newer one."""
        self._state = (size, root)


def measure(run: Run) -> Iterator[Row]:
    """Append and prove, beside the file system's own flush and the bare hashes of a proof."""
    count = run.sizes.log_entries
    run.progress(f"appending {count} log entries")
    log = Log.open(run.scratch / "bench-log", key_from_number(1), MemoryGuard())
    entries = [place.to_bytes(8, "big") * (ENTRY_BYTES // 8) for place in range(count)]
    samples = min(count, 50)
    log.append(entries[: count - samples])
    appended, flushed = medians_ms(
        samples,
        lambda place: log.append([entries[count - samples + place]]),
        lambda place: _write_flushed(run.scratch / "flushed", entries[place]),
    )
    figure = f"log append, 1 entry at {count:,}"
    yield Row(figure, appended, "ms", "lower", "one file written and flushed (fsync)", flushed, "tiles, entries, note")
    run.progress("proving")
    yield from _proofs(run, log, entries)


def _proofs(run: Run, log: Log, entries: list[bytes]) -> Iterator[Row]:
    size, root, samples = log.size, log.root, run.sizes.proofs
    places = [place * size // samples for place in range(samples)]
    olds = [max(1, place) for place in places]
    old_roots = [log.root_at(old) for old in olds]

    def include(sample: int) -> int:
        place = places[sample]
        proof = log.inclusion_proof(place, size)
        check_inclusion(leaf_hash(entries[place]), place, size, proof, root)
        return len(proof)

    def grow(sample: int) -> int:
        old = olds[sample]
        proof = log.consistency_proof(old, size)
        check_consistency(old, old_roots[sample], size, root, proof)
        return len(proof)

    for figure, prove in (
        ("inclusion proof, made and checked", include),
        ("consistency proof, made and checked", grow),
    ):
        hashes = max(1, round(statistics.fmean(prove(sample) for sample in range(samples))))
        spent, bare = medians_ms(samples, prove, partial(_bare_hashes, hashes))
        yield Row(f"{figure} at {size:,}", spent, "ms", "lower", f"{hashes} sha256 of {NODE_HASH_BYTES} bytes", bare)


def _bare_hashes(count: int, _sample: int) -> None:
    block = bytes(NODE_HASH_BYTES)
    for _ in range(count):
        hashlib.sha256(block).digest()


def _write_flushed(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
