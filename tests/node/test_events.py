"""Events: to every listener, in order, without ever holding the node up."""

import trio

from node.events import LISTENER_BUFFER, Events
from node.ports import SystemClock


async def test_every_listener_gets_every_event_with_its_time() -> None:
    events = Events(SystemClock())
    async with events.listen() as one, events.listen() as other:
        events.publish({"event": "signed"})
        for channel in (one, other):
            event = await channel.receive()
            assert event["event"] == "signed"
            assert isinstance(event["at_ms"], int)


async def test_a_listener_that_does_not_read_is_told_what_it_lost() -> None:
    events = Events(SystemClock())
    async with events.listen() as channel:
        for number in range(LISTENER_BUFFER + 3):
            events.publish({"event": "tick", "number": number})
        kept = [channel.receive_nowait() for _ in range(LISTENER_BUFFER)]
        assert [event["number"] for event in kept] == list(range(LISTENER_BUFFER))
        events.publish({"event": "tock"})
        assert channel.receive_nowait() == {"event": "lost", "count": 3}
        assert channel.receive_nowait()["event"] == "tock"


async def test_closing_ends_the_listeners_after_what_was_published() -> None:
    events = Events(SystemClock())
    async with events.listen() as channel:
        events.publish({"event": "stopping"})
        events.close()
        events.publish({"event": "too late"})
        with trio.fail_after(1):
            assert [event["event"] async for event in channel] == ["stopping"]


async def test_nobody_listening_is_no_trouble() -> None:
    Events(SystemClock()).publish({"event": "signed"})
