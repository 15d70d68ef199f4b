"""What leaves a worker for the node, and when.

Each departure costs the node a wake-up, and for every answer in it a chunk of the client's stream and a system call. A
model that is fast on many answers would keep a core busy with that, which MLX needs; and nobody reads that fast.
"""

from collections.abc import Callable, Sequence
from typing import Final

from protocol.worker.messages import Done, Failed, FromWorker, Text
from protocol.worker.words import joined

PIECE_NS: Final = 1_000_000_000 // 200
"""Words that are not an answer's first leave so long after the last departure, times the answers that have begun."""
SHORTEST_NS: Final = 1_000_000_000 // 30
LONGEST_NS: Final = 1_000_000_000 // 10
"""But not sooner than the one, which no eye tells apart, nor later than the other."""


class Outbox:
    """Messages on their way out. An answer's first words leave at once, and so does all that is not words.

    The words after the first wait for the next departure, put together: a thirtieth to a tenth of a second after the
    last one, the longer the more answers there are. Everything leaves in the order in which it came.
    """

    def __init__(self, send: Callable[[Sequence[FromWorker]], None], now_ns: Callable[[], int]) -> None:
        """Give what leaves to `send`, by a clock of monotonic nanoseconds."""
        self._send = send
        self._now_ns = now_ns
        self._left_ns = now_ns()
        self._begun: set[int] = set()
        self._waiting: list[FromWorker] = []
        # The last words of a request among those that wait, and their place, while more words may be put to them.
        self._words: dict[int, tuple[int, Text]] = {}

    def put(self, messages: Sequence[FromWorker]) -> None:
        """Take messages, and send all that waits if one of them cannot wait or the time has come."""
        is_due = False
        for message in messages:
            is_due |= self._take(message)
        if is_due or self.patience_s() == 0:
            self.send_waiting()

    def patience_s(self) -> float | None:
        """Return in how many seconds `send_waiting` is due; None if nothing waits."""
        if not self._waiting:
            return None
        gap_ns = min(max(SHORTEST_NS, len(self._begun) * PIECE_NS), LONGEST_NS)
        return max(0, self._left_ns + gap_ns - self._now_ns()) / 1e9

    def send_waiting(self) -> None:
        """Send what waits, together."""
        if self._waiting:
            leaving, self._waiting = self._waiting, []
            self._words.clear()
            self._left_ns = self._now_ns()
            self._send(leaving)

    def _take(self, message: FromWorker) -> bool:
        """Take one message; return whether it cannot wait."""
        if not isinstance(message, Text):
            if isinstance(message, Done | Failed):
                self._begun.discard(message.request)
            self._words.clear()  # what comes after it stays behind it
            self._waiting.append(message)
            return True
        is_first = message.request not in self._begun
        self._begun.add(message.request)
        self._take_words(message)
        return is_first

    def _take_words(self, words: Text) -> None:
        place, last = self._words.get(words.request, (0, None))
        if last is not None and (both := joined(last, words)) is not None:
            self._waiting[place], self._words[words.request] = both, (place, both)
        else:
            self._words[words.request] = len(self._waiting), words
            self._waiting.append(words)
