"""A worker process started ahead of its model: it reads its libraries while the model is still being looked for."""

from typing import Final

import trio

from node.models.errors import WorkerNotStarted
from node.models.process import WorkerProcess

# A spare process that nobody came for ends after so long.
KEPT_S: Final = 60.0


class Spare:
    """At most one process that waits for its model."""

    def __init__(self, process: WorkerProcess | None = None) -> None:
        self._process = process
        self._changed = trio.Event()

    def prepare(self) -> None:
        """Start a process where none waits; what keeps it from starting is told to who takes it."""
        if self._process is None:
            try:
                self._process = WorkerProcess.start()
            except WorkerNotStarted:
                return
            self._notify()

    def take(self) -> WorkerProcess:
        """Return a process to load a model into: the one that waits, else a new one.

        Raises:
            WorkerNotStarted: the system does not let it start.
        """
        process, self._process = self._process, None
        self._notify()
        if process is not None:
            if process.process.poll() is None:
                return process
            process.connection.close()
            process.bury(leaving=True)  # it has ended already
        return WorkerProcess.start()

    async def run(self) -> None:
        """End what nobody takes; runs until cancelled, and then leaves nothing behind."""
        try:
            while True:
                changed = self._changed
                if self._process is None:
                    await changed.wait()
                    continue
                with trio.move_on_after(KEPT_S) as unused:
                    await changed.wait()
                if unused.cancelled_caught:
                    await self._end()
        finally:
            with trio.CancelScope(shield=True):
                await self._end()

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.connection.close()
            await trio.to_thread.run_sync(lambda: process.bury(leaving=False))

    def _notify(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
