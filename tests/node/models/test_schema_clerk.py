"""Schemas are tried before a worker is asked: quickly where they are plain, in a bounded process where they are not."""

from typing import Any

import pytest
import trio

from node.models.errors import FormatInvalid
from node.models.requests import GenerateRequest
from node.models.schema_clerk import SchemaClerk

PATTERN = {"type": "string", "pattern": "^[a-z]{1,5}$"}


def wanting(format_: object, **fields: Any) -> GenerateRequest:
    return GenerateRequest("demo", messages=[], format=format_, **fields)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What the processes that were started had to try."""
    tried: list[bytes] = []
    run = trio.run_process

    async def counted(*arguments: Any, **options: Any) -> Any:
        tried.append(options["stdin"])
        return await run(*arguments, **options)

    monkeypatch.setattr(trio, "run_process", counted)
    return tried


async def test_plain_schemas_start_no_process(started: list[bytes]) -> None:
    clerk = SchemaClerk()
    for format_ in (None, "json", True, {"type": "object", "properties": {"a": {"type": "integer"}}}):
        await clerk.require(wanting(format_))
    assert started == []


async def test_what_was_found_is_remembered(started: list[bytes]) -> None:
    clerk = SchemaClerk()
    for _ in range(3):
        await clerk.require(wanting(PATTERN))
        with pytest.raises(FormatInvalid, match="not"):
            await clerk.require(wanting({**PATTERN, "not": {}}))
    assert len(started) == 2


async def test_a_schema_that_takes_all_time_is_ended_and_refused(started: list[bytes]) -> None:
    clerk = SchemaClerk()
    endless = {"type": "integer", "multipleOf": 9_999_991}
    with trio.fail_after(30):
        for _ in range(2):
            with pytest.raises(FormatInvalid, match="too long"):
                await clerk.require(wanting(endless))
    assert started


async def test_a_client_that_leaves_ends_the_trial() -> None:
    clerk = SchemaClerk()
    with trio.move_on_after(0.3) as scope:
        await clerk.require(wanting({"type": "integer", "multipleOf": 9_999_991}))
    assert scope.cancelled_caught
    await clerk.require(wanting(PATTERN))


@pytest.mark.parametrize(
    ("choice", "strict", "tried"), [("auto", False, 0), ("none", True, 0), ("auto", True, 1), ("required", False, 1)]
)
async def test_a_tools_schema_is_tried_where_calls_are_held(
    started: list[bytes], choice: str, strict: bool, tried: int
) -> None:
    function = {"name": "f", "strict": strict, "parameters": {"type": "object", "properties": {"a": PATTERN}}}
    tools = [{"type": "function", "function": function}]
    await SchemaClerk().require(wanting(None, tools=tools, tool_choice=choice))
    assert len(started) == tried
