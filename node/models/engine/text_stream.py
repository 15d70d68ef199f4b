"""The pieces that a model's text comes apart into, and where its stop strings end it, wherever tokens are cut.

No more is held back than could still become a stop string; thinking and calls are cut out by `dialect`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum


class Kind(Enum):
    """What a piece of the model's text is."""

    CONTENT = "content"
    THINKING = "thinking"
    TOOL_CALL = "tool call"


@dataclass(frozen=True)
class Segment:
    """Text of one kind; a tool call always comes whole."""

    kind: Kind
    text: str


class StopStrings:
    """Passes text through until one of the stop strings is complete, wherever token borders fall.

    Where stop strings overlap, the one that is complete first counts, and of two at once the longer one.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        """Take the stop strings; empty ones are ignored."""
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.stopped_by: str | None = None

    @property
    def stopped(self) -> bool:
        """Whether one of them was complete."""
        return self.stopped_by is not None

    def feed(self, text: str) -> str:
        """Return what may be shown now; after `stopped` turned true, nothing more ever."""
        if self.stopped or not self._stops:
            return "" if self.stopped else text
        text = self._held + text
        found = [(start + len(stop), start) for stop in self._stops if (start := text.find(stop)) >= 0]
        if found:
            end, start = min(found)
            self.stopped_by = text[start:end]
            self._held = ""
            return text[:start]
        keep = held_back(text, self._stops)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def finish(self) -> str:
        """Return what was held back in case it became a stop string, and did not."""
        held, self._held = self._held, ""
        return held


def held_back(text: str, marks: Sequence[str]) -> int:
    """Return how many characters at the end of `text` could be the beginning of one of `marks`."""
    longest = max((len(mark) - 1 for mark in marks), default=0)
    for size in range(min(longest, len(text)), 0, -1):
        tail = text[len(text) - size :]
        if any(mark.startswith(tail) for mark in marks):
            return size
    return 0
