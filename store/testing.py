"""Models and stores for tests: small, quick, the same for the same seed."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np

from protocol.model_name import ModelName, parse_model_name
from protocol.modelfile import parse_modelfile
from store.build import BuildRequest, BuiltModel, build_model
from store.models import ModelStore
from store.safetensors import write_safetensors

WORDS: Final = {"<|endoftext|>": 0, "hello": 1, "world": 2}

Tensors = Mapping[str, tuple[str, tuple[int, ...], bytes]]


def make_tensors(seed: int = 0, blocks: int = 2, width: int = 64) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Return finite half-precision tensors of a little model: an embedding and `blocks` square weights with norms."""
    random = np.random.default_rng(seed)
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (32, width)}
    for block in range(blocks):
        shapes[f"model.layers.{block}.norm.weight"] = (width,)
        shapes[f"model.layers.{block}.weight"] = (width, width)
    return {
        name: ("F16", shape, random.standard_normal(shape, dtype=np.float32).astype("<f2").tobytes())
        for name, shape in shapes.items()
    }


def make_model_directory(directory: Path, tensors: Tensors | None = None) -> Path:
    """Fill `directory` with config, tokenizer and weights that can be built, but not answered with."""
    directory.mkdir(parents=True, exist_ok=True)
    config = {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "hidden_size": 64}
    tokenizer = {"version": "1.0", "model": {"type": "WordLevel", "vocab": WORDS, "unk_token": "<|endoftext|>"}}
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer))
    write_safetensors(directory / "model.safetensors", tensors or make_tensors(), {"format": "mlx"})
    return directory


def add_model(store: ModelStore, name: str, directory: Path, recipe: str = "FROM .") -> BuiltModel:
    """Build what `recipe` says beside `directory` and let `name` stand for it, unsigned."""
    parsed_name: ModelName = parse_model_name(name)
    built = build_model(store, BuildRequest(parse_modelfile(recipe), parsed_name, directory))
    store.refs.set(parsed_name, built.manifest)
    return built
