"""The next token of every row of a batch: biases, penalties and masks, then the likeliest or a draw.

Each row draws with numbers of its own, made from its seed and the place in its answer: the global random state of MLX
is never touched, and the same seed gives the same tokens alone and beside any others. Order: bias, penalties, mask,
top_k, temperature, top_p, min_p. What no row asks for costs nothing.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any, Final

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from protocol.worker.messages import Sampling

Mask = npt.NDArray[np.bool_]
# mlx publishes no types for some of what is used here.
_mx: Final[Any] = mx
_WORD: Final = 2**64 - 1
_GOLDEN: Final = 0x9E37_79B9_7F4A_7C15
# So few bits that `uniform * total` stays below `total` in float32, whatever the total.
_UNIFORM_BITS: Final = 23


@dataclass
class Place:
    """One place where a token is to be chosen: the row's wishes, and all that stands before it.

    `counts` has a number for each token that was chosen, where the row's penalties need it.
    """

    sampling: Sampling
    prompt: Sequence[int]
    generated: Sequence[int]
    counts: Counter[int] = field(default_factory=Counter)
    ahead: int = 0

    @property
    def number(self) -> int:
        """How many tokens of the answer stand before."""
        return len(self.generated) + self.ahead

    def after(self, guesses: Sequence[int]) -> "Place":
        """Return the place that comes once `guesses` were chosen too."""
        generated = [*self.generated, *guesses]
        counts = self.counts + Counter(guesses) if _counts(self.sampling) else self.counts
        return Place(self.sampling, self.prompt, generated, counts)

    @property
    def history(self) -> list[int]:
        """The tokens that `repeat_penalty` looks at."""
        last = self.sampling.repeat_last_n
        if last == 0:
            return []
        if last < 0:
            return [*self.prompt, *self.generated]
        tail = list(self.generated[-last:])
        return [*self.prompt[-(last - len(tail)) :], *tail] if len(tail) < last else tail

    def take(self, token: int) -> None:
        """Count a token that was chosen; the row's own list of tokens is the caller's."""
        if _counts(self.sampling):
            self.counts[token] += 1


def uniform(seed: int, place: int) -> float:
    """Return the number in [0, 1) with which the token number `place` of an answer with `seed` is drawn."""
    return (_mix((_mix(seed) + (place + 1) * _GOLDEN) & _WORD) >> (64 - _UNIFORM_BITS)) / 2**_UNIFORM_BITS


def _mix(word: int) -> int:
    # The finaliser of SplitMix64 (Steele, Lea and Flood 2014).
    word = ((word ^ (word >> 30)) * 0xBF58_476D_1CE4_E5B9) & _WORD
    word = ((word ^ (word >> 27)) * 0x94D0_49BB_1331_11EB) & _WORD
    return word ^ (word >> 31)


class Choice:
    """How the tokens of one batch are chosen; made anew whenever its rows change."""

    def __init__(self, places: Sequence[Place], vocabulary: int) -> None:
        """Take one place for each row of the batch; `vocabulary` is the width of the logits."""
        self._places = list(places)
        self._width = vocabulary
        wishes = [place.sampling for place in places]
        self._penalised = any(_penalises(wish) for wish in wishes)
        self._bias = _biases(wishes, vocabulary)
        drawing = [number for number, wish in enumerate(wishes) if wish.temperature > 0]
        self._all_greedy = not drawing
        narrow = [number for number in drawing if 0 < wishes[number].top_k < vocabulary]
        wide = [number for number in drawing if not 0 < wishes[number].top_k < vocabulary]
        self._draws = [_Draw(self._places, rows, vocabulary) for rows in (narrow, wide) if rows]

    def __call__(self, logits: mx.array, masks: Sequence[Mask | None] = ()) -> mx.array:
        """Return the chosen tokens, shape (rows,), from logits of shape (rows, vocabulary); not evaluated."""
        logits = self._adjusted(logits, masks)
        if self._all_greedy:
            return _likeliest(logits)
        if len(self._draws) == 1 and len(self._draws[0].rows) == len(self._places):
            return self._draws[0](logits)
        tokens = _likeliest(logits)
        for draw in self._draws:
            tokens[draw.index] = draw(logits[draw.index])
        return tokens

    def _adjusted(self, logits: mx.array, masks: Sequence[Mask | None]) -> mx.array:
        if self._bias is not None:
            logits = logits + self._bias.astype(logits.dtype)
        if self._penalised:
            logits = self._penalise(logits)
        if any(mask is not None for mask in masks):
            logits = mx.where(_stacked(masks, logits.shape[-1]), logits, -mx.inf)
        return logits

    def _penalise(self, logits: mx.array) -> mx.array:
        tokens, factors, losses = _penalties(self._places)
        index = mx.array(tokens)
        seen = mx.take_along_axis(logits, index, axis=-1).astype(mx.float32)
        factor = mx.array(factors)
        seen = mx.where(seen < 0, seen * factor, seen / factor) - mx.array(losses)
        return mx.put_along_axis(logits, index, seen.astype(logits.dtype), axis=-1)


class _Draw:
    """The rows of a batch that draw, either all among their few likeliest tokens or all among every token."""

    def __init__(self, places: Sequence[Place], rows: list[int], vocabulary: int) -> None:
        self.rows = rows
        self.index = mx.array(rows)
        self._places = [places[row] for row in rows]
        wishes = [place.sampling for place in self._places]
        self._most = max(wish.top_k for wish in wishes) if 0 < wishes[0].top_k < vocabulary else 0
        self._top_k = mx.array([[wish.top_k] for wish in wishes])
        self._temperature = mx.array([[wish.temperature] for wish in wishes], dtype=mx.float32)
        self._top_p = mx.array([[wish.top_p] for wish in wishes], dtype=mx.float32)
        self._min_p = mx.array([[wish.min_p] for wish in wishes], dtype=mx.float32)
        self._uneven = len({wish.top_k for wish in wishes}) > 1
        self._nucleus = any(wish.top_p < 1.0 for wish in wishes)
        self._floor = any(wish.min_p > 0.0 for wish in wishes)

    def __call__(self, logits: mx.array) -> mx.array:
        values = logits.astype(mx.float32) / self._temperature
        tokens = None
        if self._most:
            # In the order of their ids: what the draw finds must not hang on which of two equals comes first.
            tokens = mx.sort(mx.argpartition(-values, kth=self._most - 1, axis=-1)[:, : self._most], axis=-1)
            values = mx.take_along_axis(values, tokens, axis=-1)
        values = self._narrowed(values)
        chances = mx.softmax(values, axis=-1)
        sums = mx.cumsum(chances, axis=-1)
        numbers = [[uniform(place.sampling.seed, place.number)] for place in self._places]
        index = mx.sum(sums <= mx.array(numbers, dtype=mx.float32) * sums[:, -1:], axis=-1, keepdims=True)
        # Rounding in the sums must never choose what has no chance at all.
        index = mx.minimum(index, chances.shape[-1] - 1)
        sure = mx.take_along_axis(chances, index, axis=-1) > 0
        index = mx.where(sure, index, mx.argmax(chances, axis=-1, keepdims=True))
        return (index if tokens is None else mx.take_along_axis(tokens, index, axis=-1))[:, 0].astype(mx.uint32)

    def _narrowed(self, values: mx.array) -> mx.array:
        if not (self._nucleus or self._uneven or self._floor):
            return values
        if not (self._nucleus or self._uneven):
            return mx.where(values >= values.max(axis=-1, keepdims=True) + mx.log(self._min_p), values, -mx.inf)
        falling = -mx.sort(-values, axis=-1)
        if self._uneven:
            falling = mx.where(mx.arange(falling.shape[-1]) < self._top_k, falling, -mx.inf)
        chances = mx.softmax(falling, axis=-1)
        before = mx.cumsum(chances, axis=-1) - chances
        # What lies before the likeliest is 0, so one token is always kept even with top_p 0.
        kept = (before <= 0) | (before < self._top_p) | (self._top_p >= 1.0)
        kept = kept & (chances >= self._min_p * chances[:, :1]) & (chances > 0)
        least = mx.min(mx.where(kept, falling, mx.inf), axis=-1, keepdims=True)
        return mx.where(values >= least, values, -mx.inf)


def sampler_from(place: Place, vocabulary: int) -> Callable[[mx.array], mx.array]:
    """Return what chooses for `place` and, each time it is called, for the place after that.

    What it chose itself is not penalised: that would have to wait for the values.
    """
    ahead = count()

    def choose(logits: mx.array) -> mx.array:
        return Choice([replace(place, ahead=place.ahead + next(ahead))], vocabulary)(logits)

    return choose


def log_probabilities(logits: mx.array) -> mx.array:
    """Return the log-probabilities of raw logits, shape (rows, vocabulary), in float32."""
    logits = logits.astype(mx.float32)
    return logits - mx.logsumexp(logits, axis=-1, keepdims=True)


def _likeliest(logits: mx.array) -> mx.array:
    if logits.dtype == mx.float32:
        return mx.argmax(logits, axis=-1)
    # Over log-probabilities in the model's own type, exactly as mlx-lm does: coarse types make ties of their own.
    return mx.argmax(logits - mx.logsumexp(logits, axis=-1, keepdims=True), axis=-1)


def _counts(wish: Sampling) -> bool:
    return bool(wish.presence_penalty or wish.frequency_penalty)


def _penalises(wish: Sampling) -> bool:
    return wish.repeat_penalty != 1.0 or _counts(wish)


def _biases(wishes: Sequence[Sampling], vocabulary: int) -> mx.array | None:
    if not any(wish.logit_bias for wish in wishes):
        return None
    biases = np.zeros((len(wishes), vocabulary), dtype=np.float32)
    for row, wish in enumerate(wishes):
        for token, bias in wish.logit_bias:
            biases[row, token] += bias
    return mx.array(biases)


def _stacked(masks: Sequence[Mask | None], width: int) -> mx.array:
    stacked = np.ones((len(masks), width), dtype=np.bool_)
    for row, mask in enumerate(masks):
        if mask is not None:
            stacked[row, : len(mask)] = mask[:width]
            stacked[row, len(mask) :] = False
    return mx.array(stacked)


def _penalties(places: Sequence[Place]) -> tuple[npt.NDArray[np.uint32], ...]:
    """Return (tokens, factors, losses), one line for each row, padded with what may be written twice."""
    lines = [_penalty_line(place) for place in places]
    longest = max(len(line) for line in lines)
    # The same token with the same penalty written twice is the same.
    padded = [line + [line[-1]] * (longest - len(line)) for line in lines]
    columns = np.array(padded, dtype=np.float64)
    return (
        columns[:, :, 0].astype(np.uint32),
        columns[:, :, 1].astype(np.float32),
        columns[:, :, 2].astype(np.float32),
    )


def _penalty_line(place: Place) -> list[tuple[int, float, float]]:
    wish = place.sampling
    recent = set(place.history) if wish.repeat_penalty != 1.0 else set()
    line = [
        (
            token,
            wish.repeat_penalty if token in recent else 1.0,
            wish.frequency_penalty * place.counts[token] + wish.presence_penalty * (place.counts[token] > 0),
        )
        for token in sorted(recent | set(place.counts))
    ]
    return line or [(0, 1.0, 0.0)]
