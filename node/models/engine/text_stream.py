"""From raw text pieces to what the reader sees: stop strings, thinking and tool calls cut out, nothing split in two.

Both machines are pure. Each holds back exactly as much text as could still become a tag or a stop string.
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


class TagSplitter:
    """Cuts thinking and tool calls out of the text by the tags that the model's family uses."""

    def __init__(
        self, think_tags: tuple[str, str] | None, tool_tags: tuple[str, str] | None, *, inside_thinking: bool
    ) -> None:
        """Take the tags to look for (None: that kind is not wanted) and whether the prompt opened the thinking."""
        self._think = think_tags
        self._tool = tool_tags
        self._kind = Kind.THINKING if inside_thinking and think_tags else Kind.CONTENT
        self._held = ""
        self._trim = self._kind is Kind.THINKING

    def feed(self, text: str) -> list[Segment]:
        """Return the pieces that are certain after `text`."""
        self._held += text
        pieces: list[Segment] = []
        while (found := self._next_tag()) is not None:
            start, tag, kind = found
            self._emit(pieces, self._held[:start])
            self._held = self._held[start + len(tag) :]
            self._kind, self._trim = kind, True
        if self._kind is not Kind.TOOL_CALL:
            keep = held_back(self._held, tuple(self._tags()))
            self._emit(pieces, self._held[: len(self._held) - keep])
            self._held = self._held[len(self._held) - keep :]
        return pieces

    def finish(self) -> list[Segment]:
        """Return what was held back; a tool call that the model left open still counts as one."""
        pieces: list[Segment] = []
        self._emit(pieces, self._held)
        self._held = ""
        return pieces

    def _tags(self) -> dict[str, Kind]:
        if self._kind is Kind.THINKING and self._think:
            return {self._think[1]: Kind.CONTENT}
        if self._kind is Kind.TOOL_CALL and self._tool:
            return {self._tool[1]: Kind.CONTENT} if self._tool[1] else {}
        return {tags[0]: kind for tags, kind in ((self._think, Kind.THINKING), (self._tool, Kind.TOOL_CALL)) if tags}

    def _next_tag(self) -> tuple[int, str, Kind] | None:
        places = [(self._held.find(tag), tag, kind) for tag, kind in self._tags().items()]
        found = [place for place in places if place[0] >= 0]
        return min(found, key=lambda place: place[0]) if found else None

    def _emit(self, pieces: list[Segment], text: str) -> None:
        if self._trim:  # the line breaks around the tags belong to the tags
            text = text.lstrip()
        if text:
            self._trim = False
            pieces.append(Segment(self._kind, text))


def held_back(text: str, marks: Sequence[str]) -> int:
    """Return how many characters at the end of `text` could be the beginning of one of `marks`."""
    longest = max((len(mark) - 1 for mark in marks), default=0)
    for size in range(min(longest, len(text)), 0, -1):
        tail = text[len(text) - size :]
        if any(mark.startswith(tail) for mark in marks):
            return size
    return 0
