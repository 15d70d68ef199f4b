"""The model worker's own process: `python -I -m node.models.worker FD`.

One thread, the main one, owns MLX; a second one reads commands, so that a cancellation is seen between two tokens; a
third makes text of tokens and sends it, while MLX computes.
Everything else about a crash in here is the supervisor's business. With `--check` in place of FD it only says whether
this machine can run models.
"""

import os
import queue
import socket
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

from node.imports import without_collections
from node.models.blas import LIBRARIES, preload_blas
from node.models.confinement import confine
from node.models.errors import ModelError, ModelRefused
from protocol.wire import FrameReader, encode_frame
from protocol.worker.codec import decode_to_worker, encode_from_worker
from protocol.worker.messages import (
    MAX_FRAME_BYTES,
    MAX_WHY_BYTES,
    Cancel,
    DropAdapter,
    Embed,
    Failed,
    FromWorker,
    Generate,
    Load,
    LoadAdapter,
    LoadFailed,
    ToWorker,
)

if TYPE_CHECKING:
    from node.models.engine.answer import Answerer
    from node.models.engine.embedding import EmbeddingAnswerer

READ_BYTES: Final = 256 * 1024
SWITCH_S: Final = 0.0005
EXIT_NODE_GONE: Final = 0
EXIT_LOAD_FAILED: Final = 3
EXIT_BAD_FRAME: Final = 4


class Channel:
    """The socket to the node: commands in by a thread of their own, messages out from the main thread."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._commands: queue.SimpleQueue[ToWorker] = queue.SimpleQueue()
        self._cancelled: set[int] = set()
        self._sending = threading.Lock()

    def start(self) -> None:
        """Start reading commands; the process ends when the node closes its side."""
        threading.Thread(target=self._read, name="commands", daemon=True).start()

    def next_command(self) -> ToWorker:
        """Return the next command, waiting for it."""
        return self._commands.get()

    def waiting_command(self) -> ToWorker | None:
        """Return the next command if there is one."""
        with suppress(queue.Empty):
            return self._commands.get_nowait()
        return None

    def is_cancelled(self, request: int) -> bool:
        """Return whether the node no longer wants `request`."""
        return request in self._cancelled

    def forget(self, request: int) -> None:
        """Drop what is remembered about a request that ended."""
        self._cancelled.discard(request)

    def send(self, message: FromWorker) -> None:
        """Send one message; waits while the node's buffer is full."""
        self.send_all([message])

    def send_all(self, messages: Sequence[FromWorker]) -> None:
        """Send messages, together; waits while the node's buffer is full."""
        frames = [encode_frame(encode_from_worker(message), MAX_FRAME_BYTES) for message in messages]
        try:
            with self._sending:
                self._connection.sendall(b"".join(frames))
        except OSError:
            _leave(EXIT_NODE_GONE)

    def _read(self) -> None:
        code = EXIT_BAD_FRAME
        frames = FrameReader(MAX_FRAME_BYTES)
        try:
            while data := self._connection.recv(READ_BYTES):
                frames.receive_data(data)
                while (frame := frames.next_frame()) is not None:
                    self._take(decode_to_worker(frame))
            code = EXIT_NODE_GONE
        except OSError:
            code = EXIT_NODE_GONE
        finally:
            # Whatever it was: a worker that hears nothing is of no use. The main thread may be deep inside MLX, so
            # the process ends without asking it.
            _leave(code)

    def _take(self, command: ToWorker) -> None:
        if isinstance(command, Cancel):
            self._cancelled.add(command.request)
        self._commands.put(command)


def _leave(code: int) -> NoReturn:
    # A node that was killed cannot remove the scratch directory that it made for us; rmdir takes only an empty one.
    with suppress(OSError):
        Path.cwd().rmdir()
    os._exit(code)


def main(arguments: list[str]) -> int:
    """Run the worker on the socket whose number is the only argument; return its exit code."""
    if arguments == ["--check"]:
        return _check()
    notes = confine()
    channel = Channel(socket.socket(fileno=int(arguments[0])))
    channel.start()
    answerer = _load(channel, notes)
    if answerer is None:
        return EXIT_LOAD_FAILED
    from node.models.engine.embedding import EmbeddingAnswerer  # loaded by now, after the BLAS

    if isinstance(answerer, EmbeddingAnswerer):
        answerer.serve(channel)
        return EXIT_BAD_FRAME
    return _serve(channel, answerer)


def _serve(channel: Channel, answerer: "Answerer") -> int:
    """Answer all requests that come; return the exit code."""
    # Text is made while MLX computes: whoever has the interpreter gives it up soon.
    sys.setswitchinterval(SWITCH_S)
    while True:
        command = channel.waiting_command()
        if command is None:
            if answerer.busy:
                answerer.step()
                continue
            answerer.idle()
            command = channel.next_command()
        match command:
            case Generate(request=number):
                answerer.take(command, cancelled=channel.is_cancelled(number))
            case Cancel(number):
                answerer.cancel(number)
                channel.forget(number)
            case LoadAdapter():
                answerer.load_adapter(command)
            case DropAdapter(adapter):
                answerer.drop_adapter(adapter)
            case Embed(request=number):
                channel.send(Failed(number, "capability", "embed"))
            case Load():
                return EXIT_BAD_FRAME


def _fast_blas_note() -> str | None:
    # Before the first import of mlx: it takes the BLAS that it finds loaded.
    if preload_blas() is None and sys.platform == "linux":
        return f"{LIBRARIES[0]} is missing, so models run slowly (Debian: apt install libopenblas0-pthread)"
    return None


def _load(channel: Channel, notes: tuple[str, ...]) -> "Answerer | EmbeddingAnswerer | None":
    blas_note = _fast_blas_note()
    notes += (blas_note,) if blas_note else ()
    try:
        # Only now, because the BLAS must come first; and before it is known which model, because it takes a second in
        # which the node can look for the model's files.
        with without_collections():
            from node.models.engine.answer import open_answerer
            from node.models.engine.embedding import embeds, open_embedding_answerer

        command = channel.next_command()
        if not isinstance(command, Load):
            return None
        if embeds(Path(command.directory)):
            embedding = open_embedding_answerer(command, channel.send, channel.is_cancelled, time.monotonic_ns)
            channel.send(embedding.ready(notes))
            return embedding
        answerer = open_answerer(command, channel.send_all, time.monotonic_ns)
    except (ModelError, ImportError, OSError) as error:
        reason = error.reason if isinstance(error, ModelRefused) else f"{type(error).__name__}: {error}"
        channel.send(LoadFailed(reason[: MAX_WHY_BYTES // 4]))
        return None
    channel.send(answerer.ready(notes))
    return answerer


def _check() -> int:
    notes = confine()
    blas_note = _fast_blas_note()
    import node.models.engine.engine  # noqa: F401 - the import is the check

    for note in (*notes, *((blas_note,) if blas_note else ())):
        print(note)  # noqa: T201 - a person runs --check by hand
    print("ok: this machine can run models")  # noqa: T201 - this command answers on its standard output
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
