"""Requests for embeddings inside the worker: several at once, one batch of each in turn, until each has its vectors."""

import json
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from node.models.engine.config_file import read_config
from node.models.engine.embedder import Embedder, Tokens
from node.models.engine.sentences import is_embedding_model
from node.models.errors import InputInvalid, InputTooLong, ModelError, ModelRefused
from protocol.worker.messages import (
    MAX_VECTOR_BYTES,
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
    Vectors,
)

# Vectors of so many inputs are held until they can go in order; within them, batches are formed by length.
GROUP: Final = 256
# Characters that are made into tokens between two looks at who else waits.
STEP_CHARS: Final = 1 << 20
_FLOAT: Final = np.dtype("<f4")


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


@dataclass(frozen=True)
class _Job:
    """A request that is being answered, and the steps of its work that are left."""

    request: Embed
    steps: Iterator[None]


class EmbeddingAnswerer:
    """Answers requests for embeddings with one model.

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
        self._jobs: deque[_Job] = deque()

    @property
    def busy(self) -> bool:
        """Whether a request is being answered."""
        return bool(self._jobs)

    def take(self, request: Embed) -> None:
        """Begin a request; `step` goes on with it."""
        self._jobs.append(_Job(request, self._work(request)))

    def step(self) -> int | None:
        """Do one batch of the request whose turn it is; return the request's number where that was its end."""
        if not self._jobs:
            return None
        job = self._jobs.popleft()
        number = job.request.request
        try:
            next(job.steps)
        except StopIteration:
            return number
        except Left:
            self._send(Done(number, "cancelled", 0, 0, 0, 0, ()))
            return number
        except ModelError as error:
            self._send(_failed(number, error))
            return number
        except Exception as error:  # noqa: BLE001 - MLX and tokenizers raise anything; one request fails, the worker lives
            self._send(Failed(number, "internal", type(error).__name__))
            return number
        self._jobs.append(job)
        return None

    def serve(self, commands: Commands) -> None:
        """Answer all requests that come, until the first message that no model of embeddings is sent."""
        while True:
            command = commands.waiting_command() if self.busy else commands.next_command()
            match command:
                case None:
                    if (ended := self.step()) is not None:
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
        return any(job.request.request == number for job in self._jobs)

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

    def _work(self, request: Embed) -> Iterator[None]:
        """Answer `request` step by step: its tokens, then batch after batch; vectors go out in order."""
        started_ns = self._now_ns()
        pulse = partial(self._pulse, request)
        rows: list[Tokens] = []
        for found in self._rows(request):
            rows += found
            yield
        total = len(rows)
        tokens = sum(map(len, rows))
        for first in range(0, total, GROUP):
            group = rows[first : first + GROUP]
            vectors = np.empty((len(group), self.embedder.dimensions), dtype=_FLOAT)
            done = first
            for batch in self.embedder.batches(group):
                vectors[batch] = self.embedder.vectors([group[number] for number in batch], pulse)
                done += len(batch)
                self._send(Progress(request.request, done, total))
                yield
            self._send_vectors(request, first, vectors)
        self._send(Done(request.request, "stop", tokens, self._now_ns() - started_ns, 0, 0, ()))

    def _rows(self, request: Embed) -> Iterator[list[Tokens]]:
        inputs: Sequence[object] = json.loads(request.inputs_json)
        found: list[Tokens] = []
        chars = 0
        for number, given in enumerate(inputs):
            self._pulse(request)
            found.append(self.embedder.encode(number, given, request.truncate))
            chars += len(given) if isinstance(given, str | list) else 0
            if chars >= STEP_CHARS or len(found) >= GROUP:
                yield found
                found, chars = [], 0
        yield found

    def _pulse(self, request: Embed) -> None:
        if self._is_cancelled(request.request):
            raise Left

    def _send_vectors(self, request: Embed, first: int, vectors: npt.NDArray[np.float32]) -> None:
        at_once = max(1, MAX_VECTOR_BYTES // vectors[:1].nbytes)
        for start in range(0, len(vectors), at_once):
            data = vectors[start : start + at_once].tobytes()
            self._send(Vectors(request.request, first + start, self.embedder.dimensions, data))


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
