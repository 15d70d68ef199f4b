"""Who fetches which chunks from whom: a pure plan over one layer, driven by facts (specs/0012-fetch).

Missing chunks are grouped into runs of neighbours. Each source works through its own stripe of runs and steals the
second half of the largest stripe when its own is done; near the end it may fetch a run that a slower source still
owes. A chunk leaves the plan only when the caller reports it verified. A corrupt chunk is never asked again from the
source that sent it; three such runs end that source, and so do silence and having nothing else that is missing.

    free → assigned (to one source, near the end to two) → verified
             └ source dropped, chunk corrupt or refused → free
"""

from bisect import bisect_left
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from statistics import median
from typing import Final

RUN_BYTES: Final = 4 * 1024 * 1024
MAX_UNANSWERED_BYTES: Final = 16 * 1024 * 1024
MAX_UNANSWERED_RUNS: Final = 32
MAX_STRIKES: Final = 3
ENDGAME_RUNS: Final = 20
# A run is fetched twice only where that should bring it at least this much sooner.
ENDGAME_GAIN: Final = 2.0
STALL_S: Final = 10.0
SLOW_AFTER_S: Final = 5.0
SLOW_FRACTION: Final = 0.1


@dataclass(frozen=True, order=True)
class Run:
    """The chunks [first, end), which are the bytes [offset, offset + length) of the layer."""

    first: int
    end: int
    offset: int
    length: int


@dataclass
class _Source:
    """What is known of one source; `have` is None when it holds the whole layer."""

    have: frozenset[int] | None
    busy_since_s: float
    last_bytes_s: float
    busy_before_s: float = 0.0
    cursor: int = -1
    received_bytes: int = 0
    owed: dict[Run, float] = field(default_factory=dict)

    def owe(self, run: Run, now_s: float) -> None:
        if not self.owed:
            self.busy_since_s = self.last_bytes_s = now_s
        self.owed[run] = now_s
        self.cursor = run.end

    def settle(self, run: Run, now_s: float) -> None:
        if self.owed.pop(run, None) is not None and not self.owed:
            self.busy_before_s += now_s - self.busy_since_s

    def busy_s(self, now_s: float) -> float:
        """Return for how long it owed something, idle times left out."""
        return self.busy_before_s + (now_s - self.busy_since_s if self.owed else 0.0)

    def rate(self, now_s: float) -> float:
        """Return bytes per second of the time in which it owed something."""
        return self.received_bytes / max(self.busy_s(now_s), 0.001)

    def owed_bytes(self) -> int:
        return sum(run.length for run in self.owed)

    def backlog_s(self, now_s: float) -> float:
        """Return how long it will take to deliver what it owes, at its own rate."""
        return self.owed_bytes() / max(self.rate(now_s), 1.0)


class FetchPlan:
    """The plan for one layer; every method is instant, the caller moves the bytes and tells the time."""

    def __init__(self, chunk_lengths: Sequence[int], missing: Iterable[int], run_bytes: int = RUN_BYTES) -> None:
        self._offsets = [0, *accumulate(chunk_lengths)]
        self._missing = set(missing)
        self._sources: dict[str, _Source] = {}
        self._refused: dict[str, set[int]] = {}
        self._strikes: dict[str, int] = {}
        self._free = self._cut_runs(sorted(self._missing), run_bytes)

    @property
    def missing(self) -> frozenset[int]:
        """The chunks that nobody has delivered yet."""
        return frozenset(self._missing)

    @property
    def done(self) -> bool:
        """Whether every chunk was verified."""
        return not self._missing

    @property
    def sources(self) -> tuple[str, ...]:
        """The sources in use."""
        return tuple(self._sources)

    def set_source(self, source: str, have: frozenset[int] | None, now_s: float) -> None:
        """Add a source or learn what it holds now: None is everything. Chunks it sent corrupt stay excluded.

        A source that has used up its strikes is not taken again.
        """
        if self.is_struck_out(source):
            return
        known = self._sources.get(source)
        if known is None:
            self._sources[source] = _Source(have, now_s, now_s)
        else:
            known.have = have

    def drop_source(self, source: str) -> None:
        """Take a source out; what it owed is free for others at once."""
        dropped = self._sources.pop(source, None)
        for run in dropped.owed if dropped else ():
            self._release(run)

    def is_struck_out(self, source: str) -> bool:
        """Return whether a source sent corrupt chunks too often, or once and all that is missing was asked in vain."""
        strikes = self._strikes.get(source, 0)
        return strikes >= MAX_STRIKES or (strikes > 0 and not self.done and self._missing <= self._refused[source])

    def has_chunk_for(self, source: str) -> bool:
        """Return whether any missing chunk could come from this source."""
        if source not in self._sources:
            return False
        if self._serves_all(source):
            return bool(self._missing)
        return any(self._can_serve(source, chunk) for chunk in self._missing)

    def orphans(self) -> frozenset[int]:
        """Return the missing chunks that no source in use can serve."""
        if any(self._serves_all(source) for source in self._sources):
            return frozenset()
        return frozenset(c for c in self._missing if not any(self._can_serve(source, c) for source in self._sources))

    def next_run(self, source: str, now_s: float) -> Run | None:
        """Return what to ask `source` for next, or None: it is unknown, owes enough, or has nothing that is needed."""
        state = self._sources.get(source)
        if state is None or len(state.owed) >= MAX_UNANSWERED_RUNS or state.owed_bytes() >= MAX_UNANSWERED_BYTES:
            return None
        run = self._take_free(source, state) or self._endgame_run(source, state, now_s)
        if run is None:
            return None
        state.owe(run, now_s)
        return run

    def receive_bytes(self, source: str, count: int, now_s: float) -> None:
        """Note that `count` bytes arrived, verified or not: the source is alive."""
        state = self._sources.get(source)
        if state is not None:
            state.received_bytes += count
            state.last_bytes_s = now_s

    def needed(self, run: Run) -> list[int]:
        """Return the chunks of `run` that are still missing: only these are verified and written."""
        return [chunk for chunk in range(run.first, run.end) if chunk in self._missing]

    def receive_run(
        self, source: str, run: Run, verified: Collection[int], corrupt: Collection[int], now_s: float
    ) -> None:
        """Settle a run that arrived: `verified` chunks are done, `corrupt` ones are a strike and go elsewhere."""
        self._missing.difference_update(verified)
        if corrupt:
            self._refused.setdefault(source, set()).update(corrupt)
            self._strikes[source] = self._strikes.get(source, 0) + 1
        self._settle(source, run, now_s)

    def refuse_run(self, source: str, run: Run, now_s: float) -> None:
        """Settle a run that the source says it cannot serve; it is not asked for these chunks again."""
        self._refused.setdefault(source, set()).update(range(run.first, run.end))
        self._settle(source, run, now_s)

    def stalled(self, now_s: float) -> list[str]:
        """Return the sources to give up: 10 s without a byte that was owed, or a tenth of the others' median rate."""
        return [
            source
            for source, state in self._sources.items()
            if state.owed and (now_s - state.last_bytes_s >= STALL_S or self._is_slow(source, state, now_s))
        ]

    def _cut_runs(self, chunks: Sequence[int], run_bytes: int) -> list[Run]:
        runs: list[Run] = []
        start = 0
        for index in range(1, len(chunks) + 1):
            contiguous = index < len(chunks) and chunks[index] == chunks[index - 1] + 1
            if not contiguous or self._offsets[chunks[index] + 1] - self._offsets[chunks[start]] > run_bytes:
                runs.append(self._run(chunks[start], chunks[index - 1] + 1))
                start = index
        return runs

    def _run(self, first: int, end: int) -> Run:
        return Run(first, end, self._offsets[first], self._offsets[end] - self._offsets[first])

    def _can_serve(self, source: str, chunk: int) -> bool:
        have = self._sources[source].have
        return (have is None or chunk in have) and chunk not in self._refused.get(source, ())

    def _serves_all(self, source: str) -> bool:
        return self._sources[source].have is None and not self._refused.get(source)

    def _take_free(self, source: str, state: _Source) -> Run | None:
        if not self._free:
            return None
        start = self._next_in_own_stripe(source, state)
        if start is None:
            start = self._start_of_stolen_stripe(source)
        if self._serves_all(source):
            return self._free.pop(start)
        for index in (*range(start, len(self._free)), *range(start)):
            part = self._servable_part(source, self._free[index])
            if part is not None:
                self._split(index, part)
                return part
        return None

    def _next_in_own_stripe(self, source: str, state: _Source) -> int | None:
        index = bisect_left(self._free, state.cursor, key=lambda run: run.first)
        if state.cursor < 0 or index == len(self._free):
            return None
        first = self._free[index].first
        taken = any(state.cursor < other.cursor <= first for name, other in self._sources.items() if name != source)
        return None if taken else index

    def _start_of_stolen_stripe(self, source: str) -> int:
        """Return where a source without a stripe starts: a free stripe's first run, or the middle of a worked one."""
        cursors = sorted(
            {other.cursor for name, other in self._sources.items() if name != source and other.cursor >= 0}
        )
        edges = [bisect_left(self._free, cursor, key=lambda run: run.first) for cursor in cursors]
        bounds = [0, *edges, len(self._free)]
        stripe = max(range(len(bounds) - 1), key=lambda i: bounds[i + 1] - bounds[i])
        begin, end = bounds[stripe], bounds[stripe + 1]
        return begin if stripe == 0 else begin + (end - begin) // 2

    def _servable_part(self, source: str, run: Run) -> Run | None:
        first = next((chunk for chunk in range(run.first, run.end) if self._can_serve(source, chunk)), None)
        if first is None:
            return None
        end = next((chunk for chunk in range(first, run.end) if not self._can_serve(source, chunk)), run.end)
        return self._run(first, end)

    def _split(self, index: int, part: Run) -> None:
        whole = self._free[index]
        rest = [(whole.first, part.first), (part.end, whole.end)]
        self._free[index : index + 1] = [self._run(first, end) for first, end in rest if first < end]

    def _endgame_run(self, source: str, state: _Source, now_s: float) -> Run | None:
        """Return a run that a slower source owes, the last that it would deliver, once few runs are left."""
        if self._free or sum(len(other.owed) for other in self._sources.values()) > ENDGAME_RUNS:
            return None
        if any(self._assignees(run) > 1 for run in state.owed):
            return None
        for other in self._slowest_first(source, now_s):
            for run in sorted(other.owed, key=lambda owed: other.owed[owed], reverse=True):
                own_s = (state.owed_bytes() + run.length) / max(state.rate(now_s), 1.0)
                if self._is_unique_need(source, run) and other.backlog_s(now_s) > ENDGAME_GAIN * own_s:
                    return run
        return None

    def _is_unique_need(self, source: str, run: Run) -> bool:
        needed = self.needed(run)
        servable = all(self._can_serve(source, chunk) for chunk in needed)
        return bool(needed) and servable and self._assignees(run) == 1

    def _slowest_first(self, source: str, now_s: float) -> list[_Source]:
        others = [other for name, other in self._sources.items() if name != source and other.owed]
        return sorted(others, key=lambda other: other.backlog_s(now_s), reverse=True)

    def _assignees(self, run: Run) -> int:
        return sum(run in state.owed for state in self._sources.values())

    def _settle(self, source: str, run: Run, now_s: float) -> None:
        state = self._sources.get(source)
        if state is not None:
            state.settle(run, now_s)
        self._release(run)

    def _release(self, run: Run) -> None:
        """Make the still missing chunks of `run` free again, unless another source owes the same run."""
        again = self.needed(run)
        if again and not self._assignees(run):
            self._free = sorted([*self._free, *self._cut_runs(again, run.length)])

    def _is_slow(self, source: str, state: _Source, now_s: float) -> bool:
        others = [other.rate(now_s) for name, other in self._sources.items() if name != source and other.received_bytes]
        if not others or state.busy_s(now_s) < SLOW_AFTER_S:
            return False
        replaceable = all(
            any(self._can_serve(name, chunk) for name in self._sources if name != source)
            for run in state.owed
            for chunk in self.needed(run)
        )
        return replaceable and state.rate(now_s) < SLOW_FRACTION * median(others)
