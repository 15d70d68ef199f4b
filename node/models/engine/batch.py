"""Answers that are generated together: one step gives each of them its next token.

The accelerator never waits for Python: the next step is begun on tokens that are not known yet, and while it runs, the
values of the last one are made into text, masks and messages. Rows that ended drop out one step later; what that step
computed for them is thrown away.

One row alone has plain caches, without the masks and the padding of a batch.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

import mlx.core as mx

from node.models.engine.caches import (
    can_be_batched,
    can_be_trimmed,
    extend,
    keep_rows,
    merge,
    row_of,
    share_places,
    snapshot,
    trim,
)
from node.models.engine.cpu_math import begin_pass
from node.models.engine.drafting import room
from node.models.engine.reading import Read, Reader
from node.models.engine.rows import Adapters, Chosen, Drafter, Likely, Listener, Prefixes, Row
from node.models.engine.sampling import Choice, Mask, sampler_from
from node.models.errors import FormatInvalid, ModelError, ModelRefused

# mlx publishes no types for some of what is used here.
_mx: Final[Any] = mx
# After so many steps the memory that MLX keeps for later is given back.
STEPS_BETWEEN_CLEARING: Final = 512


class Batch:
    """The rows that are being answered by one model. All calls come from the thread that owns MLX."""

    def __init__(
        self,
        model: Any,
        vocabulary: int,
        fresh: Callable[[], list[Any]],
        listener: Listener,
        now_s: Callable[[], float],
        *,
        head_tokens: int,
        adapters: Adapters | None = None,
        prefixes: Prefixes | None = None,
        drafter: Drafter | None = None,
    ) -> None:
        """Take what makes the caches of one row, and who hears what becomes of the rows."""
        self._model = model
        self._vocabulary = vocabulary
        self._listener = listener
        self._adapters = adapters
        self._prefixes = prefixes
        caches = fresh()
        self.can_share = can_be_batched(caches)
        self._drafter = drafter if can_be_trimmed(caches) else None
        self._reader = Reader(
            model, fresh, listener, now_s, head_tokens=head_tokens, adapters=adapters, prefixes=prefixes
        )
        self._reads_next = False
        self._steps = 0
        self._clear()

    def _clear(self) -> None:
        self._rows: list[Row] = []
        self._caches: list[Any] = []
        self._plain = False
        # Of what comes after each row's newest token; None while that token was not read (only beside a draft).
        self._logits: mx.array | None = None
        self._choice: Choice | None = None
        self._new: set[Row] = set()
        self._drafts = False

    @property
    def rows(self) -> list[Row]:
        """All rows that are being answered, those whose prompts are being read among them."""
        return [*self._rows, *self._reader.rows]

    def add(self, row: Row) -> None:
        """Answer `row`; its prompt is not empty, and its tokens are within the vocabulary."""
        self._reader.add(row)

    def reset(self) -> None:
        """Let all rows go, with whatever state they are in."""
        self._reader.clear()
        self._clear()

    def step(self) -> None:
        """Read a chunk of a prompt, or choose one token for every row; rows that were stopped are dropped first."""
        self._drop_stopped()
        reads = bool(self._reader.rows) and (not self._rows or (self._reads_next and self.can_share))
        self._reads_next = not reads
        if reads:
            self._read()
        elif self._rows:
            self._generate()

    def _read(self) -> None:
        first = self._reader.first
        try:
            read = self._reader.step(beside=bool(self._rows))
        except ModelError as error:
            self._reader.drop(first)
            self._listener.failed(first, error)
            return
        if read is not None:
            self._join(read)
            self._reads_next = False

    def _join(self, read: Read) -> None:
        if not self._rows:
            self._rows, self._caches, self._plain, self._logits = list(read.rows), read.caches, read.plain, read.logits
        else:
            self._end_draft()
            if self._logits is None:
                self._logits = self._next_logits(mx.array([self._rows[0].generated[-1]]))
            if self._plain:
                self._caches, self._plain = merge([self._caches]), False
            extend(self._caches, merge([read.caches]) if read.plain else read.caches)
            self._rows += read.rows
            self._logits = mx.concatenate([self._logits, read.logits])
        self._new.update(read.rows)
        self._choice = None
        self._drafts = self._drafter is not None and len(self._rows) == 1 and _can_draft(self._rows[0])

    def _generate(self) -> None:
        self._steps += 1
        if self._steps % STEPS_BETWEEN_CLEARING == 0:
            mx.clear_cache()
        if self._logits is None:
            self._generate_drafted()
            return
        masks = self._masks()
        rows, logits = self._rows, self._logits
        if logits is None:
            return
        if self._choice is None:
            self._choice = Choice([row.place for row in rows], logits.shape[-1])
        tokens = self._choice(logits, masks)
        finite = mx.isfinite(mx.logsumexp(logits, axis=-1)) if self._new else None
        likely = _LikelyOnes(rows, logits, tokens)
        _mx.async_eval(tokens, finite, likely.arrays)
        # A first token is told before anything else is begun. Otherwise the next step is begun on tokens that are not
        # known yet: the accelerator does not even wait until this thread is awake.
        at_once = not self._new
        before = following = None
        if not self._drafts and any(len(row.generated) + 1 < row.most for row in rows):
            # What the caches of a single row were is remembered, for the case that its first token ends it.
            before = snapshot(self._caches) if self._plain and not at_once else None
            following = self._next_logits(tokens)
            if at_once:
                _mx.async_eval(following)
        values: list[int] = tokens.tolist()  # type: ignore[assignment]  # an array of one dimension
        chosen = self._take(values, likely, None if finite is None else finite.tolist())
        if chosen:
            self._listener.chosen(chosen)
        going = [number for number, row in enumerate(rows) if row not in self._ended]
        if going and following is not None and not at_once:
            before = None  # or its arrays could not be written in place
            _mx.async_eval(following)
        elif before is not None:
            self._caches, following = before, None
        self._logits = following
        self._keep_going(going, values, was_read=following is not None)

    def _take(self, values: list[int], likely: "_LikelyOnes", finite: Any) -> list[Chosen]:
        chosen = []
        self._ended: dict[Row, bool] = {}
        for number, (row, value) in enumerate(zip(self._rows, values, strict=True)):
            if finite is not None and not finite[number]:
                self._fail(row, ModelRefused("it computes values that are no numbers"))
                continue
            try:
                ending = row.take(value)
            except FormatInvalid as error:
                self._fail(row, error)
                continue
            if ending:
                self._ended[row] = True
            chosen.append(Chosen(row, value, ending, likely.of(number)))
        self._new.clear()
        return chosen

    def _fail(self, row: Row, error: ModelError) -> None:
        self._ended[row] = False
        self._listener.failed(row, error)

    def _masks(self) -> list[Mask | None]:
        """Ask every row what may come next; rows that cannot say it fail, and are gone afterwards."""
        masks: dict[Row, Mask | None] = {}
        for row in self._rows:
            try:
                masks[row] = row.constraint.mask() if row.constraint is not None else None
            except FormatInvalid as error:
                self._listener.failed(row, error)
        if len(masks) < len(self._rows):
            self._let_go([number for number, row in enumerate(self._rows) if row in masks])
        return list(masks.values())

    def _next_logits(self, tokens: mx.array) -> mx.array:
        if self._adapters is not None:
            self._adapters.select([row.adapter for row in self._rows])
        begin_pass(share_places(self._caches))
        logits: mx.array = self._model(tokens[:, None], cache=self._caches)
        return logits[:, -1, :]

    def _keep_going(self, going: list[int], values: list[int], *, was_read: bool) -> None:
        """Let rows that ended go; their caches hold the newest token if it `was_read`."""
        if len(going) == len(self._rows):
            return
        for number, row in enumerate(self._rows):
            if self._ended.get(row):
                self._keep_prefix(number, row, row.tokens if was_read else row.tokens[:-1])
        self._let_go(going)

    def _keep_prefix(self, number: int, row: Row, tokens: list[int]) -> None:
        if self._prefixes is not None:
            caches = self._caches if self._plain else row_of(self._caches, number)
            self._prefixes.keep(row.adapter, tokens, caches)

    def _let_go(self, going: list[int]) -> None:
        self._end_draft()
        if not going:
            self._clear()
            return
        if len(going) == 1:
            self._caches, self._plain = row_of(self._caches, going[0]), True
        else:
            keep_rows(self._caches, going)
        self._rows = [self._rows[number] for number in going]
        self._new &= set(self._rows)
        if self._logits is not None:
            self._logits = self._logits[mx.array(going)]
        self._choice = None

    def _drop_stopped(self) -> None:
        for row in [row for row in self._reader.rows if row.stopped]:
            self._reader.drop(row)
        if any(row.stopped for row in self._rows):
            for number, row in enumerate(self._rows):
                if row.stopped:
                    self._keep_prefix(number, row, row.tokens if self._logits is not None else row.tokens[:-1])
            self._let_go([number for number, row in enumerate(self._rows) if not row.stopped])

    def _end_draft(self) -> None:
        if self._drafts and self._drafter is not None:
            self._drafter.rest()
        self._drafts = False

    def _generate_drafted(self) -> None:
        """One step of a single row: the newest token and what may follow it are read, and checked place by place."""
        assert self._drafter is not None
        row = self._rows[0]
        # What is guessed wrong is taken back, and a cache of a fixed size cannot do that once it is full.
        free = room(self._caches) - 1
        most = min(row.most - len(row.generated) - 1, free)
        sampler = sampler_from(row.place, self._vocabulary)
        guesses = self._drafter.guess(row.tokens, most, sampler) if free > 0 else None
        if guesses is None:
            self._end_draft()
            self._logits = self._next_logits(mx.array([row.generated[-1]]))
            return
        if self._adapters is not None:
            self._adapters.select([row.adapter])
        logits = self._model(mx.array([[row.generated[-1], *guesses]]), cache=self._caches)[0]
        places = [row.place.after(guesses[:count]) for count in range(len(guesses) + 1)]
        values: list[int] = Choice(places, logits.shape[-1])(logits).tolist()  # type: ignore[assignment]  # an array of one dimension
        right = next((count for count, guess in enumerate(guesses) if values[count] != guess), len(guesses))
        trim(self._caches, len(guesses) - right)
        row.drafted, row.accepted = row.drafted + len(guesses), row.accepted + right
        chosen: list[Chosen] = []
        self._ended = {}
        for count, value in enumerate(values[: right + 1]):
            chosen.append(Chosen(row, value, row.take(value)))
            if chosen[-1].ending:
                self._ended[row] = True
                trim(self._caches, right - count)
                break
        self._listener.chosen(chosen)
        self._keep_going([] if self._ended else [0], values, was_read=False)


def _can_draft(row: Row) -> bool:
    return row.constraint is None and row.likely < 0


class _LikelyOnes:
    """The log-probabilities of one step, for the rows that want them; not evaluated until they are asked for."""

    def __init__(self, rows: Sequence[Row], logits: mx.array, tokens: mx.array) -> None:
        self._numbers = [number for number, row in enumerate(rows) if row.likely >= 0]
        self._wanted = [rows[number].likely for number in self._numbers]
        self.arrays: list[mx.array] = []
        if not self._numbers:
            return
        if len(self._numbers) < len(rows):
            index = mx.array(self._numbers)
            logits, tokens = logits[index], tokens[index]
        logits = logits.astype(mx.float32)
        total = mx.logsumexp(logits, axis=-1, keepdims=True)
        self.arrays.append((mx.take_along_axis(logits, tokens[:, None], axis=-1) - total)[:, 0])
        if most := min(max(self._wanted), logits.shape[-1]):
            top = mx.argpartition(logits, kth=-most, axis=-1)[:, -most:]
            self.arrays += [top, mx.take_along_axis(logits, top, axis=-1) - total]
        self._found: list[Any] | None = None

    def of(self, number: int) -> Likely | None:
        """Return what row `number` of the batch wants, or None if it wants nothing."""
        if number not in self._numbers:
            return None
        if self._found is None:
            self._found = [array.tolist() for array in self.arrays]
        place = self._numbers.index(number)
        pairs: list[tuple[int, float]] = []
        if self._wanted[place]:
            _, tokens, weights = self._found
            pairs = sorted(zip(tokens[place], weights[place], strict=True), key=lambda pair: (-pair[1], pair[0]))
        return Likely(self._found[0][place], tuple(pairs[: self._wanted[place]]))
