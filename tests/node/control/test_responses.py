"""Streams and errors of the control API, driven as an ASGI server would."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
import trio

from node.cli.exit_codes import ExitCode
from node.control.responses import Emit, EventStream, Produce
from node.errors import NodeNotRunning, UsageInvalid

Message = dict[str, Any]


class Caller:
    """Plays the server's side of one request; leaves when told."""

    def __init__(self) -> None:
        self.sent: list[Message] = []
        self.left = trio.Event()
        self.heard = trio.Event()

    async def receive(self) -> Message:
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        self.sent.append(message)
        if message["type"] == "http.response.body":
            self.heard.set()

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])

    @property
    def lines(self) -> Sequence[Any]:
        body = b"".join(message.get("body", b"") for message in self.sent)
        return [json.loads(line) for line in body.splitlines()]


async def _serve(produce: Produce) -> Caller:
    caller = Caller()
    await EventStream(produce)({"type": "http"}, caller.receive, caller.send)
    return caller


async def test_events_are_lines_with_a_schema() -> None:
    async def produce(emit: Emit) -> None:
        await emit({"status": "one"})
        await emit({"status": "zwölf"})

    caller = await _serve(produce)
    assert caller.status == 200
    assert caller.lines == [{"schema": 1, "status": "one"}, {"schema": 1, "status": "zwölf"}]
    assert caller.sent[-1]["more_body"] is False


async def test_an_error_before_the_first_event_is_an_ordinary_error_answer() -> None:
    async def produce(emit: Emit) -> None:
        raise UsageInvalid("no such thing", "try another")

    caller = await _serve(produce)
    assert caller.status == 400
    assert caller.lines == [
        {
            "schema": 1,
            "error": {
                "kind": "UsageInvalid",
                "message": "no such thing",
                "hint": "try another",
                "exit_code": int(ExitCode.USAGE),
            },
        }
    ]


async def test_a_later_error_is_the_last_line() -> None:
    async def produce(emit: Emit) -> None:
        await emit({"status": "begun"})
        raise UsageInvalid("broke off", "")

    caller = await _serve(produce)
    assert caller.status == 200
    assert caller.lines[0] == {"schema": 1, "status": "begun"}
    assert caller.lines[1]["error"]["message"] == "broke off"


async def test_a_named_error_out_of_a_nursery_is_told_plain() -> None:
    async def produce(emit: Emit) -> None:
        async with trio.open_nursery():
            raise UsageInvalid("wrapped", "")

    assert (await _serve(produce)).lines[0]["error"]["message"] == "wrapped"


async def test_a_defect_is_not_dressed_up_as_an_error_of_the_callers() -> None:
    async def produce(emit: Emit) -> None:
        raise ZeroDivisionError

    with pytest.raises(BaseExceptionGroup) as caught:
        await _serve(produce)
    assert caught.group_contains(ZeroDivisionError)


async def test_leaving_the_stream_cancels_the_work_and_lets_it_clean_up() -> None:
    cleaned = trio.Event()

    async def produce(emit: Emit) -> None:
        try:
            await emit({"status": "working"})
            await trio.sleep_forever()
        finally:
            cleaned.set()

    caller = Caller()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(EventStream(produce), {"type": "http"}, caller.receive, caller.send)
        await caller.heard.wait()
        caller.left.set()
    assert cleaned.is_set()


def test_the_hint_of_a_stopped_node_is_a_command(tmp_path: Any) -> None:
    assert NodeNotRunning(tmp_path).hint == "start it: tilenode serve"


async def test_a_stopping_node_ends_the_work_and_says_so() -> None:
    stopping = trio.Event()

    async def produce(emit: Emit) -> None:
        await emit({"status": "working"})
        stopping.set()
        await trio.sleep_forever()

    caller = Caller()
    await EventStream(produce, stopping)({"type": "http"}, caller.receive, caller.send)
    assert caller.lines[-1]["error"]["kind"] == "NodeStopping"
    assert caller.lines[-1]["error"]["exit_code"] == ExitCode.NOT_RUNNING
    assert caller.sent[-1]["more_body"] is False


async def test_work_that_is_done_is_not_called_stopped() -> None:
    async def produce(emit: Emit) -> None:
        await emit({"status": "done"})

    caller = Caller()
    await EventStream(produce, trio.Event())({"type": "http"}, caller.receive, caller.send)
    assert caller.lines == [{"schema": 1, "status": "done"}]
