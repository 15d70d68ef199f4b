"""Whose turn it is: a few places at once, the rest in line, and nobody waits for somebody else's many requests."""

from collections import Counter, deque
from dataclasses import dataclass, field

import trio

from node.models.errors import ServerBusy


@dataclass(eq=False)
class _Waiting:
    """One request in line; `event` is set when it was let in, or had to give way."""

    event: trio.Event = field(default_factory=trio.Event)
    let_in: bool = False


class Turns:
    """`at_once` places for requests; of those in line, the client with the fewest places is next, in rotation.

    At most `waiting` stand in line. Where the line is full, a client that waits less than another one takes the place
    of that one's latest request, so that one client's flood keeps nobody else out.
    """

    def __init__(self, at_once: int, waiting: int) -> None:
        self._at_once = at_once
        self._most_waiting = waiting
        self._inside: Counter[str] = Counter()
        self._lines: dict[str, deque[_Waiting]] = {}
        # When each client that is here was last let in, counted in turns.
        self._last: dict[str, int] = {}
        self._turns = 0
        self._paused = False
        self.taken = 0
        self.waiting = 0

    async def take(self, client: str) -> None:
        """Return once `client` has a place; who has one gives it back with `give_back`.

        Raises:
            ServerBusy: the line is full, or it was full and another client had less in it.
        """
        if not self.waiting and not self._paused and self.taken < self._at_once:
            self._let_in(client)
            return
        if self.waiting >= self._most_waiting:
            self._make_way(client)
        request = _Waiting()
        self._lines.setdefault(client, deque()).append(request)
        self.waiting += 1
        try:
            await request.event.wait()
        except BaseException:
            if request.let_in:
                self.give_back(client)
            else:
                self._leave_line(client, request)
            raise
        if not request.let_in:
            raise ServerBusy(self.waiting)

    def give_back(self, client: str) -> None:
        """End a turn of `client`; the next in line is let in."""
        self.taken -= 1
        self._inside[client] -= 1
        if not self._inside[client]:
            del self._inside[client]
        self._forget(client)
        self._fill()

    def pause(self) -> None:
        """Let nobody in until `resume`; who is in stays."""
        self._paused = True

    def resume(self) -> None:
        """Let those in line in again."""
        self._paused = False
        self._fill()

    def _fill(self) -> None:
        while self._lines and not self._paused and self.taken < self._at_once:
            client = min(self._lines, key=lambda each: (self._inside[each], self._last.get(each, 0)))
            request = self._lines[client].popleft()
            self.waiting -= 1
            if not self._lines[client]:
                del self._lines[client]
            self._let_in(client)
            request.let_in = True
            request.event.set()

    def _let_in(self, client: str) -> None:
        self.taken += 1
        self._inside[client] += 1
        self._turns += 1
        self._last[client] = self._turns

    def _forget(self, client: str) -> None:
        if client not in self._inside and client not in self._lines:
            self._last.pop(client, None)

    def _make_way(self, client: str) -> None:
        longest = max(self._lines, key=lambda each: len(self._lines[each]), default=None)
        own = len(self._lines.get(client, ()))
        if longest is None or len(self._lines[longest]) <= own + 1:
            raise ServerBusy(self.waiting)
        latest = self._lines[longest][-1]
        self._leave_line(longest, latest)
        latest.event.set()

    def _leave_line(self, client: str, request: _Waiting) -> None:
        line = self._lines.get(client)
        if line is None or request not in line:
            return  # it gave way already
        line.remove(request)
        self.waiting -= 1
        if not line:
            del self._lines[client]
            self._forget(client)
