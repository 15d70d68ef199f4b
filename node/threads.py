"""The one place where blocking work crosses into threads."""

from collections.abc import Callable
from typing import ParamSpec, TypeVar

import trio

P = ParamSpec("P")
T = TypeVar("T")

STORE_THREADS = 4


class Threads:
    """Runs blocking store and database calls off the event loop, each kind behind its own limiter."""

    def __init__(self) -> None:
        self._store = trio.CapacityLimiter(STORE_THREADS)
        self._database = trio.CapacityLimiter(1)  # SQLite has one writer; a queue here is fairer than its busy wait

    async def store(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return `call(*args, **kwargs)`, run in a thread for disk work; finishes even when cancelled."""
        return await trio.to_thread.run_sync(lambda: call(*args, **kwargs), limiter=self._store)

    async def database(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return `call(*args, **kwargs)`, run in the one thread slot that talks to the database."""
        return await trio.to_thread.run_sync(lambda: call(*args, **kwargs), limiter=self._database)
