"""The node as a process: log files, signals, the ready line, and a stop that is graceful and bounded."""

import logging
import os
import resource
import signal
import threading
from collections.abc import Callable, Mapping
from typing import Any, Final

import trio

from node.app import run_node
from node.cli.exit_codes import ExitCode
from node.config import Config, make_private_directory, silence_libraries
from node.failures import first_cause
from node.models.process import WorkerProcess

# What the graceful stop may take beyond its own deadline before the process simply ends. Ending so loses nothing:
# every write here survives a kill at any point.
FORCED_EXIT_AFTER_S: Final = 5.0
# Connections, peers, models, the store: a login item on a Mac starts with 256, and 10,240 are the most there.
OPEN_FILES: Final = 4096
_log = logging.getLogger("tilenode.daemon")


def run_daemon(config: Config, ready: Callable[[Mapping[str, Any]], None], worker: WorkerProcess | None = None) -> None:
    """Run the node of `config` until a signal or the control API stops it; call `ready` once it accepts work.

    `worker` is a worker process that was started ahead, for the first model.

    Raises:
        NodeError, StoreError, IdentityError: it cannot start, and why.
    """
    os.umask(0o077)  # whatever this process writes is its owner's alone
    silence_libraries()
    _raise_open_files()
    make_private_directory(config.home.root)
    try:
        trio.run(_run, config, ready, worker)
    except ExceptionGroup as group:  # not except*: before Python 3.11.4 what it raises comes in a group again
        raise first_cause(group) from None


def _raise_open_files() -> None:
    """Let this process have `OPEN_FILES` open, where the system allows so many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


async def _run(config: Config, ready: Callable[[Mapping[str, Any]], None], worker: WorkerProcess | None) -> None:
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        await nursery.start(_watch_signals, stop)
        nursery.start_soon(_bound_the_stop, stop, config.stop_grace_s)
        await run_node(config, ready, stop, worker)
        nursery.cancel_scope.cancel()


async def _watch_signals(stop: trio.Event, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
    """Turn the first SIGTERM or SIGINT into a graceful stop; the second one ends the process."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        async for number in signals:
            if stop.is_set():
                _log.warning("stop_forced", extra={"reason": "second signal"})
                os._exit(128 + number)
            _log.info("stop_requested", extra={"signal": signal.Signals(number).name})
            stop.set()


async def _bound_the_stop(stop: trio.Event, grace_s: float) -> None:
    """End the process where a graceful stop takes too long: from a thread, since the event loop may be what hangs."""
    await stop.wait()
    timer = threading.Timer(grace_s + FORCED_EXIT_AFTER_S, _end_process)
    timer.daemon = True
    timer.start()


def _end_process() -> None:
    _log.warning("stop_forced", extra={"reason": "the graceful stop took too long"})
    os._exit(ExitCode.NOT_RUNNING)
