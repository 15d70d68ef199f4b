"""Fair medians: what is compared is measured turn by turn, so that a busy moment of the machine falls on both."""

import statistics
import time
from collections.abc import Callable

Act = Callable[[int], object]


def medians_ms(samples: int, *acts: Act) -> tuple[float, ...]:
    """The median milliseconds of each act over `samples` turns; an act is given the number of its turn."""
    spent: list[list[float]] = [[] for _ in acts]
    for sample in range(samples):
        for act, times in zip(acts, spent, strict=True):
            started_s = time.perf_counter()
            act(sample)
            times.append(time.perf_counter() - started_s)
    return tuple(1000 * statistics.median(times) for times in spent)
