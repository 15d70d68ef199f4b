"""A large store for measurements: 1,000 signed models with 200,000 chunks, every blob, ref and bundle real.

python -m store.thousand DIRECTORY [MODELS [CHUNKS]]     fill DIRECTORY/store, then say what is in it
"""

import random
import sys
import time
from pathlib import Path
from typing import Final

from blake3 import blake3

from identity.testing import key_from_number
from protocol.chunkmap import encode_chunk_map, make_chunk_map
from protocol.digest import Digest
from protocol.manifest import (
    CONFIG_MEDIA_TYPE,
    DOC,
    WEIGHT,
    Descriptor,
    Layer,
    Manifest,
    encode_manifest,
    pin_chunk_map,
)
from protocol.model_config import ModelConfig, encode_config
from protocol.model_name import parse_model_name
from protocol.testing import MemoryLog, publish_in_memory
from store.models import ModelStore

MODELS: Final = 1_000
CHUNKS: Final = 200_000
CHUNK_BYTES: Final = 64
TENSORS: Final = 20


def fill(store: ModelStore, models: int = MODELS, chunks: int = CHUNKS, *, signed: bool = True) -> None:
    """Put `models` models with `chunks` chunks in all under the names `family-000/model:…`; chunks are 64 bytes each.

    The chunk count of a model is what a real model of 13 MB has; its weights are small so that the store is quickly
    made, and their number of tensors is a small model's.
    """
    key = key_from_number(7)
    with store.refs.batch():
        for number in range(models):
            manifest = _add_model(store, number, max(TENSORS, chunks // models))
            name = parse_model_name(f"family-{number % 50:02}/model-{number:04}:{'q4' if number % 3 else 'f16'}")
            if signed:
                content = store.blobs.read(manifest, 1 << 20)
                store.provenance.save(publish_in_memory(MemoryLog(key), str(name), content))
            store.refs.set(name, manifest, now_s=1_700_000_000 + number)


def _add_model(store: ModelStore, number: int, chunks: int) -> Digest:
    weights = random.Random(number).randbytes(chunks * CHUNK_BYTES)  # noqa: S311 - bytes that only have to differ
    pieces = [weights[start : start + CHUNK_BYTES] for start in range(0, len(weights), CHUNK_BYTES)]
    blob = store.blobs.publish_bytes(weights)
    width = len(pieces) // TENSORS * CHUNK_BYTES
    tensors = [(f"model.layers.{index}.weight", index * width, width) for index in range(TENSORS)]
    chunk_map = make_chunk_map(blob, len(weights), [(blake3(piece).digest(), len(piece)) for piece in pieces], tensors)
    encoded = encode_chunk_map(chunk_map)
    annotations = pin_chunk_map(store.blobs.publish_bytes(encoded), len(encoded))
    store.chunks.add(blob, chunk_map)
    recipe = f"FROM .\nSYSTEM model {number}\n".encode()
    layers = (
        Layer(store.blobs.publish_bytes(recipe), len(recipe), DOC, "Modelfile"),
        Layer(blob, len(weights), WEIGHT, "model.safetensors", annotations),
    )
    about = ModelConfig("qwen3", "safetensors", "13M", "bfloat16")
    config = encode_config(about, [layer.digest for layer in layers], 0)
    descriptor = Descriptor(store.blobs.publish_bytes(config), len(config), CONFIG_MEDIA_TYPE)
    return store.blobs.publish_bytes(encode_manifest(Manifest(descriptor, layers)))


def main() -> None:
    """Fill a store and say how long it took."""
    directory, *counts = sys.argv[1:]
    began = time.monotonic()
    store = ModelStore(Path(directory) / "store")
    fill(store, *map(int, counts))
    said = f"{len(store.refs.list())} models, {len(store.chunks.blobs())} mapped layers"
    store.close()
    sys.stdout.write(f"{said} in {time.monotonic() - began:.1f} s\n")


if __name__ == "__main__":
    main()
