"""Tool calls: the syntax of each model family as a grammar that holds a call to its tool's schema, and its reading.

Three shapes cover the families: a call as JSON, a call with one tagged block for each argument, and a call with its
arguments in a list. Text arguments are written as they are where the family does so, everything else as JSON; text
that must keep to a length, a pattern or a format is written as a JSON string, which the reading knows.
"""

import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from node.models.engine.grammar import Grammars
from node.models.errors import FormatInvalid
from node.models.json_grammar import json_rule
from node.models.json_schemas import arguments_schema, compiled_form, tool_name

MAX_CALLS: Final = 64
# A text argument that has none of these may be any text.
_BINDING: Final = frozenset(
    {"enum", "const", "pattern", "minLength", "maxLength", "format", "allOf", "anyOf", "oneOf", "$ref", "not"}
)
# What may stand at the top of an object's schema where arguments are written one by one.
_OBJECT_WORDS: Final = frozenset(
    {"type", "properties", "required", "additionalProperties", "$defs", "definitions", "$schema", "$id", "$comment"}
    | {"title", "description", "examples", "default", "deprecated", "strict"}
)
_PLAIN_WORD: Final = re.compile(r"[^<>&\"'\r\n\\]+")
_PLAIN_NAME: Final = re.compile(r"[\w.$@/ -]+")

Call = tuple[str, dict[str, Any]]


def _finite(text: str) -> float:
    # JSON has numbers of any size, Python's infinity is no JSON.
    return min(max(float(text), -sys.float_info.max), sys.float_info.max)


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no JSON")


_DECODER: Final = json.JSONDecoder(parse_float=_finite, parse_constant=_refuse)


class Rules:
    """The rules of one grammar, as they are collected."""

    def __init__(self, grammars: Grammars) -> None:
        self._grammars = grammars
        self._rules: list[str] = []

    def text(self, text: str) -> str:
        """Return the expression for exactly `text`."""
        return self._grammars.literal(text)

    def add(self, body: str, attributes: str = "") -> str:
        """Add a rule and return its name."""
        name = f"r{len(self._rules)}"
        self._rules.append(f"{name}{attributes}: {body}")
        return name

    def any_text(self, end: str) -> str:
        """Return the expression for any text up to `end`, and `end`."""
        if special := self._grammars.from_first_special(end):
            self._rules.append(f"T{len(self._rules)}: /(?s:.*)/")
            return f"T{len(self._rules) - 1} {self.text(special)}"
        return self.add("/(?s:.*)/", f"[suffix={json.dumps(end)}]")

    def lark(self, start: str) -> str:
        """Return the grammar that begins with the expression `start`."""
        return "\n".join([f"start: {start}", *self._rules])


@dataclass(frozen=True)
class Argument:
    """One declared argument: its name, its schema (with the definitions that it may refer to), whether it must be."""

    name: str
    schema: dict[str, Any]
    required: bool

    @property
    def words(self) -> tuple[str, ...] | None:
        """The texts that it may be, written as they are; empty: any text; None: it is written as JSON."""
        binding = _BINDING & set(self.schema)
        if not binding:
            return () if self.schema.get("type") == "string" else None
        choices = (
            self.schema.get("enum") if binding == {"enum"} else [self.schema["const"]] if binding == {"const"} else None
        )
        if not isinstance(choices, list) or self.schema.get("type", "string") != "string" or not choices:
            return None
        plain = all(isinstance(word, str) and _PLAIN_WORD.fullmatch(word) for word in choices)
        return tuple(choices) if plain else None


def arguments_of(tool: Mapping[str, Any]) -> list[Argument]:
    """Return a tool's arguments one by one.

    Raises:
        FormatInvalid: they depend on each other, so that they cannot be written one by one.
    """
    schema = arguments_schema(tool)
    if any(
        below is False for name, below in schema.get("properties", {}).items() if name in schema.get("required", [])
    ):
        raise FormatInvalid(f"tool {tool_name(tool)!r} requires what it does not allow")
    if unknown := sorted(set(schema) - _OBJECT_WORDS):
        raise FormatInvalid(f"tool {tool_name(tool)!r}: this model's calls cannot be held to {unknown[0]!r}")
    _require_plain(tool, [tool_name(tool), *schema.get("properties", {})])
    required = schema.get("required", [])
    properties = {**schema.get("properties", {}), **{n: {} for n in required if n not in schema.get("properties", {})}}
    shared: dict[str, Any] = {key: schema[key] for key in ("$defs", "definitions") if key in schema}
    return [
        Argument(name, {**shared, **compiled_form(below if isinstance(below, dict) else True)}, name in required)
        for name, below in properties.items()
        if below is not False
    ]


def _require_plain(tool: Mapping[str, Any], names: Sequence[str]) -> None:
    if odd := [name for name in names if not _PLAIN_NAME.fullmatch(name)]:
        raise FormatInvalid(f"tool {tool_name(tool)!r}: this model's calls cannot hold the name {odd[0][:80]!r}")


def _declared(tools: Sequence[Mapping[str, Any]], name: str) -> dict[str, Argument]:
    for tool in tools:
        if tool_name(tool) == name:
            try:
                return {argument.name: argument for argument in arguments_of(tool)}
            except FormatInvalid:
                break
    return {}


def _read_value(text: str, argument: Argument | None) -> Any:
    if argument is not None and argument.words is not None:
        return text
    try:
        value = _DECODER.decode(text)
    except (ValueError, RecursionError):
        return text
    text_only = argument is not None and argument.schema.get("type") == "string"
    return text if text_only and not isinstance(value, str) else value


def _pattern(text: str, group: str) -> str:
    before, after = (re.escape(part) for part in text.split("{" + group + "}"))
    return f'{before}(?P<{group}>[^<>"{{}}()\n,:=\\[\\]]+){after}'


@dataclass(frozen=True)
class JsonCalls:
    """A call is `head`, the arguments as one JSON object, `tail`; `{name}` and `{json_name}` stand for the tool's."""

    head: str
    tail: str
    numbered: bool = False
    spaced: bool = False

    def call(self, rules: Rules, tool: Mapping[str, Any]) -> str:
        """Return the expression for a call of `tool`."""
        name = tool_name(tool)
        if "{json_name}" not in self.head:
            _require_plain(tool, [name])
        head = self.head.replace("{json_name}", json.dumps(name, ensure_ascii=False)).replace("{name}", name)
        before, number, after = head.partition("{number}")
        parts = [rules.text(before)] if before else []
        parts += ["/[0-9]{1,3}/"] if number else []
        parts += [rules.text(after)] if after else []
        parts += [rules.add(json_rule(arguments_schema(tool)))]
        parts += [rules.text(self.tail)] if self.tail else []
        gap = ['"\\n"?'] if self.spaced else []
        return rules.add(" ".join([*gap, *parts, *gap]))

    def read(self, text: str, tools: Sequence[Mapping[str, Any]]) -> list[Call] | None:
        """Return the calls in a text that the grammar wrote; None: it is written in another way."""
        try:
            return self._read_objects(text) if "{json_name}" in self.head else self._read_headed(text)
        except (ValueError, RecursionError):
            return None

    def _read_objects(self, text: str) -> list[Call] | None:
        value = _DECODER.decode(text)
        calls = value if isinstance(value, list) else [value]
        whole = all(
            isinstance(call, dict) and isinstance(call.get("name"), str) and isinstance(call.get("arguments"), dict)
            for call in calls
        )
        return [(call["name"], call["arguments"]) for call in calls] if whole else None

    def _read_headed(self, text: str) -> list[Call] | None:
        head = re.compile(_pattern(self.head, "name").replace(re.escape("{number}"), "[0-9]+"))
        calls: list[Call] = []
        text = text.strip()
        place = 0
        while place < len(text):
            if (opened := head.search(text, place)) is None or (calls and text[place : opened.start()].isalnum()):
                return None
            arguments, place = _DECODER.raw_decode(text, opened.end())
            if not isinstance(arguments, dict) or not text.startswith(self.tail, place):
                return None
            place += len(self.tail)
            calls.append((opened["name"], arguments))
        return calls


@dataclass(frozen=True)
class TaggedCalls:
    """A call is `head`, for each argument `before` its value `after`, and `tail`, with line breaks or none between."""

    head: str
    before: str
    after: str
    tail: str

    def call(self, rules: Rules, tool: Mapping[str, Any]) -> str:
        """Return the expression for a call of `tool`."""
        parts = ['"\\n"?', rules.text(self.head.replace("{name}", tool_name(tool))), '"\\n"?']
        for argument in arguments_of(tool):
            block = f'{rules.text(self.before.replace("{key}", argument.name))} {self._value(rules, argument)} "\\n"?'
            parts.append(rules.add(block) + ("" if argument.required else "?"))
        return rules.add(" ".join([*parts, *([rules.text(self.tail), '"\\n"?'] if self.tail else [])]))

    def read(self, text: str, tools: Sequence[Mapping[str, Any]]) -> list[Call] | None:
        """Return the calls in a text that the grammar wrote; None: it is written in another way."""
        head = re.compile(_pattern(self.head, "name") + r"\s*")
        before, tail = re.compile(_pattern(self.before, "key")), re.compile(re.escape(self.tail) + r"\s*")
        calls: list[Call] = []
        text = text.strip()
        place = 0
        while place < len(text):
            if (opened := head.match(text, place)) is None:
                return None
            place, arguments, declared = opened.end(), {}, _declared(tools, opened["name"].strip())
            while (item := before.match(text, place)) is not None:
                argument = declared.get(item["key"])
                end = self._end(text, item.end(), argument)
                if end < 0:
                    return None
                arguments[item["key"]] = _read_value(text[item.end() : end], argument)
                place = len(text) - len(text[end + len(self.after) :].lstrip())
            if (closed := tail.match(text, place)) is None:
                return None
            place = closed.end()
            calls.append((opened["name"].strip(), arguments))
        return calls

    def _end(self, text: str, place: int, argument: Argument | None) -> int:
        """Return where a value ends: what closes it may also stand within its JSON."""
        if argument is None or argument.words is None:
            try:
                end = _DECODER.raw_decode(text, place)[1]
            except (ValueError, RecursionError):
                end = -1
            if end >= 0 and text.startswith(self.after, end):
                return end
        return text.find(self.after, place)

    def _value(self, rules: Rules, argument: Argument) -> str:
        words = argument.words
        if words is None:
            return f"{rules.add(json_rule(argument.schema))} {rules.text(self.after)}"
        if not words:
            return rules.any_text(self.after)
        return f"({' | '.join(map(rules.text, words))}) {rules.text(self.after)}"


@dataclass(frozen=True)
class ListedCalls:
    """A call is `head`, `key` `is_` value for each argument with commas between, `tail`; text stands in `quotes`."""

    head: str
    is_: str
    tail: str
    quotes: str = ""
    comma: str = ","

    def call(self, rules: Rules, tool: Mapping[str, Any]) -> str:
        """Return the expression for a call of `tool`."""
        first, later = '""', '""'
        for argument in reversed(arguments_of(tool)):
            item = rules.add(f"{rules.text(argument.name + self.is_)} {self._value(rules, argument)}")
            first, later = (
                rules.add(f"{item} {later}" + ("" if argument.required else f" | {first}")),
                rules.add(f"{rules.text(self.comma)} {item} {later}" + ("" if argument.required else f" | {later}")),
            )
        head = self.head.replace("{name}", tool_name(tool))
        return rules.add(f"{rules.text(head)} {first} {rules.text(self.tail)}")

    def read(self, text: str, tools: Sequence[Mapping[str, Any]]) -> list[Call] | None:
        """Return the calls in a text that the grammar wrote; None: it is written in another way."""
        head, key = re.compile(_pattern(self.head, "name")), re.compile(_pattern("{key}" + self.is_, "key"))
        calls: list[Call] = []
        place = 0
        while (opened := head.match(text, place)) is not None:
            place, arguments = opened.end(), {}
            while (item := key.match(text, place)) is not None:
                try:
                    arguments[item["key"]], place = self._read_value(text, item.end())
                except (ValueError, RecursionError):
                    return None
                place += len(self.comma) if text.startswith(self.comma, place) else 0
            if not text.startswith(self.tail, place):
                return None
            calls.append((opened["name"], arguments))
            place += len(self.tail) + (len(self.comma) if text.startswith(self.comma, place + len(self.tail)) else 0)
        return calls if place >= len(text) else None

    def _read_value(self, text: str, place: int) -> tuple[Any, int]:
        if self.quotes and text.startswith(self.quotes, place):
            end = text.index(self.quotes, place + len(self.quotes))
            return text[place + len(self.quotes) : end], end + len(self.quotes)
        return _DECODER.raw_decode(text, place)

    def _value(self, rules: Rules, argument: Argument) -> str:
        if not self.quotes or argument.words is None:
            return rules.add(json_rule(argument.schema))
        if not argument.words:
            return f"{rules.text(self.quotes)} {rules.any_text(self.quotes)}"
        return f"({' | '.join(rules.text(self.quotes + word + self.quotes) for word in argument.words)})"


@dataclass(frozen=True)
class Family:
    """How a family writes calls between its tool marks.

    With `wrapped` each call stands between marks of its own; else all stand between one pair, `between` them.
    """

    syntax: JsonCalls | TaggedCalls | ListedCalls
    wrapped: bool = True
    between: str = ""
    opening: str = ""
    closing: str = ""
    ends_with_answer: bool = False
    reader: Callable[[str], list[Call] | None] | None = None

    def read(self, text: str, tools: Sequence[Mapping[str, Any]]) -> list[Call] | None:
        """Return the calls between the marks, exactly as the grammar writes them; None: they are written otherwise."""
        if self.reader is not None:
            return self.reader(text)
        inner = text.strip()
        if not inner.startswith(self.opening) or not inner.endswith(self.closing):
            return None
        return self.syntax.read(inner[len(self.opening) : len(inner) - len(self.closing)], tools) or None

    def expression(
        self,
        rules: Rules,
        tools: Sequence[Mapping[str, Any]],
        marks: tuple[str, str],
        parallel: bool,
        *,
        again: bool = True,
    ) -> str:
        """Return the expression for one call, or with `parallel` for more; not `again`: with one pair of marks only.

        Raises:
            FormatInvalid: a tool's schema cannot be kept to in this syntax.
        """
        call = rules.add(" | ".join(self.syntax.call(rules, tool) for tool in tools))
        begin, end = (rules.text(mark) if mark else "" for mark in marks)
        if self.ends_with_answer:
            end, parallel = "", False
        if self.wrapped:
            call = rules.add(f"{begin} {call} {end}".strip())
            return f'{call} ("\\n"? {call}){{0,{MAX_CALLS - 1}}}' if parallel and again else call
        opening = f"{begin} {rules.text(self.opening) if self.opening else ''}"
        closing = f"{rules.text(self.closing) if self.closing else ''} {end}"
        between = rules.text(self.between) if self.between else ""
        more = f"({between} {call}){{0,{MAX_CALLS - 1}}}" if parallel else ""
        return f"{opening} {call} {more} {closing}".strip()
