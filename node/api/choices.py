"""Several answers at once: the choices of one request, each as it comes, and one failure is everybody's."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Final

import trio

from node.api.streams import NAMED_ERRORS
from node.models.requests import GenerateRequest, Piece
from node.models.service import Models

# More than these wait here and not in the models' line, so that one request with many prompts does not fill it.
AT_ONCE: Final = 16

Take = Callable[[int, AsyncIterator[Piece]], Awaitable[None]]


async def answer_all(models: Models, questions: Sequence[GenerateRequest], take: Take) -> None:
    """Answer every question; `take(number, pieces)` hears each answer, several of them at the same time.

    Raises:
        NodeError: what the first failing answer raised; the others are cancelled then.
    """
    if len(questions) == 1:
        async with models.generate(questions[0]) as pieces:
            await take(0, pieces)
        return
    failures: list[Exception] = []
    places = trio.Semaphore(AT_ONCE)
    async with trio.open_nursery() as nursery:

        async def answer(number: int) -> None:
            async with places:
                try:
                    async with models.generate(questions[number]) as pieces:
                        await take(number, pieces)
                except NAMED_ERRORS as error:
                    failures.append(error)
                    nursery.cancel_scope.cancel()

        for number in range(len(questions)):
            nursery.start_soon(answer, number)
    if failures:
        raise failures[0]
