"""Whose turn it is, when a model is brought into memory, and when an idle one is let go."""

import math
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import trio

from node.models.backoff import Backoff
from node.models.errors import ModelResting, WorkerFailed, WorkerStopped
from node.models.fairness import Turns
from node.models.library import ServedModel
from node.models.memory import default_budget
from node.models.residency import Loading, Place, Residency, Seat, Start
from node.models.supervisor import Worker

DEFAULT_KEEP_ALIVE_S: Final = 300.0
# A keep-alive that changes nothing: the model goes when it would have gone.
UNTOUCHED: Final = math.nan
# Of so many models that failed it is remembered how often.
_MAX_BACKOFFS: Final = 256


@dataclass(frozen=True)
class Limits:
    """How much is served at once, and how long an idle model stays.

    For one model `parallel` requests are answered at once and `waiting` wait; `loaded` models are in memory at most,
    within `memory_bytes` (0: three quarters of what the machine has). Idle ones go after `keep_alive_s`; a negative
    number is for ever.
    """

    waiting: int = 64
    loaded: int = 3
    keep_alive_s: float = DEFAULT_KEEP_ALIVE_S
    parallel: int = 16
    memory_bytes: int = 0


class Turn:
    """The right to ask a seat's worker one thing, given back exactly once."""

    def __init__(self, scheduler: "Scheduler", seat: Seat, client: str) -> None:
        self._scheduler = scheduler
        self._seat = seat
        self._client = client
        self._ended = False

    def end(self, *, answered: bool) -> None:
        """Give the turn back; `answered`: by the worker, which has proved that it works if it still lives."""
        if self._ended:
            return
        self._ended = True
        if answered and self._seat.alive is not None:
            self._scheduler.proved(self._seat)
        self._seat.turns.give_back(self._client)
        self._scheduler.residency.changed()


class Scheduler:
    """Seats models and hands out turns; `start` runs a new worker until its model is loaded."""

    def __init__(self, limits: Limits, start: Start) -> None:
        self.limits = limits
        self._start = start
        self._backoffs: dict[str, Backoff] = {}
        self._nursery: trio.Nursery | None = None
        budget = limits.memory_bytes or default_budget()
        self.residency = Residency(limits.loaded, budget, limits.parallel)
        self._seats = self.residency.seats

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Load models as they are asked for and let idle ones go when their time is up; runs until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            while True:
                idle = [seat for seat in self._seats.values() if seat.alive and not seat.users]
                nearest = min(idle, key=lambda seat: seat.expires_at, default=None)
                if nearest is not None and nearest.expires_at <= trio.current_time():
                    await self.residency.unseat(nearest)
                    continue
                with trio.move_on_at(nearest.expires_at if nearest else math.inf):
                    await self.residency.wait_for_change()

    @asynccontextmanager
    async def reserve(self, model: ServedModel, keep_alive_s: float | None) -> AsyncIterator[Seat]:
        """Take a part in `model`'s seat: it stays in memory at least for the body, and then for its keep-alive.

        `keep_alive_s` None leaves that as the last request that named one said; `UNTOUCHED` leaves even the time at
        which it goes.
        """
        seat = self._seats.get(_key(model))
        if seat is None:
            turns = Turns(self.limits.parallel, self.limits.waiting)
            seat = Seat(_key(model), turns, self.limits.keep_alive_s)
            seat.backoff = self._backoffs.get(_key(model), seat.backoff)
            self._seats[_key(model)] = seat
        seat.models.pop(model.digest, None)
        seat.models[model.digest] = model
        seat.users += 1
        try:
            yield seat
        finally:
            seat.users -= 1
            self._prolong(seat, keep_alive_s)
            self.residency.forget_if_empty(seat)
            self.residency.changed()

    def _prolong(self, seat: Seat, keep_alive_s: float | None) -> None:
        if keep_alive_s is not None and math.isnan(keep_alive_s) and math.isfinite(seat.expires_at):
            return
        if keep_alive_s is not None and not math.isnan(keep_alive_s):
            seat.keep_alive_s = keep_alive_s
        seat.expires_at = trio.current_time() + (seat.keep_alive_s if seat.keep_alive_s >= 0 else math.inf)

    async def turn(self, seat: Seat, client: str) -> Turn:
        """Return the right to ask `seat`'s worker, when it is `client`'s turn.

        Raises:
            ServerBusy: too many requests wait for this model.
        """
        await seat.turns.take(client)
        return Turn(self, seat, client)

    async def worker(self, seat: Seat) -> Worker:
        """Return the seat's worker, started and loaded if need be; for a holder of a turn.

        Raises:
            ModelResting: it failed several times in a row, and its rest is not over.
            ModelTooLarge: it needs more memory than models may take.
            ModelRefused: the model's files cannot be served.
            WorkerFailed: the worker ended or hung while it loaded.
        """
        if seat.alive is not None:
            return seat.alive
        if seat.loading is None:
            self._require_rested(seat)
            assert self._nursery is not None, "run() was not started"
            seat.loading = Loading()
            self._nursery.start_soon(self._load, seat, seat.loading)
        loading = seat.loading
        await loading.done.wait()
        if loading.error is not None:
            raise loading.error.with_traceback(None)
        if seat.alive is None:
            raise WorkerStopped("waiting for its turn")
        return seat.alive

    async def stop(self, model: ServedModel) -> bool:
        """Let a model go now, whatever it is doing; return whether it was there.

        Where other models are served from the same weights, those stay.
        """
        seat = self._seats.get(_key(model))
        if seat is None or model.digest not in seat.models or (seat.alive is None and seat.loading is None):
            return False
        if len(seat.models) > 1:
            del seat.models[model.digest]
            if model.adapter and seat.alive is not None:
                await seat.alive.drop_adapter(model.adapter)
            return True
        await self.residency.unseat(seat)
        return True

    def loaded(self) -> list[tuple[Seat, Worker]]:
        """Return the seats in memory with their workers."""
        return [(seat, seat.alive) for seat in self._seats.values() if seat.alive is not None]

    def is_loaded(self, model: ServedModel) -> bool:
        """Return whether the weights of `model` are in memory, or on their way."""
        seat = self._seats.get(_key(model))
        return seat is not None and (seat.alive is not None or seat.loading is not None)

    def is_cold(self) -> bool:
        """Return whether nothing is in memory, or on its way there."""
        return all(seat.alive is None and seat.loading is None for seat in self._seats.values())

    def has_room(self) -> bool:
        """Return whether one more model can be loaded without letting another one go."""
        return self.residency.has_room()

    def seats(self) -> Iterator[Seat]:
        """Return every seat, loaded or asked for."""
        return iter(list(self._seats.values()))

    def proved(self, seat: Seat) -> None:
        """Note that the seat's worker answered: what failed before is forgotten."""
        if seat.backoff.failures:
            seat.backoff = Backoff()
            self._backoffs.pop(seat.weights, None)

    def failed(self, seat: Seat) -> None:
        """Note that the seat's worker ended on its own, or never came up."""
        seat.backoff.failed(trio.current_time())
        self._backoffs.pop(seat.weights, None)
        self._backoffs[seat.weights] = seat.backoff
        if len(self._backoffs) > _MAX_BACKOFFS:
            del self._backoffs[next(iter(self._backoffs))]

    async def _load(self, seat: Seat, loading: Loading) -> None:
        """Bring the seat's model into memory, for everybody who waits for it; it stays when they leave."""
        place = None
        try:
            with loading.scope:
                place = await self.residency.enter(seat)
                worker = await self._start(next(reversed(seat.models.values())), place.need.contexts)
                await self._sit_down(seat, worker, place)
                place = None
            if loading.scope.cancelled_caught:
                loading.error = WorkerStopped("loading")
        except Exception as error:  # noqa: BLE001 - the load boundary: whatever it is goes to who asked, the node lives
            loading.error = error
            if isinstance(error, WorkerFailed):
                self.failed(seat)
        finally:
            seat.loading = None
            loading.done.set()
            if place is not None:
                with trio.CancelScope(shield=True):
                    await self.residency.leave(place, None)
            self.residency.forget_if_empty(seat)
            self.residency.changed()

    async def _sit_down(self, seat: Seat, worker: Worker, place: Place) -> None:
        try:
            self.residency.occupy(place, worker, seat)
        except BaseException:
            with trio.CancelScope(shield=True):
                await self.residency.leave(place, worker)
            raise
        seat.worker, seat.place = worker, place
        assert self._nursery is not None
        self._nursery.start_soon(self._watch, seat, worker, place)

    async def _watch(self, seat: Seat, worker: Worker, place: Place) -> None:
        """Give the place back when the worker ends on its own."""
        await worker.ended.wait()
        if seat.worker is worker:
            seat.worker = seat.place = None
            self.failed(seat)
            await self.residency.leave(place, None)
            self.residency.forget_if_empty(seat)

    def _require_rested(self, seat: Seat) -> None:
        left_s = seat.backoff.left_s(trio.current_time())
        if left_s > 0:
            model = next(reversed(seat.models.values()))
            raise ModelResting(model.name, seat.backoff.failures, left_s)


def _key(model: ServedModel) -> str:
    return model.weights or model.digest
