"""Large weight files that are cheap to make: noise that no chunk shares, in a valid safetensors file."""

import json
from pathlib import Path

import numpy as np

TENSOR_BYTES = 16 << 20
ROW = 2048  # weights in a row, as in a model of a billion weights
KEPT_BYTES = 64 << 20


def write_weights(path: Path, size_bytes: int, *, flat: bool = False) -> None:
    """Write a bf16 file of about `size_bytes`: the same noise, its exponents apart by tensor, so that no chunk repeats.

    The tensors are matrices, as nearly all of a model is; `flat` makes them vectors, which are cut by their content.

    Making a gigabyte of new noise takes longer than what is measured with it.
    """
    count = max(1, -(-size_bytes // TENSOR_BYTES))
    length = size_bytes // count // (2 * ROW) * (2 * ROW)
    header, position = {}, 0
    for place in range(count):
        header[f"model.layers.{place:05}.weight"] = {
            "dtype": "BF16",
            "shape": [length // 2] if flat else [length // (2 * ROW), ROW],
            "data_offsets": [position, position + length],
        }
        position += length
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % 4096)
    noise = np.random.default_rng(4).integers(0x3C00, 0x3E00, KEPT_BYTES // 2, np.uint16)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for place in range(count):
            start = place * 1_000_003 % (len(noise) - length // 2 + 1)
            file.write(((noise[start : start + length // 2] ^ np.uint16(place & 0xFF)) + np.uint16(place >> 8)).data)
