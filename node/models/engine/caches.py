"""The caches of mlx-lm that the engine builds on, in one place: for one row, and for a batch of rows.

A row's caches are a list with one for each layer; so are a batch's.
"""

from collections.abc import Sequence
from copy import copy
from typing import Any, Final

import mlx.core as mx
from mlx_lm.models import cache as _cache

_lm: Final[Any] = _cache
# What mlx publishes no types for.
_mx: Final[Any] = mx


def make_row_caches(model: Any) -> list[Any]:
    """Return fresh caches for one row, one for each layer of `model`."""
    return list(_lm.make_prompt_cache(model))


def can_be_trimmed(caches: list[Any]) -> bool:
    """Return whether tokens can be taken off the end of `caches`."""
    return bool(_lm.can_trim_prompt_cache(caches))


def trim(caches: list[Any], tokens: int) -> int:
    """Take `tokens` off the end of `caches`; return how many were taken."""
    return int(_lm.trim_prompt_cache(caches, tokens))


def can_be_batched(caches: Sequence[Any]) -> bool:
    """Return whether rows with such caches can be generated together."""
    return all(hasattr(cache, "merge") for cache in caches)


def can_be_padded(caches: Sequence[Any]) -> bool:
    """Return whether prompts of different lengths can be read together into such caches."""
    return all(type(cache).__name__ in ("KVCache", "RotatingKVCache", "QuantizedRow") for cache in caches)


def merge(rows: Sequence[list[Any]]) -> list[Any]:
    """Return the caches of a batch that has the tokens of `rows`."""
    return [layer[0].merge(list(layer)) for layer in zip(*rows, strict=True)]


def extend(batch: list[Any], other: list[Any]) -> None:
    """Put the rows of the batch `other` behind those of `batch`."""
    for cache, more in zip(batch, other, strict=True):
        cache.extend(more)


def keep_rows(batch: list[Any], rows: Sequence[int]) -> None:
    """Let `batch` have only these of its rows."""
    for cache in batch:
        cache.filter(list(rows))


def share_places(batch: Sequence[Any]) -> mx.array | None:
    """Have all layers of `batch` say with one array at which places its rows stand, and return it, shape (rows,).

    None where the layers are of a kind that writes this array in place. The array is good for one forward pass.
    """
    if not batch or any(type(cache) is not _lm.BatchKVCache for cache in batch):
        return None
    places: mx.array = batch[0].offset
    for cache in batch:
        cache.offset = places
    return places


def row_of(batch: list[Any], row: int) -> list[Any]:
    """Return the caches of one row of `batch` by themselves."""
    return [cache.extract(row) for cache in batch]


def announce_padding(batch: list[Any], lengths: Sequence[int]) -> None:
    """Say that in what is read next, only so many tokens of each row are no padding."""
    longest = max(lengths)
    for cache in batch:
        cache.prepare(lengths=list(lengths), right_padding=[longest - length for length in lengths])


def drop_padding(batch: list[Any]) -> None:
    """End what `announce_padding` began."""
    for cache in batch:
        cache.finalize()


def snapshot(caches: Sequence[Any]) -> list[Any]:
    """Return copies that hold what `caches` hold now, whatever is read into those afterwards; no array is copied."""
    return [_copied(cache) for cache in caches]


def compute(caches: Sequence[Any]) -> None:
    """Wait until all that was read is in `caches`."""
    mx.eval([cache.state for cache in caches])


def start(caches: Sequence[Any]) -> None:
    """Begin to compute what was read into `caches`."""
    _mx.async_eval([cache.state for cache in caches])


def bytes_of(caches: Sequence[Any]) -> int:
    """Return what the arrays of `caches` take."""
    return sum(int(cache.nbytes) for cache in caches)


def _copied(cache: Any) -> Any:
    twin = copy(cache)
    if isinstance(inner := getattr(cache, "caches", None), list | tuple):
        twin.caches = type(inner)(_copied(each) for each in inner)
    if isinstance(arrays := getattr(cache, "cache", None), list):
        twin.cache = list(arrays)
    if isinstance(getattr(cache, "keys", None), list):
        twin.keys, twin.values = list(cache.keys), list(cache.values)
    return twin
