"""Little encoders that turn queries and keys by their places, and what 64-bit numpy makes of them."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

from tests.node.models.engine.embedding_models import (
    HEADS,
    HIDDEN,
    INNER,
    PLACES,
    Weights,
    bert_tokenizer,
    write_json,
    write_sentences,
)

Matrix = npt.NDArray[np.float64]
SIZE = HIDDEN // HEADS
LAYERS = 4
REACH = 4
_erf = np.vectorize(math.erf)


def write_rotary(directory: Path, family: str, seed: int = 3) -> Weights:
    """Write a model of `family` as its publisher does, and return its weights."""
    directory.mkdir(parents=True)
    tokenizer = bert_tokenizer()
    tokenizer.save(str(directory / "tokenizer.json"))
    config = rotary_config(family, tokenizer.get_vocab_size())
    write_json(directory / "config.json", config)
    write_sentences(directory, "mean")
    weights = (_nomic_weights if family == "nomic_bert" else _modern_weights)(config["vocab_size"], seed)
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    return weights


def rotary_config(family: str, vocabulary: int) -> dict[str, Any]:
    if family == "nomic_bert":
        sizes = {"n_embd": HIDDEN, "n_head": HEADS, "n_inner": INNER, "n_layer": LAYERS, "n_positions": 4 * PLACES}
        places = {"max_trained_positions": PLACES, "rotary_emb_base": 1000, "rotary_emb_fraction": 1.0}
        words = {"activation_function": "swiglu", "layer_norm_epsilon": 1e-12, "prenorm": False, "qkv_proj_bias": False}
        return {"model_type": family, "vocab_size": vocabulary, "type_vocab_size": 2, **sizes, **places, **words}
    sizes = {"hidden_size": HIDDEN, "num_attention_heads": HEADS, "intermediate_size": INNER}
    places = {"max_position_embeddings": PLACES, "global_rope_theta": 160000.0, "local_rope_theta": 10000.0}
    words = {"local_attention": 2 * REACH, "global_attn_every_n_layers": 3, "hidden_activation": "gelu"}
    return {
        "model_type": family,
        "vocab_size": vocabulary,
        "num_hidden_layers": LAYERS,
        "norm_eps": 1e-5,
        **sizes,
        **places,
        **words,
    }


def rotary_states(family: str, directory: Path, weights: Weights, tokens: Sequence[int]) -> Matrix:
    """Give the vectors of one text's tokens."""
    config = json.loads((directory / "config.json").read_text())
    w = {name: tensor.astype(np.float64) for name, tensor in weights.items()}
    return (_nomic_states if family == "nomic_bert" else _modern_states)(config, w, tokens)


def _nomic_states(config: dict[str, Any], w: dict[str, Matrix], tokens: Sequence[int]) -> Matrix:
    x = w["embeddings.word_embeddings.weight"][list(tokens)] + w["embeddings.token_type_embeddings.weight"][0]
    x = _norm(x, w["emb_ln.weight"], w["emb_ln.bias"], 1e-12)
    for layer in range(LAYERS):
        p = f"encoder.layers.{layer}."
        seen = _seen(x @ w[f"{p}attn.Wqkv.weight"].T, config["rotary_emb_base"], None)
        x = _norm(x + seen @ w[f"{p}attn.out_proj.weight"].T, w[f"{p}norm1.weight"], w[f"{p}norm1.bias"], 1e-12)
        gate = x @ w[f"{p}mlp.fc12.weight"].T
        inner = x @ w[f"{p}mlp.fc11.weight"].T * (gate / (1 + np.exp(-gate)))
        x = _norm(x + inner @ w[f"{p}mlp.fc2.weight"].T, w[f"{p}norm2.weight"], w[f"{p}norm2.bias"], 1e-12)
    return x


def _modern_states(config: dict[str, Any], w: dict[str, Matrix], tokens: Sequence[int]) -> Matrix:
    x = _norm(w["model.embeddings.tok_embeddings.weight"][list(tokens)], w["model.embeddings.norm.weight"], None, 1e-5)
    for layer in range(LAYERS):
        p = f"model.layers.{layer}."
        far = layer % 3 == 0
        y = x if layer == 0 else _norm(x, w[f"{p}attn_norm.weight"], None, 1e-5)
        base = config["global_rope_theta"] if far else config["local_rope_theta"]
        seen = _seen(y @ w[f"{p}attn.Wqkv.weight"].T, base, None if far else REACH)
        x = x + seen @ w[f"{p}attn.Wo.weight"].T
        both = _norm(x, w[f"{p}mlp_norm.weight"], None, 1e-5) @ w[f"{p}mlp.Wi.weight"].T
        first, second = both[:, :INNER], both[:, INNER:]
        x = x + (first * 0.5 * (1 + _erf(first / math.sqrt(2))) * second) @ w[f"{p}mlp.Wo.weight"].T
    return _norm(x, w["model.final_norm.weight"], None, 1e-5)


def _seen(turned: Matrix, base: float, reach: int | None) -> Matrix:
    count = len(turned)
    query, key, value = turned[:, :HIDDEN], turned[:, HIDDEN : 2 * HIDDEN], turned[:, 2 * HIDDEN :]
    seen = np.empty((count, HIDDEN))
    for head in range(HEADS):
        columns = slice(head * SIZE, (head + 1) * SIZE)
        scores = _turn(query[:, columns], base) @ _turn(key[:, columns], base).T / math.sqrt(SIZE)
        for asked in range(count):
            for found in range(count):
                if reach is not None and abs(asked - found) > reach:
                    scores[asked, found] = -np.inf
        share = np.exp(scores - scores.max(-1, keepdims=True))
        seen[:, columns] = share / share.sum(-1, keepdims=True) @ value[:, columns]
    return seen


def _turn(x: Matrix, base: float) -> Matrix:
    half = SIZE // 2
    angles = np.arange(len(x))[:, None] / base ** (np.arange(half) / half)
    left, right = x[:, :half], x[:, half:]
    turned = [left * np.cos(angles) - right * np.sin(angles), right * np.cos(angles) + left * np.sin(angles)]
    return np.concatenate(turned, axis=1)


def _norm(x: Matrix, weight: Matrix, bias: Matrix | None, eps: float) -> Matrix:
    mean = x.mean(-1, keepdims=True)
    y: Matrix = (x - mean) / np.sqrt(((x - mean) ** 2).mean(-1, keepdims=True) + eps) * weight
    return y if bias is None else y + bias


def _nomic_weights(vocabulary: int, seed: int) -> Weights:
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (vocabulary, HIDDEN),
        "embeddings.token_type_embeddings.weight": (2, HIDDEN),
        "emb_ln.weight": (HIDDEN,),
        "emb_ln.bias": (HIDDEN,),
    }
    for layer in range(LAYERS):
        p = f"encoder.layers.{layer}."
        shapes |= {f"{p}attn.Wqkv.weight": (3 * HIDDEN, HIDDEN), f"{p}attn.out_proj.weight": (HIDDEN, HIDDEN)}
        shapes |= {f"{p}mlp.fc11.weight": (INNER, HIDDEN), f"{p}mlp.fc12.weight": (INNER, HIDDEN)}
        shapes |= {f"{p}mlp.fc2.weight": (HIDDEN, INNER)}
        shapes |= {f"{p}norm{number}.{part}": (HIDDEN,) for number in (1, 2) for part in ("weight", "bias")}
    return _random(shapes, seed)


def _modern_weights(vocabulary: int, seed: int) -> Weights:
    shapes: dict[str, tuple[int, ...]] = {
        "model.embeddings.tok_embeddings.weight": (vocabulary, HIDDEN),
        "model.embeddings.norm.weight": (HIDDEN,),
        "model.final_norm.weight": (HIDDEN,),
        # The head that guesses words, which published files have.
        "head.dense.weight": (HIDDEN, HIDDEN),
        "head.norm.weight": (HIDDEN,),
        "decoder.bias": (vocabulary,),
    }
    for layer in range(LAYERS):
        p = f"model.layers.{layer}."
        shapes |= {f"{p}attn.Wqkv.weight": (3 * HIDDEN, HIDDEN), f"{p}attn.Wo.weight": (HIDDEN, HIDDEN)}
        shapes |= {f"{p}mlp.Wi.weight": (2 * INNER, HIDDEN), f"{p}mlp.Wo.weight": (HIDDEN, INNER)}
        shapes |= {f"{p}mlp_norm.weight": (HIDDEN,), **({f"{p}attn_norm.weight": (HIDDEN,)} if layer else {})}
    return _random(shapes, seed)


def _random(shapes: dict[str, tuple[int, ...]], seed: int) -> Weights:
    source = np.random.default_rng(seed)
    weights: Weights = {}
    for name, shape in shapes.items():
        values = source.normal(0, 0.2, shape)
        weights[name] = (values if len(shape) == 2 else 1 + 0.5 * values).astype(np.float32)
    return weights
