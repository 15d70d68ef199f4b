"""The models service: a question goes in, an answer streams out, whatever happens to the process that computes it."""

import logging
import math
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

import trio

from node.models.demo import DEMO_NAME
from node.models.embeddings import CAPABILITY, embed_of, vectors_of
from node.models.errors import CapabilityMissing, ModelError, ModelRefused, NothingProved
from node.models.library import Library, ServedModel
from node.models.metrics import Metrics
from node.models.options import resolve_options
from node.models.pieces import Asked, done_of, ending_of, pieces_of
from node.models.prefix_place import PrefixPlaces
from node.models.questions import question_of
from node.models.requests import Embeddings, EmbedRequest, Ending, GenerateRequest, LoadedModel, Piece
from node.models.residency import Seat
from node.models.scheduler import UNTOUCHED, Limits, Scheduler, Turn
from node.models.schema_clerk import SchemaClerk
from node.models.spare import Spare
from node.models.supervisor import Patience, Worker
from node.ports import Clock, Entropy
from protocol.worker.messages import Done, Embed, Generate, Load, LoadAdapter, Ready
from store.drafts import FOLDER as DRAFT_FOLDER
from store.errors import StoreError
from store.lora import FOLDER as ADAPTER_FOLDER

_log = logging.getLogger("tilenode.models")
_SEED_BYTES: Final = 8
# Of one worker; the one that was not asked for longest goes first.
MAX_ADAPTERS: Final = 32
# What a worker is told, once it is known which one it is: by what it said of itself, and the request's number.
Ask = Callable[[Ready, int], Generate | Embed]


@dataclass(frozen=True)
class Proof:
    """A model wrote so many tokens in so many seconds."""

    model: str
    tokens: int
    seconds: float


class Models:
    """Answers questions with the models of a library, each set of weights in a worker process of its own."""

    def __init__(
        self,
        library: Library,
        clock: Clock,
        entropy: Entropy,
        limits: Limits | None = None,
        patience: Patience | None = None,
        spare: Spare | None = None,
        prefixes: PrefixPlaces | None = None,
        kv_bits: int = 0,
    ) -> None:
        self.library = library
        self.metrics = Metrics()
        self.scheduler = Scheduler(limits or Limits(), self._start)
        self._clock = clock
        self._entropy = entropy
        self._patience = patience or Patience()
        self._spare = spare or Spare()
        self._prefixes = prefixes
        self._kv_bits = kv_bits
        self._schemas = SchemaClerk()
        self._nursery: trio.Nursery | None = None
        self._requests = 0

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; the workers end with it."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._spare.run)
            await nursery.start(self.scheduler.run)
            task_status.started()

    @asynccontextmanager
    async def generate(self, request: GenerateRequest) -> AsyncIterator[AsyncIterator[Piece]]:
        """Yield the pieces of the answer to `request`; the last one carries the ending.

        Leaving the body early stops the generation within one token. Errors come when the first piece is asked for, or
        before; a worker that fails later raises from the iteration.

        Raises:
            ModelNotFound: no such model.
            RequestRefused: an option, the prompt or a capability; see its subclasses.
            ServerBusy: too many requests wait for this model, or it rests after failures.
            ModelTooLarge: it needs more memory than models may take.
            ModelRefused: the model's files cannot be served.
            WorkerFailed: the worker crashed or hung.
        """
        started_s = self._clock.monotonic_s()
        model, ask = await self._understood(request)

        async with self._asked(model, request.client, request.keep_alive_s, ask) as asked:

            def end(done: Done) -> Ending:
                return ending_of(done, round((self._clock.monotonic_s() - started_s) * 1e9), asked.load_ns)

            async with aclosing(pieces_of(asked.answers, asked.worker, model.name, end)) as pieces:
                yield pieces

    async def count(self, request: GenerateRequest) -> int:
        """Return how many tokens the prompt of `request` has; nothing is generated. Raises as `generate`."""
        model, ask = await self._understood(request, count_only=True)
        async with self._asked(model, request.client, request.keep_alive_s, ask) as asked:
            return (await done_of(asked, model)).prompt_tokens

    async def embed(self, request: EmbedRequest) -> Embeddings:
        """Return one vector for each input of `request`; without inputs the model is loaded, and there is none.

        Raises:
            InputTooLong, InputInvalid: an input that cannot be embedded.
            CapabilityMissing: the model makes no vectors.
            ModelError: as `generate`.
        """
        started_s = self._clock.monotonic_s()
        model = await self._found(request.model)
        if CAPABILITY not in model.details.capabilities:  # before much memory is filled for nothing
            raise CapabilityMissing(f'"{request.model}"', CAPABILITY)

        def ask(ready: Ready, number: int) -> Embed:
            return embed_of(request, ready, number)

        async with self._asked(model, request.client, request.keep_alive_s, ask) as asked:
            vectors, done = await vectors_of(asked.answers, asked.worker, request)
            total_ns = round((self._clock.monotonic_s() - started_s) * 1e9)
            return Embeddings(vectors, done.prompt_tokens, total_ns, asked.load_ns)

    async def load(self, name: str, keep_alive_s: float | None) -> None:
        """Bring a model into memory, for `keep_alive_s` from now.

        Raises:
            ModelNotFound: no such model.
            ServerBusy: it rests after failures.
            ModelTooLarge: it needs more memory than models may take.
            ModelRefused: its files cannot be served.
            WorkerFailed: the worker ended or hung while it loaded.
        """
        model = await self._found(name)
        async with self.scheduler.reserve(model, keep_alive_s) as seat:
            worker = await self.scheduler.worker(seat)
            async with self._adapted(worker, model):
                return

    async def stop(self, name: str) -> bool:
        """Let a model go from memory now; return whether it was there.

        Raises:
            ModelNotFound: no such model.
        """
        return await self.scheduler.stop(await self.library.find(name))

    async def prove(self) -> Proof:
        """Return the proof that a token can be written: of a model in memory, else of the demo model.

        Nothing is let go for it, and no model stays longer because of it.

        Raises:
            NothingProved: no model could be asked without letting another one go.
            ModelError: the model did not answer.
        """
        started_s = self._clock.monotonic_s()
        name = self._provable()
        request = GenerateRequest(name, prompt="1", raw=True, options={"num_predict": 1, "temperature": 0})
        model, ask = await self._understood(replace(request, client="health"))
        async with self._asked(model, "health", UNTOUCHED, ask) as asked:
            done = await done_of(asked, model)
        return Proof(model.name, done.eval_tokens, round(self._clock.monotonic_s() - started_s, 3))

    def _provable(self) -> str:
        for seat, worker in self.scheduler.loaded():
            if worker.ready.can_generate:
                return next(reversed(seat.models.values())).name
        if not self.scheduler.has_room():
            raise NothingProved
        return DEMO_NAME

    def prefix_counts(self) -> tuple[int, int]:
        """Return how many prompts began with something kept, and how many did not."""
        statuses = [worker.status for _, worker in self.scheduler.loaded()]
        return (
            self.metrics.prefix_hits + sum(status.prefix_hits for status in statuses),
            self.metrics.prefix_misses + sum(status.prefix_misses for status in statuses),
        )

    def loaded(self) -> list[LoadedModel]:
        """Return the models in memory."""
        return [
            self._loaded(seat, worker, model)
            for seat, worker in self.scheduler.loaded()
            for model in seat.models.values()
        ]

    def worker_pids(self) -> list[int]:
        """Return the process ids of the running workers."""
        return [worker.pid for _, worker in self.scheduler.loaded()]

    async def _understood(self, request: GenerateRequest, *, count_only: bool = False) -> tuple[ServedModel, Ask]:
        """Return the model that is asked, and what its worker is to be told."""
        model = await self._found(request.model)
        wishes = resolve_options(request.defaults, model.modelfile.parameters, request.options)
        if wishes.unknown:
            _log.warning("options_unknown", extra={"count": len(wishes.unknown)})
        await self._schemas.require(request)

        def ask(ready: Ready, number: int) -> Generate:
            seed = int.from_bytes(self._entropy.random_bytes(_SEED_BYTES), "big")
            return replace(question_of(request, model, wishes, ready, number=number, seed=seed), count_only=count_only)

        return model, ask

    async def _found(self, name: str) -> ServedModel:
        """Return the model of that name; a process for it is started meanwhile, where it will need one."""
        if self.scheduler.is_cold():
            self._spare.prepare()
        model = await self.library.find(name)
        if not self.scheduler.is_loaded(model):
            self._spare.prepare()
        return model

    @asynccontextmanager
    async def _asked(
        self, model: ServedModel, client: str, keep_alive_s: float | None, ask: Ask
    ) -> AsyncIterator[Asked]:
        """Wait for a turn and a worker, ask it, and yield its answers; leaving early takes the request back."""
        async with self.scheduler.reserve(model, keep_alive_s) as seat:
            turn = _Handover(self, model, await self.scheduler.turn(seat, client))
            try:
                queued_s = self._clock.monotonic_s()
                worker = await self.scheduler.worker(seat)
                async with self._adapted(worker, model):
                    load_ns = round((self._clock.monotonic_s() - queued_s) * 1e9)
                    async with worker.request(ask(worker.ready, self._number()), turn.end) as answers:
                        turn.handed_over = True
                        yield Asked(answers, worker, load_ns)
            finally:
                turn.leave()

    def _number(self) -> int:
        self._requests += 1
        return self._requests

    async def _start(self, model: ServedModel, context_bytes: int) -> Worker:
        """Return a worker that has loaded `model`; its contexts may take `context_bytes`."""
        assert self._nursery is not None, "run() was not started"
        directory = await self._files(model)
        _require_beside(model, directory)
        cache = None
        if self._prefixes is not None:
            place = partial(self._prefixes.place, model.weights or model.digest, model.digest, self._kv_bits)
            cache = await trio.to_thread.run_sync(place)
        load = Load(
            str(directory),
            draft=str(directory / DRAFT_FOLDER) if model.modelfile.draft is not None else None,
            max_rows=self.scheduler.limits.parallel,
            kv_bits=self._kv_bits,
            memory_bytes=context_bytes,
            cache=cache,
        )
        worker = Worker(self._spare.take(), load, self._patience)
        started_s = self._clock.monotonic_s()
        try:
            await self._nursery.start(self._live, worker, model.name)
        except ModelError as error:
            self.metrics.failed(error)
            _log.error("model_not_loaded", extra={"model": model.name, "error": type(error).__name__})
            if isinstance(error, ModelRefused):
                raise ModelRefused(error.reason, model.name) from error
            raise
        seconds = self._clock.monotonic_s() - started_s
        self.metrics.loaded(seconds)
        _log.info("model_loaded", extra={"model": model.name, "pid": worker.pid, "seconds": round(seconds, 3)})
        for note in worker.ready.notes:
            _log.warning("worker_note", extra={"note": note})
        return worker

    async def _files(self, model: ServedModel) -> Path:
        """Return where the model's files are. Somebody may delete the model in this very moment."""
        try:
            return await self.library.directory(model.digest)
        except StoreError:
            await self.library.find(model.name)  # says that it is gone, if that is what is wrong
            raise

    async def _live(self, worker: Worker, name: str, *, task_status: trio.TaskStatus[None]) -> None:
        await worker.run(task_status=task_status)
        self.metrics.ended(worker.status)
        if worker.was_stopped:
            _log.info("worker_stopped", extra={"model": name})
        else:
            self.metrics.failed(worker.failure())
            _log.error("worker_failed", extra={"model": name, "error": str(worker.failure())})

    @asynccontextmanager
    async def _adapted(self, worker: Worker, model: ServedModel) -> AsyncIterator[None]:
        """Have the worker hold the model's adapter, for the body at least."""
        if not model.adapter:
            yield
            return
        if model.adapter not in worker.adapters:
            async with worker.adapting:
                if model.adapter not in worker.adapters:
                    await self._load_adapter(worker, model)
        with worker.using(model.adapter):
            yield

    async def _load_adapter(self, worker: Worker, model: ServedModel) -> None:
        while len(worker.adapters) >= MAX_ADAPTERS and (idle := worker.idle_adapter()) is not None:
            await worker.drop_adapter(idle)
        directory = await self.library.directory(model.digest) / ADAPTER_FOLDER
        message = LoadAdapter(self._number(), model.adapter, str(directory))

        def loaded(done: Done | None) -> None:
            # Also where nobody waits for it any more: what is not known here is never dropped.
            if done is not None:
                worker.adapters.setdefault(model.adapter, 0)

        async with worker.request(message, loaded) as answers:
            await done_of(Asked(answers, worker, 0), model)

    def _loaded(self, seat: Seat, worker: Worker, model: ServedModel) -> LoadedModel:
        left_s = math.inf if seat.users else seat.expires_at - trio.current_time()
        if seat.users and seat.keep_alive_s >= 0:
            left_s = seat.keep_alive_s
        return LoadedModel(
            name=model.name,
            digest=model.digest,
            size_bytes=model.size_bytes,
            memory_bytes=worker.memory_bytes,
            context_tokens=worker.ready.context_tokens,
            details=model.details,
            expires_s=None if math.isinf(left_s) else self._clock.now_s() + left_s,
            notes=worker.ready.notes,
        )


class _Handover:
    """The right to the worker, given back exactly once: by the worker when it is done, or by who never asked it."""

    def __init__(self, models: Models, model: ServedModel, turn: Turn) -> None:
        self._models = models
        self._model = model
        self._turn = turn
        self.handed_over = False

    def end(self, done: Done | None) -> None:
        """Note that the worker is done with the request."""
        self.handed_over = True
        if done is not None:
            self._models.metrics.answered(done)
            _log.info(
                "answer_ended",
                extra={
                    "model": self._model.name,
                    "reason": done.reason,
                    "prompt_tokens": done.prompt_tokens,
                    "eval_tokens": done.eval_tokens,
                },
            )
        self._turn.end(answered=True)

    def leave(self) -> None:
        """Note that the asker left; if the worker never got the request, nobody else will give the turn back."""
        if not self.handed_over:
            self._turn.end(answered=False)


def _require_beside(model: ServedModel, directory: Path) -> None:
    """Refuse a model whose recipe and files disagree about an adapter or a draft: it would not be what it says."""
    recipe = model.modelfile
    beside = ((ADAPTER_FOLDER, "an adapter", recipe.adapter), (DRAFT_FOLDER, "a draft", recipe.draft))
    for folder, what, named in beside:
        there = (directory / folder).is_dir()
        if there and named is None:
            raise ModelRefused(f"it has {what} among its files that its recipe does not name", model.name)
        if not there and named is not None:
            raise ModelRefused(f"its recipe names {what} that is not among its files", model.name)
