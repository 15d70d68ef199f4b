"""Requests for embeddings inside the worker: several at once, one batch of each in turn, until each has its vectors."""

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

from node.models.engine.config_file import read_config
from node.models.engine.embedder import Embedder
from node.models.engine.embedding_job import EmbeddingJob
from node.models.engine.sentences import is_embedding_model
from node.models.errors import InputInvalid, InputTooLong, ModelError, ModelRefused
from protocol.worker.messages import (
    MAX_WHY_BYTES,
    Cancel,
    Done,
    Embed,
    Failed,
    FromWorker,
    Generate,
    Load,
    LoadAdapter,
    Progress,
    Ready,
    ToWorker,
)


class Commands(Protocol):
    """Where commands come from."""

    def next_command(self) -> ToWorker:
        """Return the next command, waiting for it."""

    def waiting_command(self) -> ToWorker | None:
        """Return the next command if there is one."""

    def forget(self, request: int) -> None:
        """Drop what is remembered about a request that ended."""


class Left(Exception):
    """Whoever asked does not wait any more."""


class EmbeddingAnswerer:
    """Answers requests for embeddings with one model: each in turn, and what fits beside it read together with it.

    Memory is bounded: token ids of the requests that run, the vectors of one group each, and one batch. Every call
    must come from the thread that loaded the model.
    """

    def __init__(
        self,
        embedder: Embedder,
        send: Callable[[FromWorker], None],
        is_cancelled: Callable[[int], bool],
        now_ns: Callable[[], int],
    ) -> None:
        self.embedder = embedder
        self._send = send
        self._is_cancelled = is_cancelled
        self._now_ns = now_ns
        self._jobs: deque[EmbeddingJob] = deque()
        self._ended: list[int] = []

    @property
    def busy(self) -> bool:
        """Whether a request is being answered."""
        return bool(self._jobs)

    def take(self, request: Embed) -> None:
        """Begin a request; `step` goes on with it."""
        self._jobs.append(EmbeddingJob(request, self._now_ns()))

    def step(self) -> list[int]:
        """Make tokens of some texts of each request, and do one batch; return the numbers of those that ended."""
        for job in [job for job in self._jobs if self._is_cancelled(job.number)]:
            self._end(job, Done(job.number, "cancelled", 0, 0, 0, 0, ()))
        for job in [job for job in self._jobs if not job.is_read]:
            self._guarded([job], partial(job.read_some, self.embedder))
        for job in [job for job in self._jobs if job.is_read][:1]:
            self._jobs.remove(job)
            self._jobs.append(job)
            self._do_batch(job)
        ended, self._ended = self._ended, []
        return ended

    def _do_batch(self, job: EmbeddingJob) -> None:
        """Read rows of `job`, and rows of others that fit beside them, together."""
        batch = [(job, row) for row in job.take(self.embedder.batch_tokens)]
        if batch:
            longest = job.length(batch[0][1])
            for other in (other for other in self._jobs if other is not job and other.is_read):
                room = self.embedder.batch_tokens // longest - len(batch)
                batch += [(other, row) for row in other.take_fitting(longest, room)]
        jobs = [*dict.fromkeys([job, *(owner for owner, _ in batch)])]
        self._guarded(jobs, lambda: self._compute(batch))
        for owner in jobs:
            if owner in self._jobs:
                self._tell(owner)

    def _compute(self, batch: Sequence[tuple[EmbeddingJob, int]]) -> None:
        if not batch:
            return
        numbers = {job.number for job, _ in batch}

        def pulse() -> None:
            if all(map(self._is_cancelled, numbers)):
                raise Left

        rows = [job.tokens(row) for job, row in batch]
        for (job, row), vector in zip(batch, self.embedder.vectors(rows, pulse), strict=True):
            job.put(row, vector)

    def _tell(self, job: EmbeddingJob) -> None:
        """Send what `job` has in order, and its end where nothing is left."""
        if group := job.finished_group():
            for vectors in group:
                self._send(vectors)
        if job.is_done:
            self._end(job, Done(job.number, "stop", job.token_count, self._now_ns() - job.started_ns, 0, 0, ()))
        elif job.total:
            self._send(Progress(job.number, job.done, job.total))

    def _guarded(self, jobs: Sequence[EmbeddingJob], work: Callable[[], None]) -> None:
        """Do `work`; where it fails, `jobs` fail and no other."""
        try:
            work()
        except Left:
            for job in jobs:
                self._end(job, Done(job.number, "cancelled", 0, 0, 0, 0, ()))
        except ModelError as error:
            for job in jobs:
                self._end(job, _failed(job.number, error))
        except Exception as error:  # noqa: BLE001 - MLX and tokenizers raise anything; requests fail, the worker lives
            for job in jobs:
                self._end(job, Failed(job.number, "internal", type(error).__name__))

    def _end(self, job: EmbeddingJob, last: Done | Failed) -> None:
        self._jobs.remove(job)
        self._ended.append(job.number)
        self._send(last)

    def serve(self, commands: Commands) -> None:
        """Answer all requests that come, until the first message that no model of embeddings is sent."""
        while True:
            command = commands.waiting_command() if self.busy else commands.next_command()
            match command:
                case None:
                    for ended in self.step():
                        commands.forget(ended)
                case Embed():
                    self.take(command)
                case Cancel(number):
                    if not self._is_running(number):
                        commands.forget(number)
                case Generate(request=number) | LoadAdapter(request=number):
                    self._send(Failed(number, "capability", "generate"))
                case _:
                    return

    def _is_running(self, number: int) -> bool:
        return any(job.number == number for job in self._jobs)

    def ready(self, notes: tuple[str, ...]) -> Ready:
        """Return what the node is told once the model is loaded."""
        embedder = self.embedder
        return Ready(
            architecture=embedder.architecture,
            context_tokens=embedder.max_tokens,
            memory_bytes=embedder.memory_bytes,
            can_think=False,
            can_use_tools=False,
            has_template=False,
            notes=(*notes, *embedder.notes),
            can_generate=False,
            dimensions=embedder.dimensions,
        )


def embeds(directory: Path) -> bool:
    """Return whether the model in `directory` is one of embeddings.

    Raises:
        ModelRefused: its config cannot be read.
    """
    return is_embedding_model(directory, str(read_config(directory)["model_type"]))


def open_embedding_answerer(
    load: Load,
    send: Callable[[FromWorker], None],
    is_cancelled: Callable[[int], bool],
    now_ns: Callable[[], int],
) -> EmbeddingAnswerer:
    """Return an answerer with the model of embeddings that `load` names loaded.

    Raises:
        ModelRefused: the model's files cannot be served.
    """
    return EmbeddingAnswerer(Embedder.load(Path(load.directory), load.memory_bytes), send, is_cancelled, now_ns)


def _failed(request: int, error: ModelError) -> Failed:
    match error:
        case InputTooLong():
            return Failed(request, "prompt-too-long", _short(error.what), 0, error.limit)
        case InputInvalid():
            return Failed(request, "option", _short(error.reason))
        case ModelRefused():
            return Failed(request, "model", _short(error.reason))
    return Failed(request, "internal", _short(str(error)))


def _short(text: str) -> str:
    return text.encode(errors="replace").decode()[: MAX_WHY_BYTES // 4]
