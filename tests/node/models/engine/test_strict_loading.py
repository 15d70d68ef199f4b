"""Models that write, of many architectures: loaded with exactly the tensors that they have, and refused otherwise."""

import importlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from node.models.blas import preload_blas
from node.models.demo import demo_directory
from node.models.errors import ModelRefused

pytestmark = pytest.mark.model

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "layer_norm_eps": 1e-5,
    "norm_epsilon": 1e-5,
    "rope_theta": 10000.0,
    "sliding_window": 64,
    "sliding_window_pattern": 2,
    "vocab_size": 2048,
    "tie_word_embeddings": False,
}
ARCHITECTURES = [
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "gemma",
    "gemma2",
    "gemma3_text",
    "starcoder2",
    "cohere",
    "olmo2",
]
Change = Callable[[dict[str, Any]], object]


def write_model(directory: Path, architecture: str, **config: Any) -> Path:
    """Write a model of random numbers as mlx-lm has it, with the embedded model's tokenizer."""
    preload_blas()
    from mlx.utils import tree_flatten

    directory.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(demo_directory() / name, directory / name)
    config = {"model_type": architecture, **SIZES, **config}
    (directory / "config.json").write_text(json.dumps(config))
    module = importlib.import_module(f"mlx_lm.models.{'llama' if architecture == 'mistral' else architecture}")
    model = module.Model(module.ModelArgs.from_dict(config))
    source = np.random.default_rng(5)
    named: dict[str, Any] = dict(tree_flatten(model.parameters()))
    weights = {name: source.normal(0, 0.1, each.shape).astype(np.float32) for name, each in named.items()}
    save_file(weights, directory / "model.safetensors", metadata={"format": "mlx"})
    return directory


def load(directory: Path) -> None:
    from node.models.engine.engine import Engine

    Engine.load(directory)


def change_weights(directory: Path, change: Change) -> None:
    weights = load_file(directory / "model.safetensors")
    change(weights)
    save_file(weights, directory / "model.safetensors", metadata={"format": "mlx"})


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_exactly_its_tensors(tmp_path: Path, architecture: str) -> None:
    directory = write_model(tmp_path / "model", architecture)
    load(directory)
    # One family's files never have the head: it is tied where they have none.
    names = sorted(load_file(directory / "model.safetensors").keys() - {"lm_head.weight"})
    for name in (names[0], names[-1]):
        broken = Path(shutil.copytree(directory, tmp_path / name))
        change_weights(broken, lambda weights, name=name: weights.pop(name))  # type: ignore[misc]  # bound at once
        with pytest.raises(ModelRefused, match=r"Missing 1 parameters") as caught:
            load(broken)
        assert name in str(caught.value)
    change_weights(directory, lambda weights: weights.update({"model.layers.7.surplus": np.zeros(3, np.float32)}))
    with pytest.raises(ModelRefused, match=r"Received 1 parameters not in model"):
        load(directory)


def test_a_tensor_of_another_shape(tmp_path: Path) -> None:
    directory = write_model(tmp_path / "model", "llama")
    change_weights(directory, lambda weights: weights.update({"model.norm.weight": np.ones(31, np.float32)}))
    with pytest.raises(ModelRefused, match=r"Expected shape \(32,\) but received shape \(31,\)"):
        load(directory)


def test_a_tied_head_may_be_in_the_file_and_one_of_its_own_must_be(tmp_path: Path) -> None:
    tied = write_model(tmp_path / "tied", "llama", tie_word_embeddings=True)
    change_weights(tied, lambda weights: weights.update({"lm_head.weight": np.zeros((2048, 32), np.float32)}))
    load(tied)
    untied = write_model(tmp_path / "untied", "llama", tie_word_embeddings=False)
    load(untied)
    change_weights(untied, lambda weights: weights.pop("lm_head.weight"))
    with pytest.raises(ModelRefused, match=r"lm_head\.weight"):
        load(untied)


def test_tables_of_angles_are_no_weights(tmp_path: Path) -> None:
    directory = write_model(tmp_path / "model", "llama")
    angles = {f"model.layers.{layer}.self_attn.rotary_emb.inv_freq": np.zeros(4, np.float32) for layer in range(2)}
    change_weights(directory, lambda weights: weights.update(angles))
    load(directory)


def test_packed_weights_without_their_scales(tmp_path: Path) -> None:
    directory = write_model(tmp_path / "model", "llama")
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "quantization": {"group_size": 32, "bits": 4}}))
    import mlx.core as mx

    weights: Any = mx.load(str(directory / "model.safetensors"))
    name = "model.layers.0.mlp.up_proj"
    weights[f"{name}.weight"], weights[f"{name}.scales"], weights[f"{name}.biases"] = mx.quantize(
        weights[f"{name}.weight"], 32, 4
    )
    mx.save_safetensors(str(directory / "model.safetensors"), weights)
    load(directory)
    del weights[f"{name}.scales"]
    mx.save_safetensors(str(directory / "model.safetensors"), weights)
    with pytest.raises(ModelRefused):
        load(directory)
