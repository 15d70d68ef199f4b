"""How fast a stored blob is hashed again, beside sha256 over the same file."""

from collections.abc import Iterator
from pathlib import Path

from protocol.manifest import WEIGHT
from store.ingest import ingest_file
from store.models import ModelStore
from store.safetensors import read_header
from tests.bench.ingest import hash_rate, weights_of
from tests.bench.run import Run
from tests.bench.sampling import medians_ms
from tests.bench.table import Row

LIMIT = 0.9


def measure(run: Run) -> Iterator[Row]:
    """Turn by turn, both with the file in the page cache."""
    path = weights_of(run)
    size = path.stat().st_size
    store = ModelStore(run.scratch / "verify-store")
    with store.lease() as lease, path.open("rb", buffering=0) as file:
        blob = ingest_file(store.blobs, lease, file, size, path.name, WEIGHT, read_header(path)).blob.digest
        run.progress(f"verifying a blob of {size / 1e6:.0f} MB")
        stored: Path = store.layout.blob_path(blob)
        hash_rate(stored)  # into the page cache
        ours_ms, reference_ms = medians_ms(
            run.sizes.turns, lambda turn: store.blobs.verify(blob), lambda turn: hash_rate(stored)
        )
        store.blobs.delete(blob)
    store.close()
    yield Row(
        f"verify of {size / 1e6:.0f} MB",
        size / ours_ms / 1e3,
        "MB/s",
        "higher",
        "sha256 of the same file",
        size / reference_ms / 1e3,
        f"in the page cache, median of {run.sizes.turns}",
        None if run.sizes.quick else LIMIT,
    )
