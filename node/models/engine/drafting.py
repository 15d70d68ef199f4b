"""Guesses for one row: a small model says what comes next, and the large one reads all of it in a single step.

What is said is exactly what would be said without: the large model chooses at every place, and a guess only spares a
step where it is equal. Whether that pays depends on the machine, the two models and the text, so it is measured while
it runs: how many guesses at once give most tokens for the time, and whether none would give more.
"""

from collections import deque
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any, Final

import mlx.core as mx

from node.models.engine.caches import can_be_trimmed, make_row_caches, trim

MOST_GUESSES: Final = 8
FIRST_GUESSES: Final = 3
# Of a history that the draft has not read yet, in one go: the answer waits for it.
READ_TOKENS: Final = 128
# Steps without guesses whose time is measured, and steps with them before it is judged whether they pay.
PLAIN_STEPS: Final = 3
TRIAL_STEPS: Final = 4
# So often in a row it must look as if guesses do not pay, each time after another step without: a machine that does
# something else for a moment looks like that, too.
PATIENCE: Final = 3
_REMEMBERED: Final = 7
_FADING: Final = 0.9
_ENDLESS: Final = 1 << 30


class ModelDrafter:
    """A draft for one model, of one row at a time.

    `vocabulary` is how many tokens the draft knows, `wanted` how many logits the row's sampler takes. Both models have
    the same tokens; one of them may have rows at the end that stand for none.
    """

    def __init__(self, model: Any, vocabulary: int, wanted: int, now_s: Callable[[], float]) -> None:
        self._model = model
        self._vocabulary = vocabulary
        self._wanted = wanted
        self._now_s = now_s
        self._caches: list[Any] = []
        self._read: list[int] = []  # exactly the tokens that the caches hold
        self._sure = 0  # so many of them are the row's, no need to compare again
        self._pace = Pace()

    def guess(self, history: Sequence[int], at_most: int, choose: Callable[[mx.array], mx.array]) -> list[int] | None:
        """Give the tokens that may follow `history`; see `rows.Drafter`."""
        began_s, words = self._now_s(), list(history)
        self._pace.stepped(len(words), began_s)
        count = min(self._pace.count(), at_most)
        if self._pace.given_up or not self._go_back_to(words):
            return None
        if self._read_on(words) or count <= 0:
            self._pace.handed_out(0, len(words), began_s, self._now_s())
            return []
        new = words[len(self._read) :]
        count = min(count, room(self._caches) - len(new))
        if count <= 0:
            return None
        guesses = self._draw(new, count, choose)
        # The last guess was not read yet: it will be with what follows it, if it is right.
        self._read += [*new, *guesses[:-1]]
        self._pace.handed_out(len(guesses), len(words), began_s, self._now_s())
        return guesses

    def rest(self) -> None:
        """Forget how it went with this row; what was read stays, for the next one may begin the same way."""
        self._sure = 0
        self._pace = Pace()

    def _go_back_to(self, history: list[int]) -> bool:
        """Let go of what was read and is no part of `history`; return whether the draft can go on from there."""
        same = _common(self._read, history[:-1], self._sure)
        if same < len(self._read):
            if same and can_be_trimmed(self._caches):
                trim(self._caches, len(self._read) - same)
            elif same and self._sure:
                return False  # it would have to read the whole history again at every step
            else:
                self._caches, same = [], 0
            del self._read[same:]
        if not self._caches:
            self._caches = make_row_caches(self._model)
        if any(token >= self._vocabulary for token in history[same:]):
            return False
        self._sure = same
        return True

    def _read_on(self, history: list[int]) -> bool:
        """Read the next part of a history that is too long for one go; return whether that was done."""
        if len(history) - len(self._read) <= READ_TOKENS:
            return False
        part = history[len(self._read) : len(self._read) + READ_TOKENS]
        self._model(mx.array([part]), cache=self._caches)
        mx.eval([cache.state for cache in self._caches])
        self._read += part
        return True

    def _draw(self, new: Sequence[int], count: int, choose: Callable[[mx.array], mx.array]) -> list[int]:
        drawn: list[mx.array] = []
        tokens = mx.array([list(new)], dtype=mx.uint32)
        for _ in range(count):
            logits = self._model(tokens, cache=self._caches)[:, -1, :]
            drawn.append(choose(self._fitted(logits)))
            tokens = drawn[-1][None].astype(mx.uint32)
        values: Any = mx.concatenate(drawn).tolist()
        return [int(value) for value in values]

    def _fitted(self, logits: mx.array) -> mx.array:
        missing = self._wanted - logits.shape[-1]
        if missing <= 0:
            return logits[:, : self._wanted]
        return mx.pad(logits, [(0, 0), (0, missing)], constant_values=mx.array(-mx.inf, logits.dtype))


class Pace:
    """How many guesses pay, from what steps took and how many guesses were right. Times are in seconds.

    A step of the large model over n guesses takes about what it takes without, plus a share for each guess; with the
    chance that a guess is right, that gives the tokens per second of every count.
    """

    def __init__(self) -> None:
        self.given_up = False
        self._plain: deque[float] = deque(maxlen=PLAIN_STEPS)
        self._each: deque[float] = deque(maxlen=_REMEMBERED)  # a guess, for the draft
        self._more: deque[float] = deque(maxlen=_REMEMBERED)  # a guess, for the large model
        self._right, self._tried = 3.0, 4.0  # before anything is known: three of four
        self._steps = 0
        self._doubts, self._doubtful = 0, False
        self._last: tuple[int, int, float] | None = None  # guesses, tokens and time when they were handed out

    def stepped(self, tokens: int, now_s: float) -> None:
        """Learn that the row has `tokens` now, after the step over what was handed out last."""
        if self._last is None:
            return
        guesses, before, since_s = self._last
        self._last = None
        gained, took_s = tokens - before, now_s - since_s
        if guesses == 0:
            self._plain.append(took_s / max(gained, 1))
            return
        right = max(0, min(gained - 1, guesses))
        self._right = _FADING * self._right + right
        self._tried = _FADING * self._tried + right + (right < guesses)
        self._more.append(max(0.0, took_s - median(self._plain)) / guesses)
        self._steps += 1

    def handed_out(self, guesses: int, tokens: int, began_s: float, now_s: float) -> None:
        """Learn that `guesses` were made for a row of `tokens`, in the time since `began_s`."""
        if guesses:
            self._each.append((now_s - began_s) / guesses)
        self._last = (guesses, tokens, now_s)

    def count(self) -> int:
        """Return how many guesses are best now, 0 to measure a step without; gives up where they do not pay."""
        if len(self._plain) < PLAIN_STEPS or self._doubtful:
            self._doubtful = False
            return 0
        if self._steps < TRIAL_STEPS:
            return FIRST_GUESSES
        best = max(range(1, MOST_GUESSES + 1), key=self._speed)
        self._doubts = 0 if self._speed(best) * median(self._plain) > 1 else self._doubts + 1
        self.given_up = self._doubts >= PATIENCE
        self._doubtful = self._doubts > 0
        return best

    def _speed(self, guesses: int) -> float:
        """Return the tokens per second of steps with so many guesses."""
        chance = self._right / self._tried
        tokens = sum(chance**place for place in range(guesses + 1))
        return tokens / (median(self._plain) + guesses * (median(self._each) + median(self._more)))


def room(caches: Sequence[Any]) -> int:
    """Return how many tokens can be read into `caches` and be taken back again."""
    if not can_be_trimmed(list(caches)):
        return 0
    # A cache of fixed size forgets its oldest tokens when it is full, and they cannot come back.
    parts = [part for cache in caches for part in getattr(cache, "caches", (cache,))]
    sizes = [size - part.offset - 1 for part in parts if (size := getattr(part, "max_size", None)) is not None]
    return max(0, min(sizes, default=_ENDLESS))


def _common(one: list[int], other: list[int], sure: int) -> int:
    """Return how many tokens are equal from the beginning; the first `sure` are known to be."""
    least = min(len(one), len(other))
    if one[sure:least] == other[sure:least]:
        return least
    return next(at for at in range(sure, least) if one[at] != other[at])
