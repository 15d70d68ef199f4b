"""The demo's second version: the embedded model with one tensor changed, as a small fine-tune would leave it."""

import json
import shutil
import struct
from pathlib import Path
from typing import Final

from node.models.demo import demo_directory

WEIGHTS: Final = "model.safetensors"
TENSOR: Final = "model.layers.3.self_attn.k_proj.weight"
# Nudges every value by under one percent: enough for other bytes everywhere, too little for another answer.
FACTOR: Final = 1.005
_LENGTH: Final = struct.Struct("<Q")


def write_changed_copy(directory: Path) -> int:
    """Copy the embedded model to `directory` with one tensor changed; return the tensor's size in bytes."""
    # Imported here: numpy takes 100 ms, and only the demo's last step needs it.
    import numpy as np

    shutil.copytree(demo_directory(), directory)
    path = directory / WEIGHTS
    content = bytearray((demo_directory() / WEIGHTS).read_bytes())
    (header_bytes,) = _LENGTH.unpack_from(content)
    data_at = _LENGTH.size + header_bytes
    tensor = json.loads(content[_LENGTH.size : data_at])[TENSOR]
    begin, end = (data_at + offset for offset in tensor["data_offsets"])
    values = np.frombuffer(content, np.float16, (end - begin) // 2, begin)
    content[begin:end] = (values.astype(np.float32) * FACTOR).astype(np.float16).tobytes()
    path.chmod(0o644)
    path.write_bytes(content)
    return int(end - begin)
