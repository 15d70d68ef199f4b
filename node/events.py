"""What happens on the node, told to whoever listens: the control API's event streams."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final

import trio

from node.ports import Clock

# A listener that reads slower than this many events loses the oldest; it is told how many.
LISTENER_BUFFER: Final = 256
Event = Mapping[str, object]


class Events:
    """Hands every published event to every listener; a slow listener never holds the node up."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._listeners: set[_Listener] = set()

    def publish(self, event: Event) -> None:
        """Give `event`, with its time in `at_ms`, to all listeners; never blocks.

        Events carry facts, never prompts, answers or keys.
        """
        for listener in self._listeners:
            listener.take({**event, "at_ms": self._clock.now_ms()})

    @asynccontextmanager
    async def listen(self) -> AsyncIterator[trio.MemoryReceiveChannel[Event]]:
        """Give a channel of the events from now on."""
        listener = _Listener()
        self._listeners.add(listener)
        try:
            yield listener.channel
        finally:
            self._listeners.discard(listener)

    def close(self) -> None:
        """End every listener's channel, after what was published."""
        for listener in self._listeners:
            listener.close()


class _Listener:
    def __init__(self) -> None:
        self._send, self.channel = trio.open_memory_channel[Event](LISTENER_BUFFER)
        self._lost = 0

    def take(self, event: Event) -> None:
        try:
            if self._lost:
                self._send.send_nowait({"event": "lost", "count": self._lost})
                self._lost = 0
            self._send.send_nowait(event)
        except trio.WouldBlock:
            self._lost += 1
        except trio.ClosedResourceError:
            return  # the node stops; nobody is listening any more

    def close(self) -> None:
        self._send.close()
