"""The caches of mlx-lm that the engine builds on, in one place: for one row, and for a batch of rows."""

from typing import Any, Final

from mlx_lm.models import cache as _cache

_lm: Final[Any] = _cache


def make_row_caches(model: Any) -> list[Any]:
    """Return fresh caches for one row, one for each layer of `model`."""
    return list(_lm.make_prompt_cache(model))


def can_be_trimmed(caches: list[Any]) -> bool:
    """Return whether tokens can be taken off the end of `caches`."""
    return bool(_lm.can_trim_prompt_cache(caches))


def trim(caches: list[Any], tokens: int) -> int:
    """Take `tokens` off the end of `caches`; return how many were taken."""
    return int(_lm.trim_prompt_cache(caches, tokens))
