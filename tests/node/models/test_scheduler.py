"""Which model is in memory, who gives way to whom, and how failures rest: on a clock of the test's own."""

import math

import pytest
import trio
import trio.testing

from node.models.errors import ModelResting, ModelTooLarge, ServerBusy, WorkerCrashed, WorkerStopped
from node.models.memory import default_budget
from node.models.residency import UNDISTURBED_S
from node.models.scheduler import UNTOUCHED
from tests.node.models.seats import MB, Stage, crash, model

A, B, C = model("a"), model("b"), model("c")
Clock = trio.testing.MockClock


async def test_idle_models_go_when_their_time_is_up(autojump_clock: Clock) -> None:
    stage = Stage(keep_alive_s=300.0)
    async with stage.running():
        await stage.ask(A)
        await stage.ask(B, keep_alive_s=10)
        await stage.ask(C, keep_alive_s=-1)
        await trio.sleep(11)
        assert stage.loaded() == ["a", "c"]
        await trio.sleep(290)
        assert stage.loaded() == ["c"]
        await trio.sleep(10**6)
        assert stage.loaded() == ["c"]
        await stage.ask(C, keep_alive_s=0)
        await trio.testing.wait_all_tasks_blocked()
        assert stage.loaded() == []


async def test_a_keep_alive_stays_until_another_one_is_named(autojump_clock: Clock) -> None:
    stage = Stage(keep_alive_s=300.0)
    async with stage.running():
        await stage.ask(A, keep_alive_s=-1)
        await stage.ask(A)
        await trio.sleep(10**5)
        assert stage.loaded() == ["a"]
        await stage.ask(A, keep_alive_s=5)
        await stage.ask(A)
        await trio.sleep(6)
        assert stage.loaded() == []


async def test_a_look_that_leaves_no_trace_prolongs_nothing(autojump_clock: Clock) -> None:
    stage = Stage(keep_alive_s=10.0)
    async with stage.running():
        await stage.ask(A)
        await trio.sleep(8)
        await stage.ask(A, keep_alive_s=UNTOUCHED)
        await trio.sleep(3)
        assert stage.loaded() == []


async def test_the_one_that_was_idle_longest_gives_way(autojump_clock: Clock) -> None:
    stage = Stage(loaded=2)
    async with stage.running():
        for each in (A, B, A, C):
            await stage.ask(each)
            await trio.sleep(1)
        assert stage.loaded() == ["a", "c"]


async def test_a_busy_model_is_left_alone_for_a_while_and_then_gives_way_when_its_answers_have_ended(
    autojump_clock: Clock,
) -> None:
    stage = Stage(loaded=1)
    first, second = trio.Event(), trio.Event()
    async with stage.running(), trio.open_nursery() as nursery:
        nursery.start_soon(stage.ask, A, first)
        await trio.testing.wait_all_tasks_blocked()
        began = trio.current_time()
        nursery.start_soon(stage.ask, B)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(stage.ask, A, second)
        await trio.sleep(UNDISTURBED_S + 1)
        nursery.start_soon(stage.ask, A)  # it waits for the next place of its model
        await trio.testing.wait_all_tasks_blocked()
        assert stage.started == ["a"]
        first.set()
        await trio.testing.wait_all_tasks_blocked()
        assert stage.started == ["a"], "an answer is never cut off for another model"
        second.set()
    assert stage.started == ["a", "b", "a"]
    assert trio.current_time() - began < 4 * UNDISTURBED_S


async def test_everybody_waits_for_one_load(autojump_clock: Clock) -> None:
    stage = Stage()
    stage.loading["a"] = trio.Event()
    async with stage.running(), trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(stage.ask, A)
        await trio.testing.wait_all_tasks_blocked()
        stage.loading["a"].set()
    assert stage.started == ["a"]


async def test_a_load_goes_on_when_who_asked_for_it_leaves(autojump_clock: Clock) -> None:
    stage = Stage()
    stage.loading["a"] = trio.Event()
    async with stage.running():
        with trio.move_on_after(1):
            await stage.ask(A)
        stage.loading["a"].set()
        await trio.testing.wait_all_tasks_blocked()
        assert stage.loaded() == ["a"]


async def test_a_load_that_is_stopped_says_so_to_who_waits(autojump_clock: Clock) -> None:
    stage = Stage()
    stage.loading["a"] = trio.Event()
    async with stage.running(), trio.open_nursery() as nursery:

        async def asked() -> None:
            with pytest.raises(WorkerStopped, match="unloaded while loading"):
                await stage.ask(A)

        nursery.start_soon(asked)
        await trio.testing.wait_all_tasks_blocked()
        assert await stage.scheduler.stop(A)
    assert stage.loaded() == []


async def test_repeated_failures_rest_longer_and_longer_until_an_answer(autojump_clock: Clock) -> None:
    stage = Stage()
    async with stage.running():
        for rest_s in (0, 1, 2, 4, 8, 16, 32, 60, 60):
            stage.failing.append(crash())
            with pytest.raises(WorkerCrashed):
                await stage.ask(A)
            if rest_s:
                with pytest.raises(ModelResting, match=f"tried again in {rest_s} s"):
                    await stage.ask(A)
                await stage.ask(B)  # the others go on
                await trio.sleep(rest_s)
        await stage.ask(A)
        for _ in range(2):
            await stage.scheduler.stop(A)
            stage.failing.append(crash())
            with pytest.raises(WorkerCrashed):
                await stage.ask(A)
        with pytest.raises(ModelResting, match="failed 2 times in a row and is tried again in 1 s"):
            await stage.ask(A)


async def test_a_worker_that_ends_on_its_own_frees_its_place(autojump_clock: Clock) -> None:
    stage = Stage(loaded=1)
    async with stage.running():
        await stage.ask(A)
        stage.workers["a"].ended.set()
        await trio.testing.wait_all_tasks_blocked()
        assert stage.loaded() == []
        await stage.ask(B)
        await stage.ask(A)
    assert stage.started == ["a", "b", "a"]


async def test_a_defect_while_loading_reaches_who_asked_and_the_rest_goes_on(autojump_clock: Clock) -> None:
    stage = Stage()
    stage.failing.append(ZeroDivisionError("a defect"))
    async with stage.running():
        with pytest.raises(ZeroDivisionError):
            await stage.ask(A)
        await stage.ask(A)


async def test_models_share_memory_and_give_way_by_it(autojump_clock: Clock) -> None:
    stage = Stage(loaded=9, memory_bytes=3000 * MB)
    big = model("big", 700)
    async with stage.running():
        await stage.ask(A)
        await stage.ask(B)
        await stage.ask(C)
        assert stage.loaded() == ["a", "b", "c"]
        assert stage.scheduler.residency.held_bytes() <= 3000 * MB
        await stage.ask(big)
        assert "big" in stage.loaded()
        assert stage.scheduler.residency.held_bytes() <= 3000 * MB


async def test_a_model_that_never_fits_is_refused_and_nobody_gives_way_for_it(autojump_clock: Clock) -> None:
    stage = Stage(memory_bytes=1000 * MB)
    async with stage.running():
        await stage.ask(A)
        with pytest.raises(ModelTooLarge, match=r"needs 4\.0 GB of memory, models may take 1\.0 GB"):
            await stage.ask(model("huge", 2000))
        assert stage.loaded() == ["a"]


async def test_a_model_that_turns_out_too_large_is_let_go_again_and_remembered(autojump_clock: Clock) -> None:
    stage = Stage(memory_bytes=1000 * MB)
    stage.real_mb["a"] = 1200
    async with stage.running():
        for _ in range(2):
            with pytest.raises(ModelTooLarge):
                await stage.ask(A)
        assert stage.started == ["a"], "what was seen of it is remembered"
        assert stage.scheduler.residency.held_bytes() == 0


async def test_a_worker_that_grew_is_counted_with_what_it_has(autojump_clock: Clock) -> None:
    stage = Stage(loaded=9, memory_bytes=2000 * MB)
    async with stage.running():
        await stage.ask(A)
        stage.workers["a"].memory_bytes = 1900 * MB
        await stage.ask(B)
        assert stage.loaded() == ["b"]


async def test_a_full_line_refuses_and_the_others_are_served(autojump_clock: Clock) -> None:
    stage = Stage(parallel=1, waiting=1)
    busy = trio.Event()
    async with stage.running(), trio.open_nursery() as nursery:
        for holds in (busy, None):
            nursery.start_soon(stage.ask, A, holds)
            await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(ServerBusy, match="maximum pending requests exceeded"):
            await stage.ask(A)
        await stage.ask(B)
        busy.set()


async def test_models_on_the_same_weights_share_a_worker_and_leave_one_by_one(autojump_clock: Clock) -> None:
    one, two = model("one", weights="w", adapter="x"), model("two", weights="w", adapter="y")
    stage = Stage()
    async with stage.running():
        await stage.ask(one)
        await stage.ask(two)
        assert (stage.started, stage.loaded()) == (["one"], ["one", "two"])
        assert await stage.scheduler.stop(two)
        assert (stage.loaded(), stage.workers["one"].dropped) == (["one"], ["y"])
        assert not await stage.scheduler.stop(two)
        assert await stage.scheduler.stop(one)
        assert stage.loaded() == []


async def test_nothing_is_left_of_models_that_went(autojump_clock: Clock) -> None:
    stage = Stage(loaded=2)
    async with stage.running():
        for number in range(50):
            await stage.ask(model(f"m{number}"), keep_alive_s=1)
        with trio.move_on_after(1):
            await stage.ask(A, trio.Event())
        await trio.sleep(400)
        assert list(stage.scheduler.seats()) == []
        assert stage.scheduler.residency.held_bytes() == 0


def test_the_budget_is_a_share_of_what_the_machine_has() -> None:
    assert 100 * MB < default_budget() < 2**50
    assert not math.isnan(default_budget())
