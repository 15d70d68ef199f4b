"""A model's `model_info` as the native API names it: `general.*`, and what its architecture is made of."""

import math
from collections.abc import Mapping
from typing import Any, Final

from node.models.anatomy import Anatomy

# What the clients read, and where configs have it; the first that is there counts.
_SHAPE: Final[Mapping[str, tuple[str, ...]]] = {
    "block_count": ("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    "context_length": ("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx", "seq_length"),
    "embedding_length": ("hidden_size", "n_embd", "d_model", "dim"),
    "feed_forward_length": ("intermediate_size", "n_inner", "ffn_dim", "hidden_dim"),
    "attention.head_count": ("num_attention_heads", "n_head", "n_heads"),
    "attention.head_count_kv": ("num_key_value_heads", "n_kv_heads", "num_attention_heads", "n_head", "n_heads"),
    "attention.key_length": ("head_dim",),
    "attention.value_length": ("head_dim",),
    "attention.sliding_window": ("sliding_window",),
    "attention.layer_norm_rms_epsilon": ("rms_norm_eps",),
    "attention.layer_norm_epsilon": ("layer_norm_eps", "layer_norm_epsilon"),
    "rope.freq_base": ("rope_theta",),
    "expert_count": ("num_experts", "num_local_experts", "n_routed_experts"),
    "expert_used_count": ("num_experts_per_tok",),
    "vocab_size": ("vocab_size",),
}
_TOKENS: Final = {
    "tokenizer.ggml.bos_token_id": "bos_token_id",
    "tokenizer.ggml.eos_token_id": "eos_token_id",
    "tokenizer.ggml.padding_token_id": "pad_token_id",
}


def model_info(anatomy: Anatomy) -> dict[str, Any]:
    """Return what is known of a model's architecture; `general.architecture` is always there."""
    config = anatomy.config
    # A model that also sees keeps what concerns its words in a part of its own.
    text = config.get("text_config")
    words = {**config, **text} if isinstance(text, dict) else config
    kind = config.get("model_type")
    architecture = kind if isinstance(kind, str) else ""
    found: dict[str, Any] = {"general.architecture": architecture, "general.parameter_count": anatomy.parameters}
    for name, keys in _SHAPE.items():
        value = next((words[key] for key in keys if _is_number(words.get(key))), None)
        if value is not None:
            found[f"{architecture}.{name}"] = value
    for name, key in _TOKENS.items():
        if type(words.get(key)) is int:
            found[name] = words[key]
    return found


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
