"""Tiny random models of several cache kinds, in this process, and greedy answers by mlx-lm itself."""

from collections.abc import Callable, Sequence
from typing import Any

from node.models.blas import preload_blas
from node.models.demo import demo_directory

WINDOW = 40
COMMON = {
    **{"hidden_size": 64, "vocab_size": 500, "rms_norm_eps": 1e-6, "num_attention_heads": 4, "head_dim": 32},
    **{"num_hidden_layers": 4, "intermediate_size": 96, "num_key_value_heads": 2},
}
SHAPES: dict[str, dict[str, Any]] = {
    "gemma3_text": {"sliding_window": WINDOW, "sliding_window_pattern": 3, "query_pre_attn_scalar": 32},
    "mamba": {"state_size": 8, "conv_kernel": 4, "use_bias": False, "use_conv_bias": True, "time_step_rank": 4},
    "qwen3_next": {
        **{"linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 32},
        **{"linear_value_head_dim": 32, "linear_conv_kernel_dim": 4, "num_experts": 0, "num_experts_per_tok": 1},
        **{"decoder_sparse_step": 1, "shared_expert_intermediate_size": 32, "mlp_only_layers": [0, 1, 2, 3]},
        **{"moe_intermediate_size": 32, "rope_theta": 1e4, "partial_rotary_factor": 0.5},
        **{"max_position_embeddings": 4096, "full_attention_interval": 2},
    },
}
Make = Callable[[], list[Any]]


def load_model(kind: str) -> tuple[Any, Make]:
    """Return a model in float32, and what makes the caches of one row.

    `demo`: keys and values of every token. `gemma3_text`: windows of 40 tokens, every third layer without one.
    `mamba`: recurrent states only. `qwen3_next`: recurrent states, every second layer with keys and values.
    """
    preload_blas()
    import mlx.core as mx
    from mlx_lm import utils
    from mlx_lm.models import gemma3_text, mamba, qwen3_next
    from mlx_lm.models.cache import make_prompt_cache

    mx.disable_compile()  # as in the worker on Linux, where it would start a compiler
    mx.random.seed(7)
    model: Any
    if kind == "demo":
        model = utils.load_model(demo_directory())[0]
    else:
        package: Any = {"gemma3_text": gemma3_text, "mamba": mamba, "qwen3_next": qwen3_next}[kind]
        model = package.Model(package.ModelArgs.from_dict({"model_type": kind, **COMMON, **SHAPES[kind]}))
    model.set_dtype(mx.float32)
    mx.eval(model.parameters())
    return model, lambda: list(make_prompt_cache(model))


def read(model: Any, tokens: Sequence[int], caches: list[Any], step: int = 64) -> None:
    """Let `model` read `tokens`."""
    import mlx.core as mx

    for start in range(0, len(tokens), step):
        mx.eval(model(mx.array([list(tokens[start : start + step])]), cache=caches))


def greedy(model: Any, prompt: Sequence[int], caches: list[Any], read_before: int = 0, count: int = 12) -> list[int]:
    """Return the likeliest tokens after `prompt`; `caches` hold all of it but the last token of the answer then."""
    import mlx.core as mx

    read(model, prompt[read_before:-1], caches)
    tokens = [int(prompt[-1])]
    for _ in range(count):
        logits = model(mx.array([tokens[-1:]]), cache=caches)[0, -1]
        tokens.append(int(mx.argmax(logits).item()))  # type: ignore[arg-type]  # a whole number
    return tokens[1:]


def words(seed: int, count: int) -> list[int]:
    """Return tokens that look like a prompt."""
    return [(7 * at * at + 31 * seed + 3 * at * seed + 11) % 499 + 1 for at in range(count)]
