"""What a worker's end costs: its own requests a clear error, and nothing of the next one."""

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import trio

from node.models.demo import demo_directory
from node.models.errors import ModelNotFound, ModelResting, WorkerCrashed, WorkerStopped
from node.models.requests import GenerateRequest
from node.models.scheduler import Limits
from node.models.service import Models
from node.models.testing import DirectoryLibrary
from node.ports import SystemClock, SystemEntropy

pytestmark = pytest.mark.model

GREEDY = {"temperature": 0}
# More numbers than there is room for: the answer cannot end by itself.
NUMBERS = {"type": "array", "items": {"type": "integer"}, "minItems": 5_000}
ENDLESS: Any = {"prompt": "Once", "raw": True, "format": NUMBERS}
# Each kill costs the start of a process; the long form is every token of an answer.
KILLS = int(os.environ.get("TILENODE_KILLS", "6"))


@asynccontextmanager
async def serving(library: DirectoryLibrary | None = None, limits: Limits | None = None) -> AsyncIterator[Models]:
    if library is None:
        library = DirectoryLibrary()
        library.add("demo", demo_directory())
    service = Models(library, SystemClock(), SystemEntropy(), limits)
    async with trio.open_nursery() as nursery:
        await nursery.start(service.run)
        yield service
        nursery.cancel_scope.cancel()


async def ask(service: Models, text: str, model: str = "demo", client: str = "") -> str:
    request = GenerateRequest(model, messages=[{"role": "user", "content": text}], options=GREEDY, client=client)
    async with service.generate(request) as pieces:
        return "".join([piece.text async for piece in pieces])


async def endless_until_killed(service: Models, pieces_before: int) -> None:
    request = GenerateRequest("demo", **ENDLESS)
    async with service.generate(request) as pieces:
        for _ in range(pieces_before):
            await anext(pieces)
        os.kill(service.worker_pids()[0], signal.SIGKILL)
        async for _ in pieces:
            pass


async def test_a_worker_killed_between_any_two_tokens_costs_only_what_it_was_asked() -> None:
    async with serving() as service:
        for pieces in range(KILLS):
            await service.load("demo", None)
            with pytest.raises(WorkerCrashed, match="SIGKILL while answering"):
                await endless_until_killed(service, pieces)
            assert await ask(service, "Hello!") == "Hello! How can I help you?"
        assert service.metrics.failures["WorkerCrashed"] == KILLS


async def test_every_request_of_a_batch_hears_of_the_crash_and_the_line_goes_on() -> None:
    ends: list[str] = []

    async def endless(service: Models, started: trio.Event) -> None:
        try:
            async with service.generate(GenerateRequest("demo", **ENDLESS)) as pieces:
                async for _ in pieces:
                    started.set()
        except WorkerCrashed:
            ends.append("crashed")

    async def waiting(service: Models) -> None:
        ends.append(await ask(service, "What is 7 + 5?"))

    async with serving(limits=Limits(parallel=3)) as service, trio.open_nursery() as nursery:
        events = [trio.Event() for _ in range(3)]
        for event in events:
            nursery.start_soon(endless, service, event)
        for event in events:
            await event.wait()
        for _ in range(2):
            nursery.start_soon(waiting, service)
        # Others stream meanwhile, so the tasks are never all at rest: the line itself is asked.
        with trio.fail_after(20):
            while sum(seat.turns.waiting for seat in service.scheduler.seats()) < 2:
                await trio.sleep(0.001)
        os.kill(service.worker_pids()[0], signal.SIGKILL)
    assert sorted(ends) == ["7 + 5 = 12.", "7 + 5 = 12.", "crashed", "crashed", "crashed"]


async def test_a_model_that_crashes_each_time_rests_and_the_others_go_on() -> None:
    library = DirectoryLibrary()
    library.add("demo", demo_directory())
    library.add("two", demo_directory())
    async with serving(library) as service:
        for _ in range(2):
            await service.load("two", None)
            (pid,) = service.worker_pids()
            os.kill(pid, signal.SIGKILL)
            with trio.fail_after(20):
                while service.loaded():
                    await trio.sleep(0.01)
        with pytest.raises(ModelResting, match="model two:latest failed 2 times in a row") as caught:
            await ask(service, "Hello!", "two")
        assert 0 < caught.value.seconds <= 1
        assert await ask(service, "Hello!") == "Hello! How can I help you?"
        await trio.sleep(caught.value.seconds)
        assert await ask(service, "Hello!", "two") == "Hello! How can I help you?"


async def test_clients_that_let_a_model_go_and_run_it_at_once_get_answers_or_are_told() -> None:
    counts = {"answered": 0, "told": 0}

    async def run(service: Models) -> None:
        for _ in range(4):
            try:
                assert await ask(service, "Hello!") == "Hello! How can I help you?"
                counts["answered"] += 1
            except WorkerStopped:
                counts["told"] += 1

    async def let_go(service: Models) -> None:
        for _ in range(3):
            await trio.sleep(0.4)
            await service.stop("demo")

    async with serving() as service:
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(run, service)
            nursery.start_soon(let_go, service)
        assert sum(counts.values()) == 12
        assert await ask(service, "Hello!") == "Hello! How can I help you?"
        assert len(service.worker_pids()) == 1


async def test_a_model_whose_files_go_while_it_is_asked_is_an_error_and_no_end(tmp_path: Path) -> None:
    class Vanishing(DirectoryLibrary):
        async def directory(self, digest: object) -> Path:
            raise ModelNotFound("demo")

    library = Vanishing()
    library.add("demo", demo_directory())
    async with serving(library) as service:
        for _ in range(2):
            with pytest.raises(ModelNotFound):
                await ask(service, "Hello!")
        assert service.loaded() == []


async def test_requests_of_many_kinds_at_once_are_each_answered_and_nothing_stays() -> None:
    questions = {"Hello!": "Hello! How can I help you?", "What is 7 + 5?": "7 + 5 = 12."}
    wrong: list[str] = []

    async def one(service: Models, number: int) -> None:
        question, expected = list(questions.items())[number % 2]
        if await ask(service, question, client=str(number % 3)) != expected:
            wrong.append(question)

    async def leaves(service: Models, number: int) -> None:
        request = GenerateRequest("demo", options={"seed": number}, **ENDLESS)
        async with service.generate(request) as pieces:
            for _ in range(number % 5):
                await anext(pieces)

    async with serving(limits=Limits(parallel=4, waiting=100)) as service:
        with trio.fail_after(200):
            async with trio.open_nursery() as nursery:
                for number in range(30):
                    nursery.start_soon(one, service, number)
                    nursery.start_soon(leaves, service, number)
        assert wrong == []
        with trio.fail_after(20):
            while any(seat.turns.taken for seat in service.scheduler.seats()):
                await trio.sleep(0.01)
        (pid,) = service.worker_pids()
        assert psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
