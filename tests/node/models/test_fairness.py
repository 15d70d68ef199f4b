"""Turns: nobody waits for somebody else's many requests, and no place is ever lost."""

import random

import pytest
import trio
import trio.testing

from node.models.errors import ServerBusy
from node.models.fairness import Turns


class Clients:
    """Requests of several clients, in the order in which they were let in."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns
        self.order: list[str] = []
        self.refused: list[str] = []

    async def ask(self, client: str) -> None:
        try:
            await self.turns.take(client)
        except ServerBusy:
            self.refused.append(client)
        else:
            self.order.append(client)


async def test_clients_take_turns_whatever_one_of_them_queued_first() -> None:
    turns = Turns(1, 64)
    clients = Clients(turns)
    async with trio.open_nursery() as nursery:
        for client in [*["greedy"] * 5, "a", "b", "a"]:
            nursery.start_soon(clients.ask, client)
            await trio.testing.wait_all_tasks_blocked()
        while len(clients.order) < 8:
            turns.give_back(clients.order[-1])
            await trio.testing.wait_all_tasks_blocked()
    assert clients.order == ["greedy", "a", "b", "greedy", "a", "greedy", "greedy", "greedy"]


async def test_the_next_place_goes_to_who_has_the_fewest() -> None:
    turns = Turns(4, 64)
    clients = Clients(turns)
    async with trio.open_nursery() as nursery:
        for client in ["hog", "hog", "hog", "small", "hog", "hog", "small", "late"]:
            nursery.start_soon(clients.ask, client)
            await trio.testing.wait_all_tasks_blocked()
        for client in ("hog", "small"):
            turns.give_back(client)
            await trio.testing.wait_all_tasks_blocked()
        assert clients.order[4:] == ["late", "small"]
        nursery.cancel_scope.cancel()


async def test_a_full_line_refuses_the_client_that_fills_it() -> None:
    turns = Turns(1, 3)
    clients = Clients(turns)
    async with trio.open_nursery() as nursery:
        for client in ["hog"] * 5:
            nursery.start_soon(clients.ask, client)
            await trio.testing.wait_all_tasks_blocked()
        assert clients.refused == ["hog"]
        nursery.start_soon(clients.ask, "small")
        await trio.testing.wait_all_tasks_blocked()
        assert clients.refused == ["hog", "hog"], "the hog's latest request gave way"
        nursery.start_soon(clients.ask, "small")
        await trio.testing.wait_all_tasks_blocked()
        assert clients.refused == ["hog", "hog", "small"], "two for each: nobody gives way"
        nursery.cancel_scope.cancel()
    assert turns.waiting == 0


async def test_who_leaves_the_line_leaves_no_trace() -> None:
    turns = Turns(1, 64)
    await turns.take("a")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(turns.take, "b")
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert (turns.taken, turns.waiting) == (1, 0)
    turns.give_back("a")
    with trio.fail_after(1):
        await turns.take("c")


async def test_who_leaves_just_when_let_in_gives_the_place_back() -> None:
    turns = Turns(1, 64)
    await turns.take("a")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(turns.take, "b")
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
        turns.give_back("a")
    with trio.fail_after(1):
        await turns.take("c")
    assert (turns.taken, turns.waiting) == (1, 0)


async def test_a_pause_lets_nobody_in() -> None:
    turns = Turns(2, 64)
    turns.pause()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(turns.take, "a")
        await trio.testing.wait_all_tasks_blocked()
        assert (turns.taken, turns.waiting) == (0, 1)
        turns.resume()
    assert (turns.taken, turns.waiting) == (1, 0)


@pytest.mark.parametrize("seed", range(20))
async def test_no_place_is_lost_in_a_crowd(seed: int, autojump_clock: trio.testing.MockClock) -> None:
    chance = random.Random(seed)
    turns = Turns(3, 8)
    inside = 0

    async def customer(number: int) -> None:
        nonlocal inside
        client = chance.choice("abcd")
        await trio.sleep(chance.random() * 10)
        with trio.move_on_after(chance.random() * 5):
            try:
                await turns.take(client)
            except ServerBusy:
                return
            inside += 1
            assert inside <= 3, number
            try:
                await trio.sleep(chance.random())
            finally:
                inside -= 1
                turns.give_back(client)

    async with trio.open_nursery() as nursery:
        for number in range(120):
            nursery.start_soon(customer, number)
    assert (turns.taken, turns.waiting) == (0, 0)
