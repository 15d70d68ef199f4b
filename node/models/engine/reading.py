"""Prompts are read in chunks, between the steps of the answers that are being generated; short ones together."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import mlx.core as mx

from node.models.engine.caches import (
    announce_padding,
    can_be_padded,
    can_be_trimmed,
    compute,
    drop_padding,
    merge,
    row_of,
    start,
)
from node.models.engine.prefix_tree import common_tokens
from node.models.engine.rows import Adapters, Listener, Prefixes, Row
from protocol.prefix_file import pack_tokens

# mlx publishes no types for some of what is used here.
_mx: Final[Any] = mx
# How many tokens of a prompt are read in one go: within these bounds, what takes about the wanted time.
SMALLEST_CHUNK: Final = 32
LARGEST_CHUNK: Final = 512
BESIDE_S: Final = 0.06
ALONE_S: Final = 0.5
# How many tokens of a chunk are worth a prediction that nobody asked for, rather than one pass more for the last one:
# a pass is bound by memory, and in its time so many operations are done for each number that is read.
OPERATIONS_A_NUMBER: Final = 16
_FADING: Final = 0.5
# So many tokens that two prompts begin with are worth to wait for, and to keep before the answer is there.
SHARED_TOKENS: Final = 64


@dataclass(frozen=True)
class Read:
    """Rows whose prompts were read: caches of one row if `plain`, else of a batch, and the logits behind them."""

    rows: list[Row]
    caches: list[Any]
    logits: mx.array
    plain: bool


class Pace:
    """How fast prompts are read here, and so how much of one is read in one go."""

    def __init__(self) -> None:
        self._tokens_per_s = 0.0

    def took(self, tokens: int, seconds: float) -> None:
        """Learn from one chunk."""
        if tokens >= SMALLEST_CHUNK and seconds > 0:
            now = tokens / seconds
            self._tokens_per_s = now if not self._tokens_per_s else _FADING * self._tokens_per_s + _FADING * now

    def chunk(self, beside: bool) -> int:
        """Return how many tokens to read now; `beside` others that wait for their next token."""
        wanted = self._tokens_per_s * (BESIDE_S if beside else ALONE_S)
        if not self._tokens_per_s:
            wanted = SMALLEST_CHUNK * 2 if beside else LARGEST_CHUNK / 2
        return max(SMALLEST_CHUNK, min(LARGEST_CHUNK, int(wanted) // SMALLEST_CHUNK * SMALLEST_CHUNK))


class Reader:
    """The prompts that are being read. All calls come from the thread that owns MLX."""

    def __init__(
        self,
        model: Any,
        fresh: Callable[[], list[Any]],
        listener: Listener,
        now_s: Callable[[], float],
        *,
        head_tokens: int,
        adapters: Adapters | None = None,
        prefixes: Prefixes | None = None,
    ) -> None:
        """Take what makes the caches of one row, and how many tokens may be read with a prediction for each."""
        self._model = model
        self._fresh = fresh
        self._listener = listener
        self._now_s = now_s
        self._head_tokens = head_tokens
        self._adapters = adapters
        self._prefixes = prefixes
        self._pace = Pace()
        self._rows: deque[Row] = deque()
        self._branches: dict[Row, int] = {}
        # Prompts that begin with so many tokens of another one, which is read first.
        self._behind: dict[Row, tuple[Row, int]] = {}
        # The long prompt before which short ones were read last: it is next.
        self._passed: Row | None = None

    @property
    def first(self) -> Row:
        """The row whose prompt is read next."""
        for row, (ahead, count) in list(self._behind.items()):
            if ahead not in self._rows or ahead.read >= count:
                del self._behind[row]
        while self._rows[0] in self._behind:
            self._rows.rotate(-1)
        return self._rows[0]

    @property
    def rows(self) -> Sequence[Row]:
        """The rows that are being read."""
        return self._rows

    def add(self, row: Row) -> None:
        """Read the prompt of `row`, behind those that came before it; what it begins with alike is read once."""
        if self._prefixes is not None:
            self._line_up(row)
        self._rows.append(row)

    def drop(self, row: Row) -> None:
        """Read no further; what was read is kept for the next time."""
        self._rows.remove(row)
        self._forget(row)
        if row.read > row.cached:
            self._keep(row, row.read)
        row.caches = []

    def clear(self) -> None:
        """Let all rows go."""
        self._rows.clear()
        self._branches.clear()
        self._behind.clear()
        self._passed = None

    def step(self, beside: bool) -> Read | None:
        """Read one chunk; return the rows that it completes. `beside` others that wait for their next token."""
        chunk = self._pace.chunk(beside)
        first = self.first
        self._begin(first)
        short = self._short_ones(chunk) if first is not self._passed else []
        self._passed = first if short and first not in short else None
        if len(short) > 1:
            return self._read_together(short)
        row = short[0] if short else first
        if short or self._is_last(row, chunk):
            return self._read_end(row)
        self._read_part(row, chunk)
        # Another one's turn: a long prompt must not make a short one wait for its end.
        self._rows.rotate(-1)
        return None

    def _line_up(self, row: Row) -> None:
        """Let `row` wait for the prompt that begins most like its own, as long as that one is being read."""
        tokens, most = pack_tokens(row.prompt), SHARED_TOKENS - 1
        for other in self._rows:
            alike = common_tokens(tokens, pack_tokens(other.prompt)) if other.adapter == row.adapter else 0
            alike = min(alike, len(row.prompt) - 1, len(other.prompt) - 1)
            if alike > most:
                most, self._behind[row] = alike, (other, alike)
        if row in self._behind:
            ahead, alike = self._behind[row]
            if ahead.read >= alike and ahead.read > ahead.cached and can_be_trimmed(ahead.caches):
                self._keep(ahead, ahead.read)

    def _begin(self, row: Row) -> None:
        if row.caches:
            return
        taken = self._prefixes.take(row.adapter, row.prompt) if self._prefixes is not None else None
        row.caches, row.cached = taken if taken is not None else (self._fresh(), 0)
        row.read = row.cached
        if self._prefixes is not None:
            self._branches[row] = self._prefixes.branch(row.adapter, row.prompt)

    def _short_ones(self, chunk: int) -> list[Row]:
        """Return rows whose rests can be read in one go together, of about the same length."""
        found: list[Row] = []
        longest = 0
        for row in self._rows:
            if row in self._behind:
                continue
            self._begin(row)
            if self._stop(row) or row.rest > chunk or not can_be_padded(row.caches):
                continue
            longest = max(longest, row.rest)
            if longest * (len(found) + 1) > LARGEST_CHUNK:
                break
            found.append(row)
        return found

    def _is_last(self, row: Row, chunk: int) -> bool:
        return row.rest <= chunk and not self._stop(row)

    def _stop(self, row: Row) -> int:
        """Return where the reading of `row` stops next because others begin there, 0 for nowhere before its end."""
        stops = [self._branches.get(row, 0)]
        if self._prefixes is not None and self._prefixes.exact:
            stops += [count for ahead, count in self._behind.values() if ahead is row]
        return min((stop for stop in stops if stop > row.read), default=0)

    def _read_together(self, rows: list[Row]) -> Read:
        caches = merge([row.caches for row in rows])
        logits = self._logits(rows, caches)
        _mx.async_eval(logits)
        return self._completed(rows, caches, logits, plain=False)

    def _read_end(self, row: Row) -> Read:
        caches = row.caches
        logits = self._logits([row], caches)
        _mx.async_eval(logits)
        return self._completed([row], caches, logits, plain=True)

    def _completed(self, rows: list[Row], caches: list[Any], logits: mx.array, *, plain: bool) -> Read:
        for number, row in enumerate(rows):
            self._rows.remove(row)
            self._forget(row)
            if self._prefixes is not None and len(row.prompt) - row.cached >= SHARED_TOKENS:
                # The next one may come before this one is answered.
                self._prefixes.keep_prompt(row.adapter, row.prompt, caches if plain else row_of(caches, number))
            row.caches = []
            row.read = len(row.prompt)
            self._listener.read(row)
        return Read(rows, caches, logits, plain)

    def _logits(self, rows: list[Row], caches: list[Any]) -> mx.array:
        """Read the rests of all prompts; return the logits behind each."""
        rests = [row.prompt[row.read :] for row in rows]
        longest = max(map(len, rests))
        if longest > 1 and longest * len(rows) > self._head_tokens:
            # Without logits for every token: the last ones are read by themselves.
            self._call(rows, [rest[:-1] for rest in rests], caches)
            start(caches)
            rests = [rest[-1:] for rest in rests]
        return self._call(rows, rests, caches)

    def _call(self, rows: list[Row], pieces: list[list[int]], caches: list[Any]) -> mx.array:
        lengths = [len(piece) for piece in pieces]
        longest = max(lengths)
        if self._adapters is not None:
            self._adapters.select([row.adapter for row in rows])
        if min(lengths) == longest:
            even: mx.array = self._model(mx.array(pieces), cache=caches)
            return even[:, -1, :]
        announce_padding(caches, lengths)
        padded = mx.array([piece + [0] * (longest - len(piece)) for piece in pieces])
        logits: mx.array = self._model(padded, cache=caches)
        drop_padding(caches)
        return logits[mx.arange(len(rows)), mx.array([length - 1 for length in lengths])]

    def _read_part(self, row: Row, chunk: int) -> None:
        stop = self._stop(row)
        # Where less than a chunk would be left for the end, the end is read with its prediction.
        count = min(chunk, row.rest - 1, *([stop - row.read] if stop else []))
        began_s = self._now_s()
        self._call([row], [row.prompt[row.read : row.read + count]], row.caches)
        compute(row.caches)
        self._pace.took(count, self._now_s() - began_s)
        row.read += count
        self._listener.read(row)
        if row.read == stop or any(ahead is row and count <= row.read for ahead, count in self._behind.values()):
            self._keep(row, row.read)

    def _forget(self, row: Row) -> None:
        self._branches.pop(row, None)
        self._behind.pop(row, None)

    def _keep(self, row: Row, count: int) -> None:
        if self._prefixes is not None and count:
            self._prefixes.keep(row.adapter, row.prompt[:count], row.caches)
