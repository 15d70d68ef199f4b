"""Which byte ranges of a blob to ask for when some of its chunks are missing (specs/0023).

One request costs about as much as a few tens of KiB, so chunks that are here already and lie between two missing ones
are fetched again where that saves a request and, over the whole blob, costs at most one percent more.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

MAX_RUN_BYTES: Final = 8 << 20
MAX_GAP_BYTES: Final = 64 << 10
WASTE_DIVISOR: Final = 100


@dataclass(frozen=True)
class Run:
    """Chunks `first` to `last` (exclusive), which are the bytes `start` to `end` (exclusive) of the blob."""

    first: int
    last: int
    start: int
    end: int

    @property
    def size(self) -> int:
        """Bytes to ask for."""
        return self.end - self.start


def plan_runs(edges: Sequence[int], missing: Sequence[int], max_run_bytes: int = MAX_RUN_BYTES) -> list[Run]:
    """Return the runs that bring every chunk of `missing`, in order, none over another.

    `edges` holds the offset of every chunk and of the blob's end; `missing` the numbers of the missing ones, ascending.
    A run is longer than `max_run_bytes` only where one chunk is.
    """
    groups = _groups(missing)
    filled = _gaps_to_fill(edges, groups, sum(edges[index + 1] - edges[index] for index in missing))
    runs: list[Run] = []
    for first, last in _joined(groups, filled):
        runs += _split(edges, first, last, max_run_bytes)
    return runs


def _groups(missing: Sequence[int]) -> list[tuple[int, int]]:
    groups: list[tuple[int, int]] = []
    for index in missing:
        if groups and groups[-1][1] == index:
            groups[-1] = (groups[-1][0], index + 1)
        else:
            groups.append((index, index + 1))
    return groups


def _gaps_to_fill(edges: Sequence[int], groups: Sequence[tuple[int, int]], missing_bytes: int) -> set[int]:
    """Return the groups (by number) that are joined to the one before: the smallest gaps first, while they may cost."""
    gaps = [(edges[after[0]] - edges[before[1]], number) for number, (before, after) in enumerate(pairwise(groups), 1)]
    left = missing_bytes // WASTE_DIVISOR
    filled = set()
    for size, number in sorted(gaps):
        if size > min(left, MAX_GAP_BYTES):
            break
        left -= size
        filled.add(number)
    return filled


def _joined(groups: Sequence[tuple[int, int]], filled: set[int]) -> list[tuple[int, int]]:
    joined: list[tuple[int, int]] = []
    for number, (first, last) in enumerate(groups):
        if number in filled:
            joined[-1] = (joined[-1][0], last)
        else:
            joined.append((first, last))
    return joined


def _split(edges: Sequence[int], first: int, last: int, max_run_bytes: int) -> list[Run]:
    runs = []
    begin = first
    for index in range(first, last):
        if index > begin and edges[index + 1] - edges[begin] > max_run_bytes:
            runs.append(Run(begin, index, edges[begin], edges[index]))
            begin = index
    runs.append(Run(begin, last, edges[begin], edges[last]))
    return runs
