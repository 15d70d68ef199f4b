"""The one place where blocking work crosses into threads."""

from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeVar

import trio

P = ParamSpec("P")
T = TypeVar("T")
E = TypeVar("E")

STORE_THREADS = 4
LONG_THREADS = 4


class Threads:
    """Runs blocking store and database calls off the event loop, each kind behind its own limiter."""

    def __init__(self) -> None:
        self._store = trio.CapacityLimiter(STORE_THREADS)
        self._long = trio.CapacityLimiter(LONG_THREADS)
        self._database = trio.CapacityLimiter(1)  # SQLite has one writer; a queue here is fairer than its busy wait

    async def store(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return `call(*args, **kwargs)`, run in a thread for disk work; finishes even when cancelled."""
        return await trio.to_thread.run_sync(lambda: call(*args, **kwargs), limiter=self._store)

    async def reporting(self, call: Callable[[Callable[[E], None]], T], emit: Callable[[E], Awaitable[None]]) -> T:
        """Return `call(report)`, run in a thread for work of minutes; each `report(event)` awaits `emit(event)`.

        When the caller is cancelled, the next `report` raises `trio.Cancelled` in the thread, so that the work ends
        there with everything it holds given back.
        """

        def report(event: E) -> None:
            trio.from_thread.run(emit, event)

        return await trio.to_thread.run_sync(lambda: call(report), limiter=self._long)

    async def database(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return `call(*args, **kwargs)`, run in the one thread slot that talks to the database."""
        return await trio.to_thread.run_sync(lambda: call(*args, **kwargs), limiter=self._database)
