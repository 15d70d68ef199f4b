"""One model worker process, watched: started, spoken to, and ended when it hangs or is no longer wanted."""

import math
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final

import trio

from node.models.answers import Answers
from node.models.errors import (
    ModelRefused,
    WorkerCrashed,
    WorkerFailed,
    WorkerStalled,
    WorkerStopped,
)
from node.models.process import WorkerProcess
from protocol.errors import FieldInvalid, ProtocolError
from protocol.text import clean_text
from protocol.wire import FrameReader, encode_frame
from protocol.worker.codec import decode_from_worker, encode_to_worker
from protocol.worker.messages import (
    MAX_FRAME_BYTES,
    Cancel,
    Done,
    DropAdapter,
    Embed,
    Failed,
    FromWorker,
    Generate,
    Load,
    LoadAdapter,
    LoadFailed,
    Progress,
    Ready,
    Status,
    Text,
    ToolCall,
    ToWorker,
    Vectors,
)

READ_BYTES: Final = 256 * 1024
SEND_PATIENCE_S: Final = 10.0


@dataclass(frozen=True)
class Patience:
    """How long a worker may be silent: while it loads, and between two signs of life while it answers."""

    load_s: float = 600.0
    answer_s: float = 300.0


class Worker:
    """A worker process with one model. `run` is its whole life; the other methods speak to it meanwhile.

    `adapters` are those that it has loaded, with the requests that need them, the longest unused first; who loads one
    holds `adapting`.
    """

    def __init__(self, process: WorkerProcess, load: Load, patience: Patience) -> None:
        self._process = process
        self._load = load
        self._patience = patience
        self._stream = trio.SocketStream(trio.socket.from_stdlib_socket(process.connection))
        self._watch = trio.CancelScope()
        self._sending = trio.Lock()
        self._answers: dict[int, Answers] = {}
        self._outstanding: dict[int, Callable[[Done | None], None]] = {}
        # By when requests that were taken back must have ended; trio time.
        self._taken_back: dict[int, float] = {}
        self._failure: WorkerFailed | None = None
        self._ready: Ready | None = None
        self._during = "starting"
        self._hung_up = False
        self._stopping = False
        self.status = Status(0, 0, 0, 0, 0, 0)
        self.adapters: dict[str, int] = {}
        self.adapting = trio.Lock()
        self.ended = trio.Event()

    @property
    def ready(self) -> Ready:
        """What the worker said once the model was loaded."""
        assert self._ready is not None, "asked before run() reported started"
        return self._ready

    @property
    def pid(self) -> int:
        """The process id of the worker."""
        return self._process.pid

    @property
    def memory_bytes(self) -> int:
        """What the model takes, with its contexts, as the worker last said."""
        return max(self.ready.memory_bytes, self.status.memory_bytes)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Live the worker's life: load the model, pass its answers on, and see it buried.

        Reports started once the model is loaded. Returns when the process has ended; cancelling ends it.

        Raises:
            ModelRefused: the worker will not serve these files (before started).
            WorkerFailed: the worker ended or hung before the model was loaded (before started).
        """
        try:
            self._during = "loading"
            self._watch.deadline = trio.current_time() + self._patience.load_s
            with self._watch:
                await self._send(self._load)
                await self._receive(task_status)
        finally:
            await self._bury()
        if self._ready is None:
            raise self._failure or WorkerCrashed(0, self._during)

    @asynccontextmanager
    async def request(
        self, message: Generate | Embed | LoadAdapter, on_end: Callable[[Done | None], None]
    ) -> AsyncIterator[Answers]:
        """Send a request; yield its answers up to `Done` or `Failed`. Leaving early cancels it within one token.

        A line of answers that ends otherwise means that the worker is gone: `failure()` says why. `on_end` is called
        exactly once, when the worker is done with the request; with None if it failed.
        """
        frame = encode_frame(encode_to_worker(message), MAX_FRAME_BYTES)
        answers = Answers()
        self._answers[message.request] = answers
        self._outstanding[message.request] = on_end
        if self.ended.is_set():
            self._release_all()
        try:
            if len(self._outstanding) == 1:
                self._expect_answer()
            await self._send_frame(frame)
            yield answers
        finally:
            self._answers.pop(message.request, None)
            if message.request in self._outstanding:
                # It did not end by itself: nobody reads on.
                self._taken_back[message.request] = trio.current_time() + self._patience.answer_s
                await self._send(Cancel(message.request))

    async def drop_adapter(self, adapter: str) -> None:
        """Let the worker forget an adapter, once the requests that use it have ended."""
        if adapter in self.adapters:
            del self.adapters[adapter]
            await self._send(DropAdapter(adapter))

    def idle_adapter(self) -> str | None:
        """Return the adapter that no request needs and that was not needed for longest, None where all are needed."""
        return next((adapter for adapter, users in self.adapters.items() if not users), None)

    @contextmanager
    def using(self, adapter: str) -> Iterator[None]:
        """Keep a loaded adapter for the body."""
        self.adapters[adapter] = self.adapters.pop(adapter, 0) + 1
        try:
            yield
        finally:
            if adapter in self.adapters:  # a stop may have taken it
                self.adapters[adapter] = max(0, self.adapters[adapter] - 1)

    def failure(self) -> WorkerFailed:
        """Return why the worker is gone."""
        return self._failure or WorkerCrashed(0, self._during)

    @property
    def was_stopped(self) -> bool:
        """Whether `stop` ended it."""
        return self._stopping

    def stop(self) -> None:
        """End the worker; `ended` is set once it is buried."""
        self._stopping = True
        self._watch.cancel()

    async def _send(self, message: ToWorker) -> None:
        await self._send_frame(encode_frame(encode_to_worker(message), MAX_FRAME_BYTES))

    async def _send_frame(self, frame: bytes) -> None:
        # Shielded, because half a frame would make everything after it unreadable.
        with trio.move_on_after(SEND_PATIENCE_S, shield=True) as patience:
            async with self._sending:
                try:
                    await self._stream.send_all(frame)
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    return  # it is gone; the reader notices and says how it ended
        if patience.cancelled_caught:
            self._give_up(SEND_PATIENCE_S)

    async def _receive(self, task_status: trio.TaskStatus[None]) -> None:
        frames = FrameReader(MAX_FRAME_BYTES)
        try:
            while data := await self._stream.receive_some(READ_BYTES):
                frames.receive_data(data)
                while (frame := frames.next_frame()) is not None:
                    self._take(decode_from_worker(frame), task_status)
                if self._outstanding:
                    self._expect_answer()
            self._hung_up = True
        except trio.BrokenResourceError:
            self._hung_up = True
        except ProtocolError:
            self._failure = WorkerCrashed(0, f"{self._during} (it wrote what no worker writes)")

    def _take(self, message: FromWorker, task_status: trio.TaskStatus[None]) -> None:
        match message:
            case Text() | Progress() | ToolCall() | Vectors():
                self._pass_on(message)
            case Done() | Failed():
                self._release(message.request, message)
            case Status():
                self.status = message
            case Ready() if self._ready is None:
                self._ready = message
                self._expect_nothing()
                task_status.started()
            case LoadFailed(why) if self._ready is None:
                raise ModelRefused(clean_text(why, 300))
            case Ready() | LoadFailed():
                raise FieldInvalid("message.t", "it said before how it loaded")

    def _pass_on(self, message: Text | Progress | ToolCall | Vectors) -> None:
        answers = self._answers.get(message.request)
        if answers is not None and not answers.put(message):
            del self._answers[message.request]  # it is taken back once its reader has gone
            answers.put(Failed(message.request, "internal", "more of the answer waits than is held for a reader"))
            answers.close()

    def _expect_answer(self) -> None:
        self._during = "answering"
        # Signs of life prolong it, but not for a request that nobody waits for and that does not end.
        self._watch.deadline = min(trio.current_time() + self._patience.answer_s, *self._taken_back.values(), math.inf)

    def _expect_nothing(self) -> None:
        self._during = "idle"
        self._watch.deadline = math.inf

    def _release(self, request: int, last: Done | Failed | None) -> None:
        if (answers := self._answers.pop(request, None)) is not None:
            if last is not None:
                answers.put(last)
            answers.close()
        self._taken_back.pop(request, None)
        if (on_end := self._outstanding.pop(request, None)) is not None:
            if not self._outstanding and not self.ended.is_set():
                self._expect_nothing()
            on_end(last if isinstance(last, Done) else None)

    def _release_all(self) -> None:
        for request in list(self._outstanding):
            self._release(request, None)

    def _give_up(self, seconds: float) -> None:
        self._failure = WorkerStalled(seconds, self._during)
        self._watch.cancel()

    async def _bury(self) -> None:
        with trio.CancelScope(shield=True):
            await self._stream.aclose()
            returncode = await trio.to_thread.run_sync(partial(self._process.bury, leaving=self._hung_up))
        if self._failure is None and self._watch.cancelled_caught and not self._stopping:
            silent_s = self._patience.load_s if self._ready is None else self._patience.answer_s
            self._failure = WorkerStalled(silent_s, self._during)
        if self._failure is None and self._stopping:
            self._failure = WorkerStopped(self._during)
        if self._failure is None:
            self._failure = WorkerCrashed(returncode, self._during)
        self.ended.set()
        self._release_all()
