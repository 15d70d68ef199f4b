"""The API as it runs in the node: Hypercorn's trio worker on a real port, a real model worker, in its own thread."""

import logging
import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial

import pytest
import trio
import trio.testing

from node.api.app import build_api
from node.api.guard import loopback_hosts
from node.control.server import api_url, bind_api_socket, serve_http
from node.models.demo import demo_directory
from node.models.scheduler import Limits
from node.models.service import Models
from node.models.testing import DirectoryLibrary
from node.ports import SystemClock, SystemEntropy
from protocol.modelfile import Modelfile


class _AnswersEnded(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: queue.SimpleQueue[dict[str, object]] = queue.SimpleQueue()

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage() == "answer_ended":
            self.records.put(vars(record))


@dataclass
class ServedApi:
    """A running API; its methods may be called from the test's thread."""

    url: str
    port: int
    models: Models
    token: trio.lowlevel.TrioToken
    stop: trio.Event
    ended: _AnswersEnded = field(default_factory=_AnswersEnded)

    def worker_pids(self) -> list[int]:
        """Return the process ids of the model workers."""
        return trio.from_thread.run_sync(self.models.worker_pids, trio_token=self.token)

    def unload(self) -> None:
        """End the demo model's worker."""
        trio.from_thread.run(self.models.stop, "demo", trio_token=self.token)

    def only_demo(self) -> None:
        """Have the demo model in memory, and no other."""
        trio.from_thread.run(self.models.stop, "loud:v2", trio_token=self.token)
        trio.from_thread.run(self.models.load, "demo", None, trio_token=self.token)

    def wait_until_asked(self) -> None:
        """Return once a question has reached the worker's queue."""
        trio.from_thread.run(self._asked, trio_token=self.token)

    async def _asked(self) -> None:
        while not any(seat.users for seat, _ in self.models.scheduler.loaded()):
            await trio.sleep(0.01)
        await trio.testing.wait_all_tasks_blocked()

    def next_ended(self) -> dict[str, object]:
        """Return what the service said of the next answer that ended."""
        return self.ended.records.get(timeout=20)


@pytest.fixture(scope="module")
def api() -> Iterator[ServedApi]:
    started: queue.SimpleQueue[ServedApi] = queue.SimpleQueue()
    thread = threading.Thread(target=lambda: trio.run(_run, started), name="api")
    thread.start()
    served = started.get(timeout=20)
    logger = logging.getLogger("tilenode.models")
    level = logger.level
    logger.addHandler(served.ended)
    logger.setLevel(logging.INFO)
    yield served
    logger.setLevel(level)
    logger.removeHandler(served.ended)
    trio.from_thread.run_sync(served.stop.set, trio_token=served.token)
    thread.join()


@pytest.fixture(autouse=True)
def _nothing_left_from_before(api: ServedApi) -> None:
    while not api.ended.records.empty():
        api.ended.records.get()


async def _run(started: "queue.SimpleQueue[ServedApi]") -> None:
    library = DirectoryLibrary()
    library.add("demo", demo_directory(), modified_s=1_700_000_000)
    loud = Modelfile(
        ".",
        parameters=(("temperature", 0), ("stop", "END")),
        system="Always answer in upper case.",
        licenses=("MIT", "Apache-2.0"),
    )
    library.add("loud:v2", demo_directory(), loud, modified_s=1_600_000_000)
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        models = Models(library, SystemClock(), SystemEntropy(), Limits(waiting=2, parallel=1))
        await nursery.start(models.run)
        listener = bind_api_socket("127.0.0.1", 0, or_any_port=False)
        url, port = api_url(listener), listener.getsockname()[1]
        hosts = partial(loopback_hosts, port)
        app = build_api(models, SystemClock(), SystemEntropy(), version="9.8.7", hosts=hosts)
        await nursery.start(serve_http, app, listener, 1.0, stop)
        started.put(ServedApi(url, port, models, trio.lowlevel.current_trio_token(), stop))
        await stop.wait()
        nursery.cancel_scope.cancel()
