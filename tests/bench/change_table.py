"""What a change of a model costs to move: our chunks, whole files, the real hf_xet, and the bar that was set."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from protocol.manifest import CONFIG_MEDIA_TYPE, WEIGHT, Descriptor, Layer, Manifest, encode_manifest
from store.ingest import ingest_file
from store.models import ModelStore
from store.partial import PartialLayer
from store.safetensors import read_header
from tests.bench.change_model import Model, Shape, base_tensors, changes, write_file
from tests.bench.run import ROOT, CannotMeasure, Run
from tests.bench.table import Row

# MB, as tensor-cut content-defined chunks of 64 KiB were measured when the format was chosen, and the digits given.
BARS = {
    "fine-tune of some blocks": (68.8, 1),
    "LoRA merged into q, v": (49.5, 1),
    "a tensor appended": (0.02, 2),
    "2 files become 4": (0.02, 2),
    "header metadata only": (0.02, 2),
    "reordered tensors": (0.02, 2),
    "vocabulary + 64 rows": (0.16, 2),
    "fused qkv and gate_up": (9.4, 1),
    "LoRA merge, in 4 bits": (13.9, 1),
}
ABOVE_BAR = 1.02


@dataclass(frozen=True)
class Moved:
    """Bytes that move for one change: of the weights, and with chunk maps and manifest."""

    weights: int
    everything: int
    whole: int


class Xet:
    """A folder that the real hf_xet takes for its server, with a copy of it for every change."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._count = 0

    def upload(self, base: Path, files: list[Path]) -> dict[str, int]:
        """What `files` cost where the files of the directory `base` are there already."""
        before = self._scratch / base.name
        if not before.exists():
            self._run(before, sorted(base.iterdir()))
        self._count += 1
        copy = self._scratch / f"change-{self._count}"
        shutil.copytree(before, copy, copy_function=_link_or_copy)
        found = self._run(copy, files)
        shutil.rmtree(copy)
        return found

    def _run(self, endpoint: Path, files: list[Path]) -> dict[str, int]:
        endpoint.mkdir(parents=True, exist_ok=True)
        home = str(self._scratch / "home")
        command = [sys.executable, "-m", "tests.bench.xet_reference", str(endpoint), *map(str, files)]
        environment = {**os.environ, "HF_HOME": home, "HF_XET_CACHE": home}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise CannotMeasure(f"hf_xet: {done.stderr.strip().rpartition(chr(10))[2]}")
        found: dict[str, int] = json.loads(done.stdout)
        return found


def measure(run: Run) -> Iterator[Row]:
    """Each change twice: beside the bar, and beside hf_xet on the same files in the same run."""
    quick = run.sizes.quick
    shape = Shape.small() if quick else Shape()
    scratch = run.scratch / "changes"
    xet = Xet(scratch / "xet")
    consumers: dict[str, ModelStore] = {}
    run.progress("making the model that is changed")
    for name, before, after in changes(shape, base_tensors(shape)):
        run.progress(f"change: {name}")
        metadata = {"format": "pt", "note": "another"} if before is after else {"format": "pt"}
        base, changed = scratch / f"base-of-{len(before)}", scratch / "changed"
        if not base.exists():
            _write(base, before, {"format": "pt"})
            consumers[base.name] = _store(scratch / f"store-{base.name}", base)[0]
        _write(changed, after, metadata)
        moved = count_moved(consumers[base.name], changed, scratch / "publisher")
        beside = xet.upload(base, sorted(changed.iterdir()))
        shutil.rmtree(changed)
        yield from _rows(name, moved, beside, judged=not quick)
    shutil.rmtree(scratch)


def count_moved(consumer: ModelStore, changed: Path, scratch: Path) -> Moved:
    """What a pull of the model in `changed` fetches into `consumer`: chunks that it holds nowhere, maps, manifest."""
    publisher, manifest = _store(scratch, changed)
    weights = small = 0
    for layer in manifest.layers:
        if consumer.blobs.has(layer.digest):
            continue
        chunk_map = publisher.chunk_map(layer)
        pin = layer.chunk_map
        if chunk_map is None or pin is None:
            weights += layer.size
            continue
        small += pin.size
        with PartialLayer.open(consumer, layer.digest, layer.size, chunk_map) as partial:
            partial.fill_from_local(consumer.chunks)
            weights += partial.missing_bytes()
            partial.discard()
    publisher.close()
    shutil.rmtree(scratch)
    return Moved(weights, weights + small + len(encode_manifest(manifest)), manifest.size_bytes)


def _rows(name: str, moved: Moved, xet: dict[str, int], judged: bool) -> Iterator[Row]:
    bar, digits = BARS[name]
    figure, remark = f"moved: {name}", _remark(moved)
    most = (bar + 0.5 * 10**-digits) * ABOVE_BAR / bar if judged else None
    yield Row(figure, moved.weights / 1e6, "MB", "lower", "tensor-cut bar", bar, remark, most)
    remark = f"{xet['uploaded'] / 1e6:.2f} MB compressed and with its own tables"
    below = 1.0 if judged else None
    yield Row(figure, moved.weights / 1e6, "MB", "lower", "hf_xet, new bytes", xet["new"] / 1e6, remark, below)


def _remark(moved: Moved) -> str:
    with_maps = f"{moved.everything / 1e6:.2f} MB with chunk maps and manifest"
    return f"{with_maps}; whole files {moved.whole / 1e6:.0f} MB"


def _write(directory: Path, model: Model, metadata: dict[str, str]) -> None:
    directory.mkdir(parents=True)
    for name, tensors in model.items():
        write_file(directory / name, tensors, metadata)


def _store(root: Path, directory: Path) -> tuple[ModelStore, Manifest]:
    """A store with the files of `directory` and their chunks, and the manifest that names them."""
    store = ModelStore(root)
    layers = []
    with store.lease() as lease:
        for path in sorted(directory.iterdir()):
            with path.open("rb", buffering=0) as file:
                done = ingest_file(store.blobs, lease, file, path.stat().st_size, path.name, WEIGHT, read_header(path))
            if done.chunk_map:
                store.chunks.add(done.blob.digest, done.chunk_map)
            layers.append(Layer(done.blob.digest, done.blob.size, WEIGHT, path.name, done.annotations))
    config = Descriptor(store.blobs.publish_bytes(b"{}"), 2, CONFIG_MEDIA_TYPE)
    return store, Manifest(config, tuple(layers))


def _link_or_copy(source: str, target: str) -> None:
    """Its packs never change; everything else does."""
    if Path(source).name.startswith("default.") and not source.endswith(".tagset"):
        os.link(source, target)
    else:
        shutil.copy2(source, target)
