"""The caches of one row, cut into arrays that others can begin with, and put together again.

Three kinds of cache. *Paged*: keys and values of every token, which can be cut anywhere. *Windows* keep the newest
tokens only, and can be cut as long as nothing was dropped. *Whole* ones, such as recurrent states, cannot be cut.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import mlx.core as mx
import numpy as np

from protocol.prefix_file import PAGE_TOKENS, Tensor, Value

Arrays = tuple[mx.array, ...]
Run = tuple[Arrays, ...]
"""Arrays of one page, for each cache that has them."""

# By name, so that this file needs no mlx-lm; whoever is derived from these behaves like them.
_QUANTIZED: Final = frozenset({"QuantizedKVCache", "QuantizedRow"})
_PAGED: Final = _QUANTIZED | {"KVCache"}
_WINDOWS: Final = frozenset({"RotatingKVCache"})
# What their caches grow by; room for it saves a copy with the first new token.
_STEP: Final = 256
_TOKEN_AXIS: Final = 2


@dataclass(frozen=True)
class RowPlan:
    """Which of a row's caches are of which kind, by place.

    `window` is how many tokens the smallest window keeps, `widths` how many arrays each cache of `in_pages` has.
    """

    paged: tuple[int, ...]
    windows: tuple[int, ...]
    whole: tuple[int, ...]
    window: int
    widths: tuple[int, ...]

    @classmethod
    def of(cls, caches: Sequence[Any]) -> "RowPlan | None":
        """Return the plan for rows like `caches`, or None where one cannot tell what it holds, or not take it back."""
        parts = leaves(caches)
        kinds = [_kind(part) for part in parts]
        if any(kind == "whole" and not _can_go_on(part) for kind, part in zip(kinds, parts, strict=True)):
            return None
        places = {
            kind: tuple(place for place, each in enumerate(kinds) if each == kind)
            for kind in ("paged", "window", "whole")
        }
        window = min((int(parts[place].max_size) for place in places["window"]), default=0)
        in_pages = places["paged"] + places["window"]
        widths = tuple(6 if _names(parts[place]) & _QUANTIZED else 2 for place in in_pages)
        return cls(places["paged"], places["window"], places["whole"], window, widths)

    def is_uncut(self, tokens: int) -> bool:
        """Return whether no window has dropped any of so many tokens."""
        return not self.windows or tokens < self.window

    @property
    def in_pages(self) -> tuple[int, ...]:
        """The caches whose arrays go into pages while no window has dropped anything."""
        return self.paged + self.windows

    def run_of(self, arrays: Arrays) -> Run | None:
        """Return a page's arrays told apart by cache, or None where there are not as many as a page can have."""
        run: list[Arrays] = []
        position = 0
        for width in self.widths:
            if position == len(arrays) and len(run) == len(self.paged):
                break  # windows had dropped something when this page was made
            run.append(arrays[position : position + width])
            position += width
        return tuple(run) if position == len(arrays) else None

    def is_whole(self, arrays: int) -> bool | None:
        """Return whether a page with so many arrays has those of windows as well; None where none has so many."""
        known = {sum(self.widths[: len(self.paged)]): False, sum(self.widths): True}
        return known.get(arrays)

    @property
    def in_states(self) -> tuple[int, ...]:
        """The caches that have to be kept whole once a window has dropped something."""
        return self.windows + self.whole


@dataclass(frozen=True)
class Snapshot:
    """What the caches that cannot be cut hold after some token: arrays, and what is told beside them."""

    arrays: Arrays
    values: tuple[Value, ...]


def leaves(caches: Sequence[Any]) -> list[Any]:
    """Return the single caches of a row, those within lists of caches too, in order."""
    found: list[Any] = []
    for cache in caches:
        inner = getattr(cache, "caches", None)
        found.extend(leaves(inner) if inner is not None else [cache])
    return found


def held_tokens(caches: Sequence[Any], plan: RowPlan) -> int | None:
    """Return how many tokens the row has read, or None where its caches do not tell."""
    parts = leaves(caches)
    offsets = {int(parts[place].offset) for place in plan.in_pages}
    return offsets.pop() if len(offsets) == 1 else None


def cut(caches: Sequence[Any], places: Sequence[int], start: int, end: int) -> Run:
    """Return copies of what the caches at `places` hold of the tokens from `start` to `end`; not evaluated."""
    parts = leaves(caches)
    return tuple(tuple(mx.contiguous(array[:, :, start:end, :]) for array in _arrays(parts[place])) for place in places)


def join(
    new_caches: Callable[[], list[Any]], places: Sequence[int], runs: Sequence[Run], tokens: int, room: int
) -> list[Any]:
    """Return fresh caches with `tokens` tokens, from the runs of as many pages, and room for `room` tokens in all."""
    caches = new_caches()
    parts = leaves(caches)
    pages = len(runs)
    last = tokens - (pages - 1) * PAGE_TOKENS
    for index, place in enumerate(places):
        part = parts[place]
        spare = 0 if _kind(part) == "window" else -(-room // _STEP) * _STEP - tokens
        columns = zip(*(run[index] for run in runs), strict=True)
        _fill(part, [_joined(column, last, spare) for column in columns], tokens)
    return caches


def snapshot(caches: Sequence[Any], places: Sequence[int]) -> Snapshot:
    """Return what the caches at `places` hold now, safe from what is written to them later."""
    parts, arrays = leaves(caches), list[mx.array]()
    values = tuple(_taken(parts[place].state, arrays) for place in places)
    return Snapshot(tuple(arrays), values)


def restore(caches: Sequence[Any], places: Sequence[int], held: Snapshot) -> None:
    """Give the caches at `places` what `held` remembers."""
    parts = leaves(caches)
    for place, value in zip(places, held.values, strict=True):
        state = _given(value, held.arrays)
        parts[place].state = state


def describe(arrays: Sequence[mx.array]) -> tuple[Tensor, ...]:
    """Return types and axes of `arrays`, as files tell them."""
    return tuple(Tensor(str(array.dtype).rpartition(".")[2], tuple(array.shape)) for array in arrays)


def as_bytes(arrays: Sequence[mx.array]) -> list[memoryview]:
    """Return the bytes of evaluated `arrays` without a copy; they keep the arrays alive."""
    return [memoryview(array.reshape(-1).view(mx.uint8)) for array in arrays]  # type: ignore[arg-type]  # a buffer


def from_bytes(tensors: Sequence[Tensor], body: memoryview) -> Arrays:
    """Return the arrays that `tensors` describe and that lie one after the other in `body`."""
    arrays, position = [], 0
    for tensor in tensors:
        flat = mx.array(np.frombuffer(body, np.uint8, tensor.nbytes, position))
        arrays.append(flat.view(getattr(mx, tensor.dtype if tensor.dtype != "bool" else "bool_")).reshape(tensor.axes))
        position += tensor.nbytes
    return tuple(arrays)


def _can_go_on(cache: Any) -> bool:
    # Some caches tell what they hold, and cannot be given it back.
    state = getattr(type(cache), "state", None)
    return state.fset is not None if isinstance(state, property) else hasattr(cache, "state")


def _kind(cache: Any) -> str:
    names = _names(cache)
    return "paged" if names & _PAGED else "window" if names & _WINDOWS else "whole"


def _names(cache: Any) -> set[str]:
    return {each.__name__ for each in type(cache).__mro__}


def _arrays(cache: Any) -> Arrays:
    return (*_several(cache.keys), *_several(cache.values))


def _several(value: Any) -> Arrays:
    return tuple(value) if isinstance(value, tuple | list) else (value,)


def _joined(column: Sequence[mx.array], last: int, spare: int) -> mx.array:
    pieces = [*column[:-1], column[-1][:, :, :last, :]]
    if spare > 0:
        axes = list(pieces[0].shape)
        axes[_TOKEN_AXIS] = spare
        pieces.append(mx.zeros(axes, pieces[0].dtype))
    return mx.concatenate(pieces, axis=_TOKEN_AXIS)


def _fill(cache: Any, arrays: list[mx.array], tokens: int) -> None:
    half = len(arrays) // 2
    keys, values = arrays[:half], arrays[half:]
    cache.keys, cache.values = (tuple(keys), tuple(values)) if half > 1 else (keys[0], values[0])
    cache.offset = tokens
    if _kind(cache) == "window":
        cache._idx = tokens


def _taken(value: Any, arrays: list[mx.array]) -> Value:
    match value:
        case mx.array():
            # A new array: the cache writes into its own object, never into what this one stands for.
            arrays.append(mx.contiguous(value))
            return {"a": len(arrays) - 1}
        case None | bool() | int():
            return value
        case tuple() | list():
            return [_taken(each, arrays) for each in value]
    raise TypeError(f"a cache that remembers a {type(value).__name__}")


def _given(value: Value, arrays: Arrays) -> Any:
    match value:
        case {"a": place}:
            return mx.contiguous(arrays[place])
        case list() | tuple():
            return [_given(each, arrays) for each in value]
    return value
