"""How many streams of one protocol are served at once: so many of one peer, so many of all; the next is told so."""

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from identity.did import DeviceId
from node.net.streams import PeerStream
from protocol.refusal import RefusalCode


class StreamSlots:
    """Counts the streams that are being served."""

    def __init__(self, per_peer: int, total: int) -> None:
        self._per_peer: Final = per_peer
        self._total: Final = total
        self._streams: Counter[DeviceId] = Counter()

    @asynccontextmanager
    async def one(self, stream: PeerStream) -> AsyncIterator[bool]:
        """Give True while the peer may use one more stream; otherwise refuse and give False."""
        peer = stream.peer
        if self._streams[peer] >= self._per_peer or self._streams.total() >= self._total:
            await stream.refuse(RefusalCode.BUSY, "too many streams")
            yield False
            return
        self._streams[peer] += 1
        try:
            yield True
        finally:
            self._streams[peer] -= 1
            self._streams += Counter()  # forgets who has none
