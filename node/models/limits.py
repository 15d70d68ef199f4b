"""Time and memory bounds around code that a stranger wrote, for the worker's main thread."""

import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn

TEMPLATE_TIME_S: Final = 5.0
TEMPLATE_MEMORY_BYTES: Final = 512 * 1024 * 1024


class TimeUsedUp(Exception):
    """The bounded code ran longer than it may."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"ran for more than {seconds:.0f} s")
        self.seconds = seconds


@contextmanager
def bounded(seconds: float = TEMPLATE_TIME_S, extra_bytes: int = TEMPLATE_MEMORY_BYTES) -> Iterator[None]:
    """Bound the body's run time and, on Linux, the memory it may add; main thread only.

    Raises:
        TimeUsedUp: after `seconds`, from within the body.
        MemoryError: when the body asks for more than `extra_bytes`, from within the body (Linux).
    """

    def stop(_number: int, _frame: FrameType | None) -> NoReturn:
        raise TimeUsedUp(seconds)

    # The memory cap lies outside: an alarm that comes at the last moment must not keep it from being lifted.
    with _memory_capped(extra_bytes):
        before = signal.signal(signal.SIGALRM, stop)
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)


@contextmanager
def _memory_capped(extra_bytes: int) -> Iterator[None]:
    if sys.platform != "linux":  # other kernels do not enforce RLIMIT_AS
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    wanted = pages * resource.getpagesize() + extra_bytes
    if soft != resource.RLIM_INFINITY:
        wanted = min(wanted, soft)
    resource.setrlimit(resource.RLIMIT_AS, (wanted, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
