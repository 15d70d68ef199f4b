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

from node.models.engine.drawing import Draw, rounds_of
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


def uniform(seed: int, place: int, count: int = 1) -> list[float]:
    """Return the `count` numbers in [0, 1) with which the token number `place` of an answer with `seed` is drawn."""
    word, numbers = (_mix(seed) + (place + 1) * _GOLDEN) & _WORD, []
    for _ in range(count):
        word = _mix(word)
        numbers.append((word >> (64 - _UNIFORM_BITS)) / 2**_UNIFORM_BITS)
    return numbers


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
        drawing: dict[tuple[int, int], list[int]] = {}
        for number, wish in enumerate(wishes):
            if wish.temperature > 0:
                drawing.setdefault((wish.top_k, rounds_of(wish)), []).append(number)
        self._draws = [(rows, Draw([wishes[row] for row in rows], vocabulary)) for rows in drawing.values()]

    def __call__(self, logits: mx.array, masks: Sequence[Mask | None] = ()) -> mx.array:
        """Return the chosen tokens, shape (rows,), from logits of shape (rows, vocabulary); not evaluated."""
        logits = self._adjusted(logits, masks)
        if len(self._draws) == 1 and len(self._draws[0][0]) == len(self._places):
            return self._drawn(logits, *self._draws[0])
        tokens = _likeliest(logits)
        for rows, draw in self._draws:
            index = mx.array(rows)
            tokens[index] = self._drawn(logits[index], rows, draw)
        return tokens

    def _drawn(self, logits: mx.array, rows: Sequence[int], draw: Draw) -> mx.array:
        places = [self._places[row] for row in rows]
        return draw(logits, [uniform(place.sampling.seed, place.number, draw.numbers) for place in places])

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


def sampler_from(place: Place, vocabulary: int) -> Callable[[mx.array], mx.array]:
    """Return what chooses for `place` and, each time it is called, for the place after that.

    What it chose itself is not penalised: that would have to wait for the values.
    """
    ahead = count()

    def choose(logits: mx.array) -> mx.array:
        return Choice([replace(place, ahead=place.ahead + next(ahead))], vocabulary)(logits)

    return choose


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
