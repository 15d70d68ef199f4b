"""The process that converts weights: `python -I -m node.models.convert FD SOURCE TARGET QUANTIZATION`.

It reads the model in SOURCE and writes `config.json` and canonical `model*.safetensors` into TARGET, one tensor after
the other. It has no network and no keys, and ends as soon as the node hangs up, whether that was asked to stop or was
killed.
"""

import os
import resource
import socket
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, NoReturn

import psutil

from node.models.blas import preload_blas
from node.models.confinement import confine
from node.models.errors import ConversionRefused
from protocol.conversion import (
    MAX_FRAME_BYTES,
    MAX_WHY_BYTES,
    Converted,
    Converting,
    FromConverter,
    Refused,
    encode_from_converter,
)
from protocol.quantization import Quantization
from protocol.wire import encode_frame
from store.errors import StoreError

EXIT_OK: Final = 0
EXIT_NODE_GONE: Final = 0
EXIT_REFUSED: Final = 3
# Of the memory that is free, what a conversion may take for itself; the rest is for everybody else.
MEMORY_SHARE: Final = 0.8
MIN_MEMORY_BYTES: Final = 1 << 30


class Channel:
    """The socket to the node: messages out, and the end of the process when the node hangs up."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def start(self) -> None:
        """Start watching for the node's end."""
        threading.Thread(target=self._watch, name="node", daemon=True).start()

    def send(self, message: FromConverter) -> None:
        """Send one message; waits while the node's buffer is full."""
        try:
            self._connection.sendall(encode_frame(encode_from_converter(message), MAX_FRAME_BYTES))
        except OSError:
            _leave(EXIT_NODE_GONE)

    def _watch(self) -> None:
        # The node never says anything: whatever ends this wait means that nobody wants the result.
        with suppress(OSError):
            self._connection.recv(1)
        _leave(EXIT_NODE_GONE)


def _leave(code: int) -> NoReturn:
    # A node that was killed cannot remove the scratch directory that it made for us; rmdir takes only an empty one.
    with suppress(OSError):
        Path.cwd().rmdir()
    os._exit(code)


def main(arguments: list[str]) -> int:
    """Convert what the arguments say and tell the socket how far it is; return the exit code."""
    descriptor, source, target, quantization = arguments
    confine()
    _bound_memory()
    channel = Channel(socket.socket(fileno=int(descriptor)))
    channel.start()
    preload_blas()
    try:
        tools = _convert(Path(source), Path(target), Quantization(quantization), channel)
    except (ConversionRefused, StoreError, OSError, MemoryError, RuntimeError) as error:
        why = " ".join(str(error).split()) or type(error).__name__
        channel.send(Refused(why[: MAX_WHY_BYTES // 4]))
        return EXIT_REFUSED
    channel.send(Converted(tools))
    return EXIT_OK


def _convert(source: Path, target: Path, quantization: Quantization, channel: Channel) -> Mapping[str, str]:
    # Only now: the BLAS must come first, and the import takes a second.
    from node.models.quantizer import convert_weights

    return convert_weights(
        source, target, quantization, lambda item, done, total: channel.send(Converting(item, done, total))
    )


def _bound_memory() -> None:
    if sys.platform != "linux":  # other kernels do not enforce RLIMIT_DATA
        return
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = max(MIN_MEMORY_BYTES, int(psutil.virtual_memory().available * MEMORY_SHARE))
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (wanted, hard))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
