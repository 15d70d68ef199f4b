"""Models and workers for the tests of the scheduler: no process, the rest as it is."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import trio

from node.models.errors import WorkerCrashed, WorkerFailed
from node.models.library import ServedModel
from node.models.requests import ModelDetails
from node.models.scheduler import Limits, Scheduler
from node.models.supervisor import Worker
from protocol.digest import digest_of
from protocol.modelfile import Modelfile
from protocol.worker.messages import Ready

MB = 10**6


def model(name: str, size_mb: int = 100, weights: str = "", adapter: str = "") -> ServedModel:
    """Return a model of that size."""
    return ServedModel(
        name=name,
        digest=digest_of(name.encode()),
        size_bytes=size_mb * MB,
        modified_s=0,
        details=ModelDetails(),
        modelfile=Modelfile("."),
        weights=weights,
        adapter=adapter,
    )


@dataclass(eq=False)
class SeatedWorker:
    """What the scheduler knows of a worker. `bury` ends it as a crash would."""

    name: str
    memory_bytes: int
    kv_bytes_per_token: int = 0
    pid: int = 2**31 - 2  # of no process: its memory counts for nothing
    ended: trio.Event = field(default_factory=trio.Event)
    dropped: list[str] = field(default_factory=list)

    @property
    def ready(self) -> Ready:
        """What it said once it was loaded."""
        return Ready("x", 4096, self.memory_bytes, False, False, True, (), kv_bytes_per_token=self.kv_bytes_per_token)

    def stop(self) -> None:
        """End it."""
        self.ended.set()

    async def drop_adapter(self, adapter: str) -> None:
        """Note which adapter is to be forgotten."""
        self.dropped.append(adapter)


class Stage:
    """A scheduler whose workers come up at once, or fail as told, and a record of what was started and ended."""

    def __init__(self, **limits: Any) -> None:
        self.scheduler = Scheduler(Limits(**limits), self._start)
        self.started: list[str] = []
        self.workers: dict[str, SeatedWorker] = {}
        self.contexts: dict[str, int] = {}
        self.failing: list[Exception] = []
        self.loading: dict[str, trio.Event] = {}
        self.real_mb: dict[str, int] = {}

    async def _start(self, served: ServedModel, context_bytes: int) -> Worker:
        if served.name in self.loading:
            await self.loading[served.name].wait()
        if self.failing:
            raise self.failing.pop(0)
        self.started.append(served.name)
        size_mb = self.real_mb.get(served.name, served.size_bytes // MB)
        worker = self.workers[served.name] = SeatedWorker(served.name, size_mb * MB)
        self.contexts[served.name] = context_bytes
        return cast(Worker, worker)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run the scheduler for the body."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self.scheduler.run)
            yield
            nursery.cancel_scope.cancel()

    async def ask(
        self, served: ServedModel, busy: trio.Event | None = None, keep_alive_s: float | None = None, client: str = ""
    ) -> None:
        """Ask a model one thing, which takes until `busy` is set."""
        async with self.scheduler.reserve(served, keep_alive_s) as seat:
            turn = await self.scheduler.turn(seat, client)
            try:
                await self.scheduler.worker(seat)
                if busy is not None:
                    await busy.wait()
            finally:
                turn.end(answered=True)

    def loaded(self) -> list[str]:
        """Return the names of the models in memory."""
        return sorted(one.name for seat, _ in self.scheduler.loaded() for one in seat.models.values())


def crash() -> WorkerFailed:
    """Return the error of a worker that ended while it loaded."""
    return WorkerCrashed(-9, "loading")


__all__ = ["MB", "SeatedWorker", "Stage", "crash", "model"]
