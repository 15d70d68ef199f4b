"""Keys and values of a context in 4 or 8 bits, for one row and for a batch of rows: a quarter or half of the memory.

For a few new tokens attention reads the packed numbers as they are; for many, as when a prompt is read, they are
unpacked for the moment, which is several times faster. mlx-lm tells the two apart by whether the cache has `bits`.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

import mlx.core as mx

Packed = tuple[mx.array, ...]
"""What mx.quantize gives: packed numbers, scales, biases; all with the tokens on axis 2."""

STEP: Final = 256
# So many new tokens are looked up in packed form; more are faster unpacked.
FEW_TOKENS: Final = 8
GROUPS: Final = (64, 32)
_WORD_BITS: Final = 32


class _Quantized:
    """What rows and batches have in common; `_idx` is how far the arrays are filled."""

    def __init__(self, bits: int, packed: bool) -> None:
        self._bits = bits
        self._packed = packed
        self._gave_packed = False
        self.group_size = 0
        self.keys: Packed | None = None
        self.values: Packed | None = None
        self._idx = 0

    @property
    def bits(self) -> int:
        """Bits of a number, where the last thing given was packed.

        Raises:
            AttributeError: it was not.
        """
        if not self._gave_packed:
            raise AttributeError("bits")
        return self._bits

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[Any, Any]:
        """Take the next tokens and give all there are."""
        start, count = self._idx, keys.shape[2]
        if self.keys is None or self.values is None:
            self.group_size = _group_size(keys.shape[3], values.shape[3])
            self.keys, self.values = self._empty(keys, count), self._empty(values, count)
        elif start + count > self.keys[0].shape[2]:
            # What is not filled is cut off first, so that the arrays stay as long as they say.
            self.keys = _grown(self.keys, start, count)
            self.values = _grown(self.values, start, count)
        self._advance(count)
        self._put(self.keys, keys, start)
        self._put(self.values, values, start)
        self._gave_packed = self._packed and count <= FEW_TOKENS
        return self._given(self.keys), self._given(self.values)

    def is_trimmable(self) -> bool:
        """Return whether tokens can be taken off the end: always."""
        return True

    def size(self) -> int:
        """Return how many tokens there are, padding included."""
        return self._idx

    def empty(self) -> bool:
        """Return whether there is none."""
        return self.keys is None

    @property
    def nbytes(self) -> int:
        """What the arrays take."""
        return sum(array.nbytes for array in (*(self.keys or ()), *(self.values or ())))

    def _advance(self, count: int) -> None:
        self._idx += count

    def _empty(self, like: mx.array, count: int) -> Packed:
        rows, heads, _, width = like.shape
        axes = (rows, heads, _rounded(count))
        words, groups = width * self._bits // _WORD_BITS, width // self.group_size
        return (
            mx.zeros((*axes, words), mx.uint32),
            mx.zeros((*axes, groups), like.dtype),
            mx.zeros((*axes, groups), like.dtype),
        )

    def _put(self, there: Packed, new: mx.array, start: int) -> None:
        packed: Any = mx.quantize(new, group_size=self.group_size, bits=self._bits)
        for array, part in zip(there, packed, strict=True):
            array[:, :, start : self._idx, :] = part

    def _given(self, packed: Packed) -> Any:
        filled = tuple(array[:, :, : self._idx, :] for array in packed)
        if self._gave_packed:
            return filled
        words, scales, biases = filled
        return mx.dequantize(words, scales, biases, group_size=self.group_size, bits=self._bits)


class QuantizedRow(_Quantized):
    """The quantized cache of one row and layer."""

    @property
    def offset(self) -> int:
        """How many tokens were read."""
        return self._idx

    @offset.setter
    def offset(self, tokens: int) -> None:
        self._idx = tokens
        if self.keys is not None and self.values is not None and not self.group_size:
            # Arrays that were put here, not computed here: what a group is, follows from them.
            self.group_size = self.keys[0].shape[3] * _WORD_BITS // self._bits // self.keys[1].shape[3]

    @property
    def state(self) -> tuple[Packed | None, Packed | None, int]:
        """All that it holds, for `mx.eval` and for copies."""
        return self.keys, self.values, self._idx

    @state.setter
    def state(self, state: tuple[Packed | None, Packed | None, int]) -> None:
        self.keys, self.values, self.offset = state

    def trim(self, tokens: int) -> int:
        """Take tokens off the end; return how many."""
        taken = min(self._idx, tokens)
        self._idx -= taken
        return taken

    def make_mask(self, new: int, return_array: bool = False, window_size: int | None = None) -> Any:
        """Return the mask for so many new tokens, as mlx-lm's caches do."""
        if window_size is None and new == 1:
            return None
        if window_size is None and not return_array:
            return "causal"
        return _causal(new, self._idx, window_size, None)

    @classmethod
    def merge(cls, rows: "Sequence[QuantizedRow]") -> "QuantizedBatch":
        """Return a batch of `rows`, which are padded on their left to the longest."""
        return QuantizedBatch.merge(rows)


class QuantizedBatch(_Quantized):
    """The quantized caches of several rows in one layer; each is padded on its left to where the longest begins."""

    def __init__(self, left_padding: Sequence[int], bits: int, packed: bool) -> None:
        super().__init__(bits, packed)
        self.left_padding = mx.array(list(left_padding))
        self.offset = mx.array([-padding for padding in left_padding])
        self._right_padding: mx.array | None = None

    @classmethod
    def merge(cls, rows: Sequence[QuantizedRow]) -> "QuantizedBatch":
        """Return a batch of `rows`."""
        longest = max(row._idx for row in rows)
        batch = cls([longest - row._idx for row in rows], rows[0]._bits, rows[0]._packed)
        filled = next((row for row in rows if row.keys is not None), None)
        if filled is None:
            return batch
        batch.group_size = filled.group_size
        batch.keys = _stacked([row.keys for row in rows], [row._idx for row in rows], longest)
        batch.values = _stacked([row.values for row in rows], [row._idx for row in rows], longest)
        batch.offset = batch.offset + longest
        batch._idx = longest
        return batch

    @property
    def state(self) -> tuple[Any, ...]:
        """All that it holds, for `mx.eval`."""
        return self.keys, self.values, self.offset, self.left_padding, self._idx

    def prepare(
        self,
        *,
        left_padding: Sequence[int] | None = None,
        lengths: Sequence[int] | None = None,
        right_padding: Sequence[int] | None = None,
    ) -> None:
        """Announce padding of the tokens that come next.

        Raises:
            ValueError: padding on the left of what holds tokens already.
        """
        if left_padding is not None:
            if self.keys is not None:
                raise ValueError("left padding is for an empty cache")
            padding = mx.array(list(left_padding))
            self.left_padding = self.left_padding + padding
            self.offset = self.offset - padding
        if right_padding is not None and max(right_padding) > 0:
            self._right_padding = mx.array(list(right_padding))

    def finalize(self) -> None:
        """Move the padding that was on the right to the left."""
        padding = self._right_padding
        if padding is None or self.keys is None or self.values is None:
            return
        self.keys = tuple(_rolled(array, padding) for array in self.keys)
        self.values = tuple(_rolled(array, padding) for array in self.values)
        self.offset = self.offset - padding
        self.left_padding = self.left_padding + padding
        self._right_padding = None

    def trim(self, tokens: int) -> int:
        """Take tokens off the end of every row; return how many."""
        taken = min(self._idx, tokens)
        self._idx -= taken
        self.offset = self.offset - taken
        return taken

    def make_mask(self, new: int, return_array: bool = False, window_size: int | None = None) -> mx.array:
        """Return the mask for so many new tokens: never a row's padding."""
        return _causal(new, self._idx, window_size, self.left_padding)

    def filter(self, rows: Any) -> None:
        """Keep `rows`, and no more padding than they need."""
        rows = mx.array(rows)
        self.offset, self.left_padding = self.offset[rows], self.left_padding[rows]
        spare = int(mx.min(self.left_padding).item())  # type: ignore[arg-type]  # a whole number
        if self.keys is not None and self.values is not None:
            self.keys = tuple(array[rows][:, :, spare:, :] for array in self.keys)
            self.values = tuple(array[rows][:, :, spare:, :] for array in self.values)
        self._idx -= spare
        self.left_padding = self.left_padding - spare

    def extend(self, other: "QuantizedBatch") -> None:
        """Take the rows of `other` behind the own ones."""
        if self.keys is not None or other.keys is not None:
            longest = max(self._idx, other._idx)
            room = max(batch.keys[0].shape[2] for batch in (self, other) if batch.keys is not None)
            self.group_size = self.group_size or other.group_size
            keys, values = _both(self, other, "keys", longest, room), _both(self, other, "values", longest, room)
            self.left_padding = self.left_padding + (longest - self._idx)
            other_padding = other.left_padding + (longest - other._idx)
            self.keys, self.values, self._idx = keys, values, longest
        else:
            other_padding = other.left_padding
        self.left_padding = mx.concatenate([self.left_padding, other_padding])
        self.offset = mx.concatenate([self.offset, other.offset])

    def extract(self, row: int) -> QuantizedRow:
        """Return one row by itself, without padding."""
        alone = QuantizedRow(self._bits, self._packed)
        if self.keys is not None and self.values is not None:
            start = int(self.left_padding[row].item())  # type: ignore[arg-type]  # a whole number
            alone.group_size = self.group_size
            alone.keys = tuple(mx.contiguous(array[row : row + 1, :, start : self._idx]) for array in self.keys)
            alone.values = tuple(mx.contiguous(array[row : row + 1, :, start : self._idx]) for array in self.values)
            alone.offset = self._idx - start
        return alone

    def _advance(self, count: int) -> None:
        super()._advance(count)
        self.offset = self.offset + count


def quantized(caches: Sequence[Any], bits: int, *, packed: bool) -> list[Any]:
    """Return fresh `caches` with quantized ones in place of those that keep all keys and values.

    Not `packed`, they give unpacked numbers only, for models that compute attention in ways of their own.
    """
    found: list[Any] = []
    for cache in caches:
        if type(cache).__name__ == "KVCache":
            found.append(QuantizedRow(bits, packed))
        elif (inner := getattr(cache, "caches", None)) is not None:
            cache.caches = tuple(quantized(inner, bits, packed=packed))
            found.append(cache)
        else:
            found.append(cache)
    return found


def choose_caches(model: Any, make_caches: Callable[[], list[Any]], bits: int) -> Callable[[], list[Any]] | None:
    """Return what makes `model`'s caches with `bits` bits, or None where it has none that can be quantized.

    A model whose attention does not take packed numbers, or whose heads do not divide into groups, is found out with
    two passes over one token.
    """
    if not any(type(cache).__name__ == "QuantizedRow" for cache in _flat(quantized(make_caches(), bits, packed=True))):
        return None
    for packed in (True, False):

        def make(packed: bool = packed) -> list[Any]:
            return quantized(make_caches(), bits, packed=packed)

        try:
            caches = make()
            mx.eval(model(mx.array([[0] * (FEW_TOKENS + 1)]), cache=caches), model(mx.array([[0]]), cache=caches))
        except (ValueError, TypeError, AttributeError, IndexError):
            continue
        return make
    return None


def _flat(caches: Sequence[Any]) -> list[Any]:
    found: list[Any] = []
    for cache in caches:
        inner = getattr(cache, "caches", None)
        found.extend([cache] if inner is None else _flat(inner))
    return found


def _rounded(tokens: int) -> int:
    return -(-tokens // STEP) * STEP


def _group_size(*widths: int) -> int:
    for group in GROUPS:
        if not any(width % group for width in widths):
            return group
    raise ValueError(f"heads of {widths} numbers do not divide into groups of {GROUPS[-1]}")


def _grown(packed: Packed, filled: int, more: int) -> Packed:
    return tuple(
        mx.concatenate(
            [array[:, :, :filled, :], mx.zeros((*array.shape[:2], _rounded(more), array.shape[3]), array.dtype)], axis=2
        )
        for array in packed
    )


def _padded(array: mx.array, filled: int, left: int, right: int) -> mx.array:
    return mx.pad(array[:, :, :filled, :], [(0, 0), (0, 0), (left, right), (0, 0)])


def _stacked(rows: Sequence[Packed | None], filled: Sequence[int], longest: int) -> Packed:
    like = next(row for row in rows if row is not None)
    full = [row if row is not None else tuple(mx.zeros_like(array[:, :, :0, :]) for array in like) for row in rows]
    return tuple(
        mx.concatenate(
            [_padded(array, tokens, longest - tokens, 0) for array, tokens in zip(column, filled, strict=True)]
        )
        for column in zip(*full, strict=True)
    )


def _both(one: QuantizedBatch, other: QuantizedBatch, name: str, longest: int, room: int) -> Packed:
    there = getattr(one, name) or getattr(other, name)
    parts = []
    for batch in (one, other):
        arrays = getattr(batch, name)
        rows = batch.offset.shape[0]
        if arrays is None:
            arrays = tuple(mx.zeros((rows, array.shape[1], 0, array.shape[3]), array.dtype) for array in there)
        left = longest - batch._idx
        parts.append([_padded(array, batch._idx, left, max(0, room - longest)) for array in arrays])
    return tuple(mx.concatenate(list(pair)) for pair in zip(*parts, strict=True))


def _rolled(array: mx.array, shifts: mx.array) -> mx.array:
    places = (mx.arange(array.shape[2])[None, :] - shifts[:, None]) % array.shape[2]
    return mx.take_along_axis(array, places[:, None, :, None], axis=2)


def _causal(new: int, before: int, window: int | None, left_padding: mx.array | None) -> mx.array:
    there = mx.arange(before + new)[None]
    here = mx.arange(before, before + new)[:, None]
    mask = here >= there
    if window is not None:
        mask = mask & (here < there + window)
    if left_padding is not None:
        mask = mask & (left_padding[:, None, None, None] <= there)
    return mask
