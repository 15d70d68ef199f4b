"""How a model is made, read off its files: the config of its architecture, its chat template, its number of weights."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from protocol.digest import Digest
from protocol.manifest import WEIGHT
from store.capabilities import CONFIG_FILES, own_template
from store.errors import StoreError
from store.layers import read_layer_header
from store.models import ModelStore
from store.safetensors import LENGTH_BYTES, SafetensorsHeader, header_bytes, parse_header
from store.sources import CONFIG, MAX_CONFIG_BYTES
from store.weights import count_parameters

_READ: Final = frozenset({CONFIG, *CONFIG_FILES})


@dataclass(frozen=True)
class Anatomy:
    """The architecture's own config, the model's own chat template, and how many weights it has."""

    config: Mapping[str, Any] = field(default_factory=dict)
    template: str = ""
    parameters: int = 0


def read_stored(store: ModelStore, digest: Digest) -> Anatomy:
    """Return the anatomy of a stored model; what of its files is gone or damaged is left out. Blocking."""
    manifest = store.manifest(digest)
    files: dict[str, bytes] = {}
    headers: list[SafetensorsHeader] = []
    for layer in manifest.layers:
        try:
            if layer.filepath in _READ and layer.size <= MAX_CONFIG_BYTES:
                files[layer.filepath] = store.blobs.read(layer.digest, MAX_CONFIG_BYTES)
            elif layer.media_type == WEIGHT and "/" not in layer.filepath:
                headers.append(read_layer_header(store.blobs, layer))
        except StoreError:
            continue
    return _anatomy(files, headers)


def read_directory(directory: Path) -> Anatomy:
    """Return the anatomy of the model in a directory. Blocking."""
    files = {name: (directory / name).read_bytes() for name in _READ if (directory / name).is_file()}
    return _anatomy(files, [_header(path) for path in sorted(directory.glob("model*.safetensors"))])


def _anatomy(files: Mapping[str, bytes], headers: list[SafetensorsHeader]) -> Anatomy:
    try:
        config = json.loads(files.get(CONFIG, b"{}"))
    except (ValueError, RecursionError):
        config = {}
    config = config if isinstance(config, dict) else {}
    return Anatomy(config, own_template(files), count_parameters(headers, config))


def _header(path: Path) -> SafetensorsHeader:
    size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(LENGTH_BYTES)
        rest = file.read(header_bytes(path.name, prefix, size) - LENGTH_BYTES)
    return parse_header(path.name, prefix + rest, size)
