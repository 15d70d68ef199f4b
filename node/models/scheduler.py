"""Which model is in memory, whose turn it is, and when an idle model is let go."""

import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import trio

from node.models.errors import ServerBusy
from node.models.library import ServedModel
from node.models.supervisor import Worker
from protocol.digest import Digest

DEFAULT_KEEP_ALIVE_S: Final = 300.0


@dataclass(frozen=True)
class Limits:
    """How much is served at once: requests that wait for one model, models in memory, idle seconds before one goes."""

    waiting: int = 64
    loaded: int = 2
    keep_alive_s: float = DEFAULT_KEEP_ALIVE_S


@dataclass
class Resident:
    """One model's seat: its worker while it has one, its queue, and when it expires (trio time, when idle)."""

    model: ServedModel
    keep_alive_s: float
    worker: Worker | None = None
    seated: bool = False
    users: int = 0
    expires_at: float = math.inf
    # One request at a time. Batching will raise this to the size of a batch; the worker forms the batches.
    turn: trio.Semaphore = field(default_factory=lambda: trio.Semaphore(1))


class Scheduler:
    """Seats models and hands out turns; `start` runs a new worker until its model is loaded."""

    def __init__(self, limits: Limits, start: Callable[[ServedModel], Awaitable[Worker]]) -> None:
        self._limits = limits
        self._start = start
        self._residents: dict[Digest, Resident] = {}
        self._leaving = 0
        self._changed = trio.Event()

    async def run(self) -> None:
        """Let idle models go when their time is up; runs until cancelled."""
        while True:
            idle = [seat for seat in self._residents.values() if seat.seated and not seat.users]
            nearest = min(idle, key=lambda seat: seat.expires_at, default=None)
            if nearest is not None and nearest.expires_at <= trio.current_time():
                await self._unseat(nearest)
                continue
            with trio.move_on_at(nearest.expires_at if nearest else math.inf):
                await self._changed.wait()

    @asynccontextmanager
    async def reserve(self, model: ServedModel, keep_alive_s: float | None) -> AsyncIterator[Resident]:
        """Join the queue for `model`; the seat stays in memory at least for the body, then for `keep_alive_s`.

        Raises:
            ServerBusy: too many requests wait for this model.
        """
        seat = self._residents.setdefault(model.digest, Resident(model, self._limits.keep_alive_s))
        if seat.users > self._limits.waiting:
            raise ServerBusy(seat.users)
        seat.model = model
        seat.users += 1
        try:
            yield seat
        finally:
            seat.users -= 1
            seat.keep_alive_s = self._limits.keep_alive_s if keep_alive_s is None else keep_alive_s
            seat.expires_at = trio.current_time() + (seat.keep_alive_s if seat.keep_alive_s >= 0 else math.inf)
            self._forget_if_empty(seat)
            self._notify()

    async def worker(self, seat: Resident) -> Worker:
        """Return the seat's worker, started and loaded if need be; only for the holder of the turn.

        Raises:
            ModelRefused: the model's files cannot be served.
            WorkerFailed: the worker ended or hung while it loaded.
        """
        if seat.worker is not None and not seat.worker.ended.is_set():
            return seat.worker
        seat.worker, seat.seated = None, False
        await self._make_room()
        seat.seated = True
        try:
            seat.worker = await self._start(seat.model)
        finally:
            seat.seated = seat.worker is not None
            self._notify()
        return seat.worker

    async def stop(self, digest: Digest) -> bool:
        """Let a model go now, whatever it is doing; return whether it was loaded."""
        seat = self._residents.get(digest)
        if seat is None or seat.worker is None:
            return False
        await self._unseat(seat)
        return True

    def loaded(self) -> list[tuple[Resident, Worker]]:
        """Return the models in memory with their workers."""
        return [
            (seat, seat.worker)
            for seat in self._residents.values()
            if seat.worker is not None and not seat.worker.ended.is_set()
        ]

    async def _make_room(self) -> None:
        while self._leaving + sum(seat.seated for seat in self._residents.values()) >= self._limits.loaded:
            idle = [seat for seat in self._residents.values() if seat.seated and not seat.users]
            if idle:
                # The one that would go first anyway.
                await self._unseat(min(idle, key=lambda seat: seat.expires_at))
            else:
                await self._changed.wait()

    async def _unseat(self, seat: Resident) -> None:
        # The seat is free at once for whoever asks next; its memory counts as taken until the worker has ended.
        worker, seat.worker, seat.seated = seat.worker, None, False
        self._forget_if_empty(seat)
        if worker is not None:
            self._leaving += 1
            try:
                worker.stop()
                await worker.ended.wait()
            finally:
                self._leaving -= 1
                self._notify()

    def _forget_if_empty(self, seat: Resident) -> None:
        if not seat.users and not seat.seated and self._residents.get(seat.model.digest) is seat:
            del self._residents[seat.model.digest]

    def _notify(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
