"""The conversion of a model's weights, driven from a build: one process, started, heard and ended."""

import math
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final

import trio

from node.models.errors import describe_exit
from node.models.process import worker_environment
from protocol.conversion import MAX_FRAME_BYTES, Converted, Converting, Refused, decode_from_converter
from protocol.errors import ProtocolError
from protocol.quantization import Quantization
from protocol.text import clean_text
from protocol.wire import FrameReader
from store.errors import ConversionFailed, QuantizationRefused

READ_BYTES: Final = 64 * 1024
# A tensor of some gigabytes on a slow processor takes minutes; longer silence is a hang.
PATIENCE_S: Final = 900.0
BURIAL_S: Final = 10.0
REPORT_EVERY_S: Final = 0.1

Emit = Callable[[dict[str, object]], Awaitable[None]]


class Conversion:
    """Converts weights for one build; made in the event loop, called from the build's thread."""

    def __init__(self, emit: Emit) -> None:
        """`emit` is awaited with each progress event."""
        self._emit = emit
        self._told_s = -math.inf
        self._started_s = 0.0

    def convert(self, source_dir: Path, target_dir: Path, quantization: Quantization) -> Mapping[str, str]:
        """Run the process to its end; see `store.build.Convert`.

        When the build's caller leaves, the process is killed and `trio.Cancelled` is raised here.
        """
        return trio.from_thread.run(self._run, source_dir, target_dir, quantization)

    async def _run(self, source_dir: Path, target_dir: Path, quantization: Quantization) -> Mapping[str, str]:
        await self._emit({"status": f"starting the conversion to {quantization}"})
        with tempfile.TemporaryDirectory(prefix="tilenode-convert-", ignore_cleanup_errors=True) as scratch:
            process, stream = _start(Path(scratch), source_dir, target_dir, quantization)
            tools: Mapping[str, str] | None = None
            ended = False
            try:
                with trio.move_on_after(PATIENCE_S) as watch:
                    tools = await self._listen(stream, quantization, watch)
                    ended = True
            finally:
                if not ended:
                    process.kill()
                with trio.CancelScope(shield=True):
                    await stream.aclose()
                    code = await trio.to_thread.run_sync(_bury, process)
        if watch.cancelled_caught:
            raise ConversionFailed(f"its process said nothing for {PATIENCE_S:.0f} s")
        if tools is None:
            raise ConversionFailed(f"its process {describe_exit(code)}")
        return tools

    async def _tell(self, quantization: Quantization, item: str, done: int, total: int) -> None:
        now_s = trio.current_time()
        if done == 0:
            self._started_s = now_s
        if now_s - self._told_s < REPORT_EVERY_S:
            return
        self._told_s = now_s
        await self._emit(
            {
                "status": f"converting to {quantization}",
                "source": clean_text(item, 200),
                "completed": done,
                "total": total,
                "rate": int(done / max(now_s - self._started_s, REPORT_EVERY_S)),
            }
        )

    async def _listen(
        self, stream: trio.SocketStream, quantization: Quantization, watch: trio.CancelScope
    ) -> Mapping[str, str] | None:
        """Pass progress on and return the tools that did the work; None when the process ended without a word."""
        frames = FrameReader(MAX_FRAME_BYTES)
        try:
            while data := await stream.receive_some(READ_BYTES):
                watch.deadline = trio.current_time() + PATIENCE_S
                frames.receive_data(data)
                while (frame := frames.next_frame()) is not None:
                    match decode_from_converter(frame):
                        case Converting(item, done, total):
                            await self._tell(quantization, item, done, total)
                        case Converted(tools):
                            return {clean_text(tool, 80): clean_text(words, 200) for tool, words in tools.items()}
                        case Refused(why):
                            raise QuantizationRefused(str(quantization), clean_text(why, 300))
        except trio.BrokenResourceError:
            return None
        except ProtocolError:
            raise ConversionFailed("its process wrote what no converter writes") from None
        return None


def _start(
    scratch: Path, source_dir: Path, target_dir: Path, quantization: Quantization
) -> tuple["subprocess.Popen[bytes]", trio.SocketStream]:
    ours, theirs = socket.socketpair()
    with theirs:
        try:
            process = subprocess.Popen(  # noqa: S603 - our own interpreter on our own module
                [
                    sys.executable,
                    "-I",
                    "-m",
                    "node.models.convert",
                    str(theirs.fileno()),
                    str(source_dir),
                    str(target_dir),
                    str(quantization),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                cwd=scratch,
                env=worker_environment(scratch),
                start_new_session=True,  # Ctrl-C at the terminal is for the node, which then ends the process
            )
        except OSError as error:
            ours.close()
            raise ConversionFailed(f"its process did not start: {error.strerror}") from error
    return process, trio.SocketStream(trio.socket.from_stdlib_socket(ours))


def _bury(process: "subprocess.Popen[bytes]") -> int:
    # Our side is closed: a process that is done or not wanted any more ends at once.
    try:
        return process.wait(timeout=BURIAL_S)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        return process.wait()
