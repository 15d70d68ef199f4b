"""What is in memory: which models have a worker, what each one takes, and who gives way to whom."""

import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

import trio

from node.models.backoff import Backoff
from node.models.errors import ModelTooLarge
from node.models.fairness import Turns
from node.models.library import ServedModel
from node.models.memory import LEAST_CONTEXT_BYTES, MINIMAL_CONTEXT_BYTES, Need, Seen, guess_need, resident_bytes
from node.models.supervisor import Worker
from protocol.digest import Digest

# A model that is asked all the time keeps its place for so long while another one waits for it.
UNDISTURBED_S: Final = 10.0


@dataclass(eq=False)
class Place:
    """A model's place in memory; it is taken until its worker has ended."""

    need: Need
    worker: Worker | None = None
    since: float = field(default_factory=trio.current_time)

    def held_bytes(self) -> int:
        """Return what it takes: what it was promised, or what it really has where that is more."""
        if self.worker is None:
            return self.need.total
        return max(self.need.total, self.worker.memory_bytes, resident_bytes(self.worker.pid))


@dataclass(eq=False)
class Loading:
    """A load on its way, for everybody who waits for it."""

    done: trio.Event = field(default_factory=trio.Event)
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    error: Exception | None = None


@dataclass(eq=False)
class Seat:
    """One set of weights: the models that are built on it, its worker while it has one, its line, and its last hour.

    `expires_at` is trio time and counts while nobody uses the seat.
    """

    weights: str
    turns: Turns
    keep_alive_s: float
    models: dict[Digest, ServedModel] = field(default_factory=dict)
    worker: Worker | None = None
    place: Place | None = None
    loading: Loading | None = None
    users: int = 0
    expires_at: float = math.inf
    backoff: Backoff = field(default_factory=Backoff)

    @property
    def alive(self) -> Worker | None:
        """Its worker, if it has one that lives."""
        return self.worker if self.worker is not None and not self.worker.ended.is_set() else None


class Residency:
    """Gives models their places: at most `loaded`, within `budget` bytes; who was idle longest goes first."""

    def __init__(self, loaded: int, budget: int, rows: int) -> None:
        """Take the most models, the most bytes, and how many requests one model answers at once."""
        self.seats: dict[str, Seat] = {}
        self._loaded = loaded
        self._budget = budget
        self._rows = rows
        self._places: set[Place] = set()
        self._seen: dict[str, Seen] = {}
        self._entering = trio.Lock()
        self._changed = trio.Event()

    @property
    def budget_bytes(self) -> int:
        """What all models together may take."""
        return self._budget

    def has_room(self) -> bool:
        """Return whether a small model could come in now without another one going."""
        free = self._budget - self.held_bytes()
        return len(self._places) < self._loaded and free > LEAST_CONTEXT_BYTES

    def held_bytes(self) -> int:
        """Return what all models together take."""
        return sum(place.held_bytes() for place in self._places)

    async def enter(self, seat: Seat) -> Place:
        """Return a place for `seat`, once there is one; others may have to go for it.

        Raises:
            ModelTooLarge: it needs more than all models together may take.
        """
        need = self._need(seat)
        async with self._entering:
            while True:
                contexts = self._contexts_for(need)
                if contexts is not None:
                    place = Place(Need(need.weights, contexts))
                    self._places.add(place)
                    return place
                await self._free_one(seat)

    def occupy(self, place: Place, worker: Worker, seat: Seat) -> None:
        """Note that `worker` has loaded the model of `seat`: from now on its real figures count.

        Raises:
            ModelTooLarge: now that it is loaded, it turns out to need more than models may take.
        """
        ready = worker.ready
        self._seen[seat.weights] = Seen(ready.memory_bytes, ready.kv_bytes_per_token)
        place.need = Need(ready.memory_bytes, place.need.contexts)
        place.worker = worker
        self._need(seat)

    async def leave(self, place: Place, worker: Worker | None) -> None:
        """End `worker` and give its place back once it has ended."""
        try:
            if worker is not None:
                worker.stop()
                await worker.ended.wait()
        finally:
            self._places.discard(place)
            self.changed()

    async def unseat(self, seat: Seat) -> None:
        """Let the model of `seat` go; the seat is free at once for whoever asks next."""
        worker, place = seat.worker, seat.place
        seat.worker = seat.place = None
        if seat.loading is not None:
            seat.loading.scope.cancel()
        self.forget_if_empty(seat)
        if place is not None:
            await self.leave(place, worker)

    def forget_if_empty(self, seat: Seat) -> None:
        """Drop a seat that nobody uses and that holds nothing."""
        empty = not seat.users and seat.worker is None and seat.loading is None
        if empty and self.seats.get(seat.weights) is seat:
            del self.seats[seat.weights]

    def changed(self) -> None:
        """Wake who waits for a place: somebody became idle, or left."""
        self._changed.set()
        self._changed = trio.Event()

    async def wait_for_change(self) -> None:
        """Return at the next change."""
        await self._changed.wait()

    def _need(self, seat: Seat) -> Need:
        model = next(reversed(seat.models.values()))
        need = guess_need(model, self._seen.get(seat.weights), self._rows)
        least = need.weights + MINIMAL_CONTEXT_BYTES
        if least > self._budget:
            raise ModelTooLarge(model.name, least, self._budget)
        return need

    def _contexts_for(self, need: Need) -> int | None:
        """Return what contexts may take if the model gets a place now; None where there is none for it."""
        if len(self._places) >= self._loaded:
            return None
        free = self._budget - self.held_bytes() - need.weights
        if free >= need.contexts:
            return max(need.contexts, free // 2)  # the other half is for the next model
        if not self._idle() and free >= MINIMAL_CONTEXT_BYTES:
            return free
        return None

    def _idle(self) -> list[Seat]:
        return [seat for seat in self.seats.values() if seat.alive and not seat.users]

    async def _free_one(self, seat: Seat) -> None:
        """Let one model go, or wait until that may be possible."""
        if idle := self._idle():
            # The one that would go first anyway.
            await self.unseat(min(idle, key=lambda each: each.expires_at))
            return
        busy = [each for each in self.seats.values() if each.alive and each.place and each is not seat]
        oldest = min(busy, key=lambda each: each.place.since if each.place else 0.0, default=None)
        if oldest is None or oldest.place is None:
            await self._changed.wait()
            return
        with trio.move_on_at(oldest.place.since + UNDISTURBED_S) as undisturbed:
            await self._changed.wait()
        if undisturbed.cancelled_caught:
            await self._take_over(oldest)

    async def _take_over(self, seat: Seat) -> None:
        """Let the running answers of a busy model end and take its place; its line waits for its next one."""
        seat.turns.pause()
        try:
            while seat.alive and seat.turns.taken:
                await self._changed.wait()
            await self.unseat(seat)
        finally:
            seat.turns.resume()


Start = Callable[[ServedModel, int], Awaitable[Worker]]
