"""The same models in 64-bit numpy, written from their publishers' descriptions and sharing no code with the engine."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.node.models.engine.embedding_models import HEADS, HIDDEN, LAYER_NAMES, LAYERS, PARTS, Weights

Matrix = npt.NDArray[np.float64]
_erf = np.vectorize(math.erf)


def encoder_states(family: str, weights: Weights, tokens: Sequence[int]) -> Matrix:
    """Give the vectors of one text's tokens: no batch, no padding."""
    w = {name: tensor.astype(np.float64) for name, tensor in weights.items()}
    eps = 1e-12 if family == "distilbert" else 1e-5
    first = 0 if family in ("bert", "distilbert") else 2
    count = len(tokens)
    x = w["embeddings.word_embeddings.weight"][list(tokens)]
    x = x + w["embeddings.position_embeddings.weight"][first : first + count]
    if "embeddings.token_type_embeddings.weight" in w:
        x = x + w["embeddings.token_type_embeddings.weight"][0]
    x = _norm(x, w, "embeddings.LayerNorm", eps)
    bias = np.zeros((HEADS, count, count))
    if family == "mpnet":
        table = w["encoder.relative_attention_bias.weight"]
        for asked in range(count):
            for seen_at in range(count):
                bias[:, asked, seen_at] = table[_bucket(seen_at - asked)]
    for layer in range(LAYERS):
        place = {part: f"{LAYER_NAMES[family]}.{layer}.{name}" for part, name in PARTS[family].items()}
        seen = np.zeros_like(x)
        size = HIDDEN // HEADS
        query, key, value = (_linear(x, w, place[part]) for part in ("query", "key", "value"))
        for head in range(HEADS):
            columns = slice(head * size, (head + 1) * size)
            scores = query[:, columns] @ key[:, columns].T / math.sqrt(size) + bias[head]
            seen[:, columns] = _softmax(scores) @ value[:, columns]
        x = _norm(x + _linear(seen, w, place["out"]), w, place["norm1"], eps)
        inner = _linear(x, w, place["up"])
        inner = inner * 0.5 * (1 + _erf(inner / math.sqrt(2)))
        x = _norm(x + _linear(inner, w, place["down"]), w, place["norm2"], eps)
    return x


def decoder_states(config: dict[str, Any], weights: Weights, tokens: Sequence[int]) -> Matrix:
    """Give the vectors of one text's tokens as Qwen3 computes them."""
    w = {name: tensor.astype(np.float64) for name, tensor in weights.items()}
    eps, base, size = config["rms_norm_eps"], config["rope_theta"], config["head_dim"]
    heads, groups = config["num_attention_heads"], config["num_key_value_heads"]
    count = len(tokens)
    x = w["embed_tokens.weight"][list(tokens)]
    angles = np.arange(count)[:, None] / base ** (np.arange(0, size, 2) / size)[None, :]
    hidden_from = np.triu(np.full((count, count), -np.inf), 1)
    for layer in range(config["num_hidden_layers"]):
        place = f"layers.{layer}."
        y = _rms(x, w[f"{place}input_layernorm.weight"], eps)
        query = (y @ w[f"{place}self_attn.q_proj.weight"].T).reshape(count, heads, size)
        key = (y @ w[f"{place}self_attn.k_proj.weight"].T).reshape(count, groups, size)
        value = (y @ w[f"{place}self_attn.v_proj.weight"].T).reshape(count, groups, size)
        query = _turned(_rms(query, w[f"{place}self_attn.q_norm.weight"], eps), angles)
        key = _turned(_rms(key, w[f"{place}self_attn.k_norm.weight"], eps), angles)
        seen = np.empty((count, heads, size))
        for head in range(heads):
            group = head // (heads // groups)
            scores = query[:, head] @ key[:, group].T / math.sqrt(size) + hidden_from
            seen[:, head] = _softmax(scores) @ value[:, group]
        x = x + seen.reshape(count, heads * size) @ w[f"{place}self_attn.o_proj.weight"].T
        y = _rms(x, w[f"{place}post_attention_layernorm.weight"], eps)
        gate = y @ w[f"{place}mlp.gate_proj.weight"].T
        inner = gate / (1 + np.exp(-gate)) * (y @ w[f"{place}mlp.up_proj.weight"].T)
        x = x + inner @ w[f"{place}mlp.down_proj.weight"].T
    return _rms(x, w["norm.weight"], eps)


def pooled(states: Matrix, pooling: str) -> Matrix:
    """Give one vector of length 1."""
    ways = {"mean": states.mean(0), "cls": states[0], "max": states.max(0), "lasttoken": states[-1]}
    vector: Matrix = ways[pooling]
    return vector / math.sqrt(float((vector**2).sum()))


def _bucket(distance: int) -> int:
    back = -distance
    number = 16 if back < 0 else 0
    back = abs(back)
    if back < 8:
        return number + back
    return number + min(15, 8 + int(math.log(back / 8) / math.log(128 / 8) * 8))


def _turned(x: Matrix, angles: Matrix) -> Matrix:
    half = x.shape[-1] // 2
    cosine, sine = np.cos(angles)[:, None, :], np.sin(angles)[:, None, :]
    left, right = x[..., :half], x[..., half:]
    return np.concatenate([left * cosine - right * sine, right * cosine + left * sine], axis=-1)


def _linear(x: Matrix, w: dict[str, Matrix], name: str) -> Matrix:
    y: Matrix = x @ w[f"{name}.weight"].T + w[f"{name}.bias"]
    return y


def _norm(x: Matrix, w: dict[str, Matrix], name: str, eps: float) -> Matrix:
    mean = x.mean(-1, keepdims=True)
    spread = ((x - mean) ** 2).mean(-1, keepdims=True)
    y: Matrix = (x - mean) / np.sqrt(spread + eps) * w[f"{name}.weight"] + w[f"{name}.bias"]
    return y


def _rms(x: Matrix, weight: Matrix, eps: float) -> Matrix:
    y: Matrix = x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * weight
    return y


def _softmax(scores: Matrix) -> Matrix:
    raised = np.exp(scores - scores.max(-1, keepdims=True))
    share: Matrix = raised / raised.sum(-1, keepdims=True)
    return share
