"""A model's `config.json`, read with caps: which architecture it is, and how long a text it was trained for."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from node.models.errors import ModelRefused
from protocol.worker.messages import MAX_TOKENS

MAX_CONFIG_BYTES: Final = 4 * 1024 * 1024
FALLBACK_CONTEXT_TOKENS: Final = 4096
_MODEL_TYPE: Final = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
_CONTEXT_KEYS: Final = ("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx", "seq_length")


def read_config(directory: Path) -> dict[str, Any]:
    """Return `config.json` of the model in `directory`; its `model_type` is a word.

    Raises:
        ModelRefused: it cannot be read, names no architecture, or brings code of its own.
    """
    path = directory / "config.json"
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise ModelRefused(f"config.json has more than {MAX_CONFIG_BYTES} bytes")
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelRefused(f"config.json: {one_line(error)}") from error
    model_type = config.get("model_type") if isinstance(config, dict) else None
    if not isinstance(model_type, str) or not _MODEL_TYPE.fullmatch(model_type):
        raise ModelRefused("config.json names no model_type")
    if config.get("model_file") is not None:
        raise ModelRefused("it brings code of its own (model_file), which is never run")
    return dict(config)


def context_tokens(config: Mapping[str, Any]) -> int:
    """Return how many tokens the model was trained to read."""
    nested = config.get("text_config")
    for source in (config, nested if isinstance(nested, dict) else {}):
        for key in _CONTEXT_KEYS:
            if type(size := source.get(key)) is int and size > 0:  # true is no number of tokens
                return min(size, MAX_TOKENS)
    return FALLBACK_CONTEXT_TOKENS


def one_line(error: BaseException) -> str:
    """Return what an error of a library says, in one line of bounded length."""
    return " ".join(str(error).split())[:300] or type(error).__name__
