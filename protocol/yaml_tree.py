"""A small, safe part of YAML: mappings, lists and text with their places, and nothing that means more than it says.

No tags, anchors, aliases, merge keys, directives or second documents; no key twice; depth and size are capped before
anything is built. A plain scalar stays the text that was written: `yes`, `1.10` and `2026-01-01` are text.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NoReturn

import yaml

from protocol.errors import ModelSpecInvalid

if TYPE_CHECKING:
    from yaml._yaml import Mark as CMark

MAX_YAML_CHARS: Final = 256 * 1024
MAX_DEPTH: Final = 4
MAX_NODES: Final = 2048


@dataclass(frozen=True)
class Place:
    """A line and a column, both from 1."""

    line: int
    column: int


@dataclass(frozen=True)
class Text:
    """A scalar; `plain` when it was written without quotes and not as a block."""

    value: str
    place: Place
    plain: bool = False

    @property
    def empty(self) -> bool:
        """Whether nothing stands there, or YAML's words for nothing."""
        return self.plain and self.value in {"", "~", "null", "Null", "NULL"}


@dataclass(frozen=True)
class Items:
    """A list."""

    values: "tuple[Node, ...]"
    place: Place


@dataclass(frozen=True)
class Table:
    """A mapping in the order of the text; every key is text and stands there once."""

    entries: "tuple[tuple[Text, Node], ...]"
    place: Place


Node = Text | Items | Table


def parse_yaml_tree(text: str) -> Node:
    """Return the one document in `text`.

    Raises:
        ModelSpecInvalid: no YAML, over a cap, or a part of YAML that is not read here; with line and column.
    """
    if len(text) > MAX_YAML_CHARS:
        raise ModelSpecInvalid(1, 1, f"at most {MAX_YAML_CHARS} characters", str(len(text)))
    reader = _Reader(text)
    try:
        return reader.document()
    except yaml.MarkedYAMLError as error:
        place = _place(error.problem_mark or error.context_mark) or reader.last
        raise ModelSpecInvalid(place.line, place.column, "YAML", _one_line(error.problem)) from None
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        line = before.count("\n") + 1
        column = error.position - before.rfind("\n")
        raise ModelSpecInvalid(line, column, "text", f"the character U+{int(error.character):04X}") from None
    except (ValueError, OverflowError):  # a number in an escape or a directive that no character or version has
        raise ModelSpecInvalid(reader.last.line, reader.last.column, "YAML", "a number that is too large") from None


class _Reader:
    """Builds the tree from PyYAML's events, which come one by one: a cap that is passed stops the reading there."""

    def __init__(self, text: str) -> None:
        self._events = yaml.parse(text, Loader=yaml.SafeLoader)
        self._nodes = 0
        self.last = Place(1, 1)

    def document(self) -> Node:
        self._expect(yaml.StreamStartEvent)
        start = self._next()
        if isinstance(start, yaml.StreamEndEvent):
            self._fail("name:", "the end of the file")
        if isinstance(start, yaml.DocumentStartEvent) and (start.version or start.tags):
            self._fail("no directive", "one (%)")
        root = self._node(self._next(), 1)
        self._expect(yaml.DocumentEndEvent)
        if not isinstance(self._next(), yaml.StreamEndEvent):
            self._fail("one document", "a second one")
        return root

    def _node(self, event: yaml.Event, depth: int) -> Node:
        place = self.last
        self._nodes += 1
        if self._nodes > MAX_NODES:
            self._fail(f"at most {MAX_NODES} values", "more")
        if isinstance(event, yaml.AliasEvent):
            self._fail("a value", f"an alias (*{event.anchor})")
        if getattr(event, "anchor", None) is not None:
            self._fail("a value", "an anchor (&)")
        if getattr(event, "tag", None) is not None:
            self._fail("a value", "a tag (!)")
        if isinstance(event, yaml.ScalarEvent):
            return self._text(event, place)
        if depth > MAX_DEPTH:
            self._fail(f"at most {MAX_DEPTH} levels", "a deeper one")
        return self._items(place, depth) if isinstance(event, yaml.SequenceStartEvent) else self._table(place, depth)

    def _text(self, event: yaml.ScalarEvent, place: Place) -> Text:
        if not event.value.isascii():
            try:
                event.value.encode()
            except UnicodeEncodeError:
                self._fail("text", "half of a surrogate pair")
        return Text(event.value, place, event.style is None)

    def _items(self, place: Place, depth: int) -> Items:
        values = []
        while not isinstance(event := self._next(), yaml.SequenceEndEvent):
            values.append(self._node(event, depth + 1))
        return Items(tuple(values), place)

    def _table(self, place: Place, depth: int) -> Table:
        entries: list[tuple[Text, Node]] = []
        seen: dict[str, int] = {}
        while not isinstance(event := self._next(), yaml.MappingEndEvent):
            key = self._node(event, depth + 1)
            if not isinstance(key, Text):
                self._fail("a key that is text", "a list or mapping", key.place)
            if key.value in seen:
                self._fail(f"{key.value[:40]} once", f"it again after line {seen[key.value]}", key.place)
            if key.plain and key.value == "<<":
                self._fail("a key", "a merge key (<<)", key.place)
            seen[key.value] = key.place.line
            entries.append((key, self._node(self._next(), depth + 1)))
        return Table(tuple(entries), place)

    def _next(self) -> yaml.Event:
        event = next(self._events)
        self.last = _place(event.start_mark) or self.last
        return event

    def _expect(self, kind: type[yaml.Event]) -> None:
        event = self._next()
        if not isinstance(event, kind):
            self._fail("one document", "something else")

    def _fail(self, expected: str, found: str, place: Place | None = None) -> NoReturn:
        where = place or self.last
        raise ModelSpecInvalid(where.line, where.column, expected, found)


def _place(mark: "yaml.Mark | CMark | None") -> Place | None:
    return Place(mark.line + 1, mark.column + 1) if mark else None


def _one_line(text: str | None) -> str:
    return " ".join((text or "something else").removeprefix("found ").split())[:120]
