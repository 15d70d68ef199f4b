"""The models service: a question goes in, an answer streams out, whatever happens to the process that computes it."""

import json
import logging
import math
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import trio

from node.models.errors import (
    AnswerFailed,
    CapabilityMissing,
    ModelError,
    ModelRefused,
    OptionInvalid,
    PromptTooLong,
    TemplateInvalid,
)
from node.models.library import Library, ServedModel
from node.models.options import Wishes, resolve_options
from node.models.requests import Call, ChosenToken, Ending, GenerateRequest, LikelyToken, LoadedModel, Piece
from node.models.scheduler import Limits, Resident, Scheduler
from node.models.supervisor import Answer, Patience, Worker
from node.ports import Clock, Entropy
from protocol.worker.messages import Done, Failed, Generate, Progress, Ready, Sampling, Text, ToolCall
from store.lora import FOLDER as ADAPTER_FOLDER

_log = logging.getLogger("tilenode.models")
_SEED_BYTES: Final = 8


class Models:
    """Answers questions with the models of a library, each in a worker process of its own."""

    def __init__(
        self,
        library: Library,
        clock: Clock,
        entropy: Entropy,
        limits: Limits | None = None,
        patience: Patience | None = None,
    ) -> None:
        self.library = library
        self._clock = clock
        self._entropy = entropy
        self._patience = patience or Patience()
        self._scheduler = Scheduler(limits or Limits(), self._start)
        self._nursery: trio.Nursery | None = None
        self._requests = 0

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; the workers end with it."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            await self._scheduler.run()

    @asynccontextmanager
    async def generate(self, request: GenerateRequest) -> AsyncIterator[AsyncIterator[Piece]]:
        """Yield the pieces of the answer to `request`; the last one carries the ending.

        Leaving the body early stops the generation within one token. Errors come when the first piece is asked for, or
        before; a worker that fails later raises from the iteration.

        Raises:
            ModelNotFound: no such model.
            RequestRefused: an option, the prompt or a capability; see its subclasses.
            ServerBusy: too many requests wait for this model.
            ModelRefused: the model's files cannot be served.
            WorkerFailed: the worker crashed or hung.
        """
        started_s = self._clock.monotonic_s()
        model = await self.library.find(request.model)
        wishes = resolve_options(request.defaults, model.modelfile.parameters, request.options)
        if wishes.unknown:
            _log.warning("options_unknown", extra={"count": len(wishes.unknown)})
        async with self._scheduler.reserve(model, request.keep_alive_s) as seat:
            await seat.turn.acquire()
            turn = _Turn(seat, model)
            try:
                queued_s = self._clock.monotonic_s()
                worker = await self._scheduler.worker(seat)
                load_ns = round((self._clock.monotonic_s() - queued_s) * 1e9)
                message = self._message(request, model, wishes, worker.ready)
                async with (
                    worker.request(message, turn.end) as answers,
                    aclosing(self._pieces(answers, worker, model, started_s, load_ns)) as pieces,
                ):
                    turn.handed_over = True
                    yield pieces
            finally:
                turn.leave()

    async def load(self, name: str, keep_alive_s: float | None) -> None:
        """Bring a model into memory, for `keep_alive_s` from now.

        Raises:
            ModelNotFound: no such model.
            ModelRefused: its files cannot be served.
            WorkerFailed: the worker ended or hung while it loaded.
        """
        model = await self.library.find(name)
        async with self._scheduler.reserve(model, keep_alive_s) as seat, seat.turn:
            await self._scheduler.worker(seat)

    async def stop(self, name: str) -> bool:
        """Let a model go from memory now; return whether it was there.

        Raises:
            ModelNotFound: no such model.
        """
        model = await self.library.find(name)
        return await self._scheduler.stop(model.digest)

    def loaded(self) -> list[LoadedModel]:
        """Return the models in memory."""
        return [self._loaded(seat, worker) for seat, worker in self._scheduler.loaded()]

    def worker_pids(self) -> list[int]:
        """Return the process ids of the running workers."""
        return [worker.pid for _, worker in self._scheduler.loaded()]

    async def _start(self, model: ServedModel) -> Worker:
        assert self._nursery is not None, "run() was not started"
        directory = await self.library.directory(model.digest)
        _require_adapter(model, directory)
        worker = Worker(directory, self._patience)
        started_s = self._clock.monotonic_s()
        try:
            await self._nursery.start(self._live, worker, model.name)
        except ModelError as error:
            _log.error("model_not_loaded", extra={"model": model.name, "error": type(error).__name__})
            if isinstance(error, ModelRefused):
                raise ModelRefused(error.reason, model.name) from error
            raise
        seconds = round(self._clock.monotonic_s() - started_s, 3)
        _log.info("model_loaded", extra={"model": model.name, "pid": worker.pid, "seconds": seconds})
        for note in worker.ready.notes:
            _log.warning("worker_note", extra={"note": note})
        return worker

    async def _live(self, worker: Worker, name: str, *, task_status: trio.TaskStatus[None]) -> None:
        await worker.run(task_status=task_status)
        if worker.was_stopped:
            _log.info("worker_stopped", extra={"model": name})
        else:
            _log.error("worker_failed", extra={"model": name, "error": str(worker.failure())})

    def _message(self, request: GenerateRequest, model: ServedModel, wishes: Wishes, ready: Ready) -> Generate:
        prompt, messages = _words(request, model, ready)
        if request.thinking and not ready.can_think:
            raise CapabilityMissing(f'"{request.model}"', "thinking")
        if request.tools and not ready.can_use_tools:
            raise CapabilityMissing(f'"{request.model}"', "tools")
        self._requests += 1
        return Generate(
            request=self._requests,
            prompt=prompt,
            messages_json=None if messages is None else json.dumps(messages, ensure_ascii=False),
            tools_json=json.dumps(list(request.tools), ensure_ascii=False),
            template=request.template or model.modelfile.template,
            thinking=bool(request.thinking),
            context=tuple(request.context),
            num_ctx=wishes.num_ctx,
            num_predict=wishes.num_predict,
            stop=wishes.stop,
            sampling=self._seeded(wishes),
        )

    def _seeded(self, wishes: Wishes) -> Sampling:
        seed = wishes.seed
        if seed is None:
            seed = int.from_bytes(self._entropy.random_bytes(_SEED_BYTES), "big")
        return Sampling(**{**vars(wishes.sampling), "seed": seed})

    async def _pieces(
        self,
        answers: trio.MemoryReceiveChannel[Answer],
        worker: Worker,
        model: ServedModel,
        started_s: float,
        load_ns: int,
    ) -> AsyncGenerator[Piece, None]:
        prompt_tokens = 0
        async for answer in answers:
            match answer:
                case Text():
                    yield Piece(
                        text=answer.text,
                        thinking=answer.thinking,
                        logprobs=_chosen_tokens(answer.logprobs_json) if answer.logprobs_json else (),
                        tokens=answer.tokens,
                        prompt_tokens=prompt_tokens,
                    )
                case ToolCall(name=name, arguments_json=arguments_json):
                    yield Piece(call=Call(name, arguments_json), prompt_tokens=prompt_tokens)
                case Done():
                    total_ns = round((self._clock.monotonic_s() - started_s) * 1e9)
                    ending = _ending(answer, total_ns, load_ns)
                    yield Piece(ending=ending, tokens=answer.eval_tokens, prompt_tokens=answer.prompt_tokens)
                    return
                case Failed():
                    raise _error(answer, model)
                case Progress(total=total):
                    prompt_tokens = total
        raise worker.failure()

    def _loaded(self, seat: Resident, worker: Worker) -> LoadedModel:
        left_s = math.inf if seat.users else seat.expires_at - trio.current_time()
        if seat.users and seat.keep_alive_s >= 0:
            left_s = seat.keep_alive_s
        return LoadedModel(
            name=seat.model.name,
            digest=seat.model.digest,
            size_bytes=seat.model.size_bytes,
            memory_bytes=worker.ready.memory_bytes,
            context_tokens=worker.ready.context_tokens,
            details=seat.model.details,
            expires_s=None if math.isinf(left_s) else self._clock.now_s() + left_s,
            notes=worker.ready.notes,
        )


class _Turn:
    """The right to the worker, given back exactly once: by the worker when it is done, or by who never asked it."""

    def __init__(self, seat: Resident, model: ServedModel) -> None:
        self._seat = seat
        self._model = model
        self._ended = False
        self.handed_over = False

    def end(self, done: Done | None) -> None:
        """Note that the worker is done with the request."""
        self.handed_over = True
        if done is not None:
            _log.info(
                "answer_ended",
                extra={
                    "model": self._model.name,
                    "reason": done.reason,
                    "prompt_tokens": done.prompt_tokens,
                    "eval_tokens": done.eval_tokens,
                },
            )
        self._give_back()

    def leave(self) -> None:
        """Note that the asker left; if the worker never got the request, nobody else will give the turn back."""
        if not self.handed_over:
            self._give_back()

    def _give_back(self) -> None:
        if not self._ended:
            self._ended = True
            self._seat.turn.release()


def _require_adapter(model: ServedModel, directory: Path) -> None:
    """Refuse a model whose recipe and files disagree about an adapter: it would not answer as it says."""
    there = (directory / ADAPTER_FOLDER).is_dir()
    if there and model.modelfile.adapter is None:
        raise ModelRefused("it has an adapter among its files that its recipe does not name", model.name)
    if not there and model.modelfile.adapter is not None:
        raise ModelRefused("its recipe names an adapter that is not among its files", model.name)


def _words(
    request: GenerateRequest, model: ServedModel, ready: Ready
) -> tuple[str | None, Sequence[Mapping[str, Any]] | None]:
    """Return the prompt text, or the messages for the template, with the Modelfile's SYSTEM and MESSAGEs applied."""
    modelfile = model.modelfile
    system = request.system or modelfile.system
    examples = [{"role": role, "content": content} for role, content in modelfile.messages]
    has_template = ready.has_template or bool(request.template or modelfile.template)
    if request.messages is not None:
        if not has_template:
            raise CapabilityMissing(f'"{request.model}"', "chat")
        opens_with_system = bool(request.messages) and request.messages[0].get("role") == "system"
        # The system's words stay first: templates take them from there only.
        own = [request.messages[0]] if opens_with_system else []
        first = [{"role": "system", "content": system}] if system and not opens_with_system else own
        return None, [*first, *examples, *request.messages[len(own) :]]
    prompt = request.prompt or ""
    if request.raw:
        return prompt, None
    if not has_template:
        return f"{system}\n\n{prompt}" if system else prompt, None
    first = [{"role": "system", "content": system}] if system else []
    return None, [*first, *([] if request.context else examples), {"role": "user", "content": prompt}]


def _ending(done: Done, total_ns: int, load_ns: int) -> Ending:
    return Ending(
        reason=done.reason,
        prompt_tokens=done.prompt_tokens,
        eval_tokens=done.eval_tokens,
        total_ns=total_ns,
        load_ns=load_ns,
        prompt_ns=done.prompt_ns,
        eval_ns=done.eval_ns,
        context=done.context,
        cached_tokens=done.cached_tokens,
        stopped_by=done.stopped_by or "",
    )


def _chosen_tokens(logprobs_json: str) -> tuple[ChosenToken, ...]:
    return tuple(
        ChosenToken(
            token=chosen["token"],
            logprob=chosen["logprob"],
            bytes=tuple(chosen["bytes"] or ()),
            top=tuple(
                LikelyToken(token=likely["token"], logprob=likely["logprob"], bytes=tuple(likely["bytes"] or ()))
                for likely in chosen["top_logprobs"]
            ),
        )
        for chosen in json.loads(logprobs_json)
    )


def _error(failed: Failed, model: ServedModel) -> ModelError:
    match failed.kind:
        case "prompt-too-long":
            return PromptTooLong(failed.tokens, failed.limit)
        case "template":
            return TemplateInvalid(failed.why)
        case "capability":
            return CapabilityMissing(f'"{model.name}"', failed.why)
        case "option":
            return OptionInvalid("context", "a token id", failed.why)
        case "model":
            return ModelRefused(failed.why)
    return AnswerFailed(failed.why)
