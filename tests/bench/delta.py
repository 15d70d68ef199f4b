"""Full fine-tunes as deltas: their size beside the layer, and how fast they are made and applied."""

import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from protocol.manifest import WEIGHT, Layer
from store.delta import apply_delta, make_delta
from store.ingest import ingest_file
from store.models import ModelStore
from store.safetensors import read_header
from tests.bench.change_model import Shape, Tensor, base_tensors, fully_tuned, write_file
from tests.bench.run import CannotMeasure, Run
from tests.bench.table import Row

SIGMAS = (5e-6, 2e-5, 1e-4)
LIMITS = {2e-5: 0.2}


def measure(run: Run) -> Iterator[Row]:
    """Move every weight by noise, tell the change, and make the layer again from the base and the delta."""
    scratch = run.scratch / "deltas"
    scratch.mkdir()
    base = base_tensors(Shape.small() if run.sizes.quick else Shape())
    store = ModelStore(scratch / "store")
    base_layer = _layer(store, scratch / "base.safetensors", base)
    for sigma in SIGMAS:
        run.progress(f"a full fine-tune of sigma {sigma:g}")
        target = _layer(store, scratch / "tuned.safetensors", fully_tuned(base, sigma))
        with store.lease() as lease:
            started_s = time.perf_counter()
            delta = make_delta(store, base_layer.digest, target.digest, lease)
            made_s = time.perf_counter() - started_s
            if delta is None:
                raise CannotMeasure(f"no delta for sigma {sigma:g} was worth it")
            store.blobs.delete(target.digest)
            started_s = time.perf_counter()
            apply_delta(store, delta, base_layer.digest, target)
            applied_s = time.perf_counter() - started_s
        size = target.size / 1e6
        remark = f"made at {size / made_s:.0f} MB/s of layer, applied, verified and durable at {size / applied_s:.0f}"
        limit = None if run.sizes.quick else LIMITS.get(sigma)
        moved = store.blobs.size(delta) / 1e6
        yield Row(f"delta, full fine-tune σ {sigma:.0e}", moved, "MB", "lower", "the layer", size, remark, limit)
        store.blobs.delete(target.digest)
    store.close()
    shutil.rmtree(scratch)


def _layer(store: ModelStore, path: Path, tensors: Sequence[Tensor]) -> Layer:
    write_file(path, tensors, {"format": "pt"})
    with store.lease() as lease, path.open("rb", buffering=0) as file:
        done = ingest_file(store.blobs, lease, file, path.stat().st_size, path.name, WEIGHT, read_header(path))
    path.unlink()
    return Layer(done.blob.digest, done.blob.size, WEIGHT, path.name, done.annotations)
