"""Kept prefixes through the whole service, with real workers: less is read, answers stay the same, restarts keep it."""

import os
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from identity.secrets import Secrets
from node.models.demo import demo_directory
from node.models.errors import WorkerCrashed
from node.models.prefix_place import PrefixPlaces
from node.models.requests import Ending, GenerateRequest
from node.models.service import Models
from node.models.testing import DirectoryLibrary
from node.ports import SystemClock, SystemEntropy

pytestmark = [pytest.mark.model, pytest.mark.processes]
GREEDY = {"temperature": 0}
SECRETS = Secrets(bytes(32), bytes(range(32)))
RULES = "You are a helpful assistant. Answer each question in one short sentence and be friendly. " * 12
QUESTIONS = ["What is the capital of France?", "What is 7 + 5?", "Hello!", "What colour is grass?"]
Message = dict[str, str]


@asynccontextmanager
async def serving(home: Path | None, **settings: Any) -> AsyncIterator[Models]:
    library = DirectoryLibrary()
    library.add("demo", demo_directory())
    places = PrefixPlaces(home / "prefixes", SECRETS.subkey, 1 << 30) if home is not None else None
    models = Models(library, SystemClock(), SystemEntropy(), prefixes=places, **settings)
    async with trio.open_nursery() as nursery:
        await nursery.start(models.run)
        yield models
        nursery.cancel_scope.cancel()


async def ask(models: Models, messages: Sequence[Message]) -> tuple[str, Ending]:
    text, ending = "", None
    async with models.generate(GenerateRequest("demo", messages=messages, options=GREEDY)) as pieces:
        async for piece in pieces:
            text += piece.text
            ending = piece.ending or ending
    assert ending is not None
    return text, ending


def under_rules(question: str) -> list[Message]:
    return [{"role": "system", "content": RULES}, {"role": "user", "content": question}]


@pytest.fixture(scope="module")
def expected() -> dict[str, str]:
    """What each question is answered with when nothing was read before."""

    async def fresh() -> dict[str, str]:
        answers = {}
        for question in QUESTIONS:
            async with serving(None) as models:
                answers[question], ending = await ask(models, under_rules(question))
                assert ending.cached_tokens == 0
        return answers

    return trio.run(fresh)


async def written(home: Path, count: int = 1) -> None:
    """Wait until so many files are there, and no more come."""
    with trio.fail_after(20):
        before = -1
        while (now := len(list(home.rglob("*.prefix")))) < count or now != before:
            before = now
            await trio.sleep(0.3)


async def test_prompts_that_begin_alike_are_read_once(expected: dict[str, str]) -> None:
    async with serving(None) as models:
        for number, question in enumerate([*QUESTIONS, *QUESTIONS]):
            text, ending = await ask(models, under_rules(question))
            assert text == expected[question]
            if number:
                assert ending.cached_tokens > 200
            if number >= len(QUESTIONS):
                assert ending.cached_tokens == ending.prompt_tokens - 1


async def test_a_conversation_is_never_read_twice() -> None:
    async with serving(None) as models:
        messages: list[Message] = [{"role": "user", "content": "Tell me a story about a fox."}]
        text, before = await ask(models, messages)
        messages += [{"role": "assistant", "content": text}, {"role": "user", "content": "What is 7 + 5?"}]
        text, ending = await ask(models, messages)
        assert ending.cached_tokens >= before.prompt_tokens + before.eval_tokens - 1
        async with serving(None) as fresh:
            assert (await ask(fresh, messages))[0] == text


async def test_many_at_once_share_and_answer_as_alone(expected: dict[str, str]) -> None:
    async with serving(None) as models:
        await ask(models, under_rules("Hello!"))
        endings: list[Ending] = []

        async def one(question: str) -> None:
            text, ending = await ask(models, under_rules(question))
            assert text == expected[question]
            endings.append(ending)

        for _ in range(3):
            async with trio.open_nursery() as nursery:
                for question in QUESTIONS * 2:
                    nursery.start_soon(one, question)
        assert min(ending.cached_tokens for ending in endings) > 200


@pytest.mark.parametrize("kv_bits", [0, 8])
async def test_a_restart_goes_on_from_the_disk(tmp_path: Path, expected: dict[str, str], kv_bits: int) -> None:
    for life in range(3):
        async with serving(tmp_path, kv_bits=kv_bits) as models:
            for question in QUESTIONS[: life + 1]:
                text, ending = await ask(models, under_rules(question))
                assert text == expected[question]
                assert (ending.cached_tokens > 200) == (life > 0)
            await written(tmp_path, 3)
    content = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"friendly" not in content


async def test_workers_killed_at_any_moment_leave_what_is_right(tmp_path: Path, expected: dict[str, str]) -> None:
    cached = answered = 0
    for life in range(4):
        async with serving(tmp_path) as models:
            await models.load("demo", None)
            pid = models.worker_pids()[0]
            async with trio.open_nursery() as nursery:

                async def asking(models: Models = models) -> None:
                    nonlocal answered, cached
                    try:
                        for question in QUESTIONS * 20:
                            text, ending = await ask(models, under_rules(question))
                            assert text == expected[question]
                            cached += ending.cached_tokens
                            answered += 1
                    except WorkerCrashed:
                        return

                nursery.start_soon(asking)
                wanted = answered + life
                while answered < wanted:
                    await trio.sleep(0.001)
                await trio.sleep(0.013 * life)  # anywhere within the next one
                os.kill(pid, signal.SIGKILL)
    assert cached > 0
    async with serving(tmp_path) as models:
        for question in QUESTIONS:
            assert (await ask(models, under_rules(question)))[0] == expected[question]


async def test_a_removed_directory_costs_time_only(tmp_path: Path, expected: dict[str, str]) -> None:
    async with serving(tmp_path) as models:
        await ask(models, under_rules("Hello!"))
        await written(tmp_path)
        for path in sorted((tmp_path / "prefixes").rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()
        for question in QUESTIONS:
            assert (await ask(models, under_rules(question)))[0] == expected[question]
