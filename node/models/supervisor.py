"""One model worker process, watched: started, spoken to, and ended when it hangs or is no longer wanted."""

import math
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from node.models.errors import (
    ModelRefused,
    WorkerCrashed,
    WorkerFailed,
    WorkerNotStarted,
    WorkerStalled,
    WorkerStopped,
)
from protocol.errors import ProtocolError
from protocol.text import clean_text
from protocol.wire import FrameReader, encode_frame
from protocol.worker.codec import decode_from_worker, encode_to_worker
from protocol.worker.messages import (
    MAX_FRAME_BYTES,
    Cancel,
    Done,
    Embed,
    Failed,
    FromWorker,
    Generate,
    Load,
    LoadFailed,
    Progress,
    Ready,
    Text,
    ToolCall,
    ToWorker,
    Vectors,
)

READ_BYTES: Final = 256 * 1024
SEND_PATIENCE_S: Final = 10.0

Answer = Progress | Text | ToolCall | Vectors | Done | Failed


@dataclass(frozen=True)
class Patience:
    """How long a worker may be silent: while it loads, and between two signs of life while it answers."""

    load_s: float = 600.0
    answer_s: float = 300.0


class Worker:
    """A worker process with one model. `run` is its whole life; the other methods speak to it meanwhile."""

    def __init__(self, directory: Path, patience: Patience) -> None:
        self._directory = directory
        self._patience = patience
        self._watch = trio.CancelScope()
        self._sending = trio.Lock()
        self._answers: dict[int, trio.MemorySendChannel[Answer]] = {}
        self._outstanding: dict[int, Callable[[Done | None], None]] = {}
        self._stream: trio.SocketStream | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._failure: WorkerFailed | None = None
        self._ready: Ready | None = None
        self._during = "starting"
        self._hung_up = False
        self._stopping = False
        self.ended = trio.Event()

    @property
    def ready(self) -> Ready:
        """What the worker said once the model was loaded."""
        assert self._ready is not None, "asked before run() reported started"
        return self._ready

    @property
    def pid(self) -> int:
        """The process id of the worker."""
        assert self._process is not None, "asked before run() reported started"
        return self._process.pid

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Live the worker's life: start it, load the model, pass its answers on, and see it buried.

        Reports started once the model is loaded. Returns when the process has ended; cancelling ends it.

        Raises:
            ModelRefused: the worker will not serve these files (before started).
            WorkerFailed: the worker ended or hung before the model was loaded (before started).
        """
        with ExitStack() as kept:
            try:
                scratch = tempfile.TemporaryDirectory(prefix="tilenode-worker-", ignore_cleanup_errors=True)
                self._start(Path(kept.enter_context(scratch)))
            except OSError as error:
                self.ended.set()
                raise WorkerNotStarted(error.strerror or type(error).__name__) from error
            try:
                await self._send(Load(str(self._directory)))
                self._expect_sign("loading", self._patience.load_s)
                with self._watch:
                    await self._receive(task_status)
            finally:
                await self._bury()
        if self._ready is None:
            raise self._failure or WorkerCrashed(0, self._during)

    @asynccontextmanager
    async def request(
        self, message: Generate | Embed, on_end: Callable[[Done | None], None]
    ) -> AsyncIterator[trio.MemoryReceiveChannel[Answer]]:
        """Send a request; yield its answers up to `Done` or `Failed`. Leaving early cancels it within one token.

        The channel holds what the reader has not taken yet, so that a slow reader never keeps the model from the next
        request; the context window bounds it. A channel that ends otherwise means that the worker is gone: `failure()`
        says why. `on_end` is called exactly once, when the worker is done with the request; with None if it failed.
        """
        frame = encode_frame(encode_to_worker(message), MAX_FRAME_BYTES)
        send, receive = trio.open_memory_channel[Answer](math.inf)
        self._answers[message.request] = send
        self._outstanding[message.request] = on_end
        if self.ended.is_set():
            self._release_all()
        try:
            async with receive:
                self._expect_sign("answering", self._patience.answer_s)
                await self._send_frame(frame)
                yield receive
        finally:
            if self._answers.pop(message.request, None) is not None:
                # It did not end by itself: nobody reads on.
                await self._send(Cancel(message.request))

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

    def _start(self, scratch: Path) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter on our own module
                [sys.executable, "-I", "-m", "node.models.worker", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                # What libraries print may hold words of a prompt: nobody keeps it.
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                cwd=scratch,
                env=worker_environment(scratch),
                start_new_session=True,  # Ctrl-C at the terminal is for the node, which then ends the worker
            )
        self._stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))

    async def _send(self, message: ToWorker) -> None:
        await self._send_frame(encode_frame(encode_to_worker(message), MAX_FRAME_BYTES))

    async def _send_frame(self, frame: bytes) -> None:
        assert self._stream is not None
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
        assert self._stream is not None
        try:
            while data := await self._stream.receive_some(READ_BYTES):
                frames.receive_data(data)
                while (frame := frames.next_frame()) is not None:
                    self._take(decode_from_worker(frame), task_status)
            self._hung_up = True
        except trio.BrokenResourceError:
            self._hung_up = True
        except ProtocolError:
            self._failure = WorkerCrashed(0, f"{self._during} (it wrote what no worker writes)")

    def _take(self, message: FromWorker, task_status: trio.TaskStatus[None]) -> None:
        match message:
            case Ready():
                self._ready = message
                self._expect_sign("idle", math.inf)
                task_status.started()
            case LoadFailed(why):
                raise ModelRefused(clean_text(why, 300))
            case Done() | Failed():
                self._pass_on(message)
                self._release(message.request, message if isinstance(message, Done) else None)
                if not self._outstanding:
                    self._expect_sign("idle", math.inf)
            case Progress() | Text() | ToolCall() | Vectors():
                self._expect_sign("answering", self._patience.answer_s)
                self._pass_on(message)

    def _pass_on(self, message: Answer) -> None:
        channel = self._answers.get(message.request)
        if channel is not None:
            try:
                channel.send_nowait(message)
            except trio.BrokenResourceError:
                return  # the reader has just left; its Cancel is on the way

    def _expect_sign(self, during: str, seconds: float) -> None:
        self._during = during
        self._watch.deadline = trio.current_time() + seconds

    def _release(self, request: int, done: Done | None) -> None:
        if (channel := self._answers.pop(request, None)) is not None:
            channel.close()
        if (on_end := self._outstanding.pop(request, None)) is not None:
            on_end(done)

    def _release_all(self) -> None:
        for request in list(self._outstanding):
            self._release(request, None)

    def _give_up(self, seconds: float) -> None:
        self._failure = WorkerStalled(seconds, self._during)
        self._watch.cancel()

    async def _bury(self) -> None:
        process, stream = self._process, self._stream
        assert process is not None
        assert stream is not None
        with trio.CancelScope(shield=True):
            await stream.aclose()
            if not self._hung_up:
                process.kill()
            returncode = await trio.to_thread.run_sync(_wait, process)
        if self._failure is None and self._watch.cancelled_caught and not self._stopping:
            silent_s = self._patience.load_s if self._ready is None else self._patience.answer_s
            self._failure = WorkerStalled(silent_s, self._during)
        if self._failure is None and self._stopping:
            self._failure = WorkerStopped(self._during)
        if self._failure is None:
            self._failure = WorkerCrashed(returncode, self._during)
        self.ended.set()
        self._release_all()


def _wait(process: "subprocess.Popen[bytes]") -> int:
    try:
        return process.wait(timeout=SEND_PATIENCE_S)
    except subprocess.TimeoutExpired:
        # It closed its socket, or we did, and it lives on all the same.
        os.kill(process.pid, signal.SIGKILL)
        return process.wait()


def worker_environment(scratch: Path) -> Mapping[str, str]:
    """Return all of the environment that a process for a stranger's model gets; `scratch` is its home."""
    # Nothing of the node's own environment: no home, no proxies, no tokens, no library overrides.
    return {
        "PATH": os.defpath,
        "HOME": str(scratch),
        "TMPDIR": str(scratch),
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "TOKENIZERS_PARALLELISM": "false",
        "LANG": "C.UTF-8",
        # On Linux MLX would call a C++ compiler at the first token: half a second for no gain on a CPU.
        **({"MLX_DISABLE_COMPILE": "1"} if sys.platform == "linux" else {}),
    }
