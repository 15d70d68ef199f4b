"""Modelfiles: the recipe of a model, parsed without losing anything and written back (specs/0009)."""

import difflib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final, NoReturn

from protocol.errors import MirInvalid, ModelfileInvalid
from protocol.foreign_words import FOREIGN_INSTRUCTIONS, FOREIGN_PARAMETERS
from protocol.mir import format_mir, parse_mir
from protocol.parameters import MAX_STOPS, PARAMETERS, Parameter, Value

MAX_MODELFILE_CHARS: Final = 1 << 20
ROLES: Final = ("system", "user", "assistant")


@dataclass(frozen=True)
class Modelfile:
    """What a Modelfile says. `parameters` keeps the order of the lines; only `stop` may stand there more than once."""

    base: str
    parameters: tuple[tuple[str, Value], ...] = ()
    template: str | None = None
    system: str | None = None
    adapter: str | None = None
    draft: str | None = None
    licenses: tuple[str, ...] = ()
    messages: tuple[tuple[str, str], ...] = ()
    mir: str | None = None


# All blank lines and comments at once: a file may have a million of them.
_IDLE: Final = re.compile(r"(?:[ \t]*+(?:#[^\n]*+)?\n)++")
_BLANK: Final = re.compile(r"[ \t]*")
_WORD: Final = re.compile(r"[^ \t\n]+")
_REST: Final = re.compile(r"[^\n]*")
# The closing fence is the last three of a run of quotes, so that text may end in a quote.
_BLOCK: Final = re.compile(r'"""(.*?)("{3,})', re.DOTALL)
_QUOTED_WORD: Final = re.compile(r'"([^"\n]*)"')
_JSON_MARK: Final = 'json"'
_UNPRINTABLE: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")


def parse_modelfile(text: str) -> Modelfile:
    """Return the recipe that `text` holds; a byte order mark and CRLF line ends are accepted.

    Raises:
        ModelfileInvalid: anything unknown, misplaced, out of range, trailing or given twice, with line and column.
    """
    return _Parser(text.removeprefix("\ufeff").replace("\r\n", "\n")).parse()


def format_modelfile(modelfile: Modelfile) -> str:
    """Return the text that parses back to exactly `modelfile`.

    Raises:
        ModelfileInvalid: a value that no Modelfile can hold, such as an unknown parameter; the place is the one in
            the text that would have been returned.
    """
    lines = [f"FROM {_format_word(modelfile.base)}"]
    lines += [f"PARAMETER {line}" for line in map(format_parameter, modelfile.parameters)]
    if modelfile.template is not None:
        lines.append(f"TEMPLATE {_format_text(modelfile.template)}")
    if modelfile.system is not None:
        lines.append(f"SYSTEM {_format_text(modelfile.system)}")
    if modelfile.adapter is not None:
        lines.append(f"ADAPTER {_format_word(modelfile.adapter)}")
    if modelfile.draft is not None:
        lines.append(f"DRAFT {_format_word(modelfile.draft)}")
    lines += [f"LICENSE {_format_text(text)}" for text in modelfile.licenses]
    lines += [f"MESSAGE {role} {_format_text(text)}" for role, text in modelfile.messages]
    if modelfile.mir is not None:
        lines.append(f"MIR {_format_word(modelfile.mir)}")
    text = "\n".join(lines) + "\n"
    parsed = parse_modelfile(text)
    if parsed != modelfile:
        raise ModelfileInvalid(1, 1, "values that a Modelfile can hold", "others")
    return text


def format_parameter(parameter: tuple[str, Value]) -> str:
    """Return a parameter's name and its value as a Modelfile spells it."""
    name, value = parameter
    return f"{name} {_format_text(value) if isinstance(value, str) else repr(value)}"


def inherit_modelfile(base: Modelfile, own: Modelfile) -> Modelfile:
    """Return `own` with what it leaves out taken from `base`, the recipe of the model that it is built FROM.

    Parameters are taken one by one (all `stop` lines together); messages and licences only where `own` has none.
    """
    names = {name for name, _ in own.parameters}
    inherited = tuple(pair for pair in base.parameters if pair[0] not in names)
    return replace(
        own,
        parameters=inherited + own.parameters,
        template=base.template if own.template is None else own.template,
        system=base.system if own.system is None else own.system,
        adapter=base.adapter if own.adapter is None else own.adapter,
        draft=base.draft if own.draft is None else own.draft,
        licenses=own.licenses or base.licenses,
        messages=own.messages or base.messages,
        mir=base.mir if own.mir is None else own.mir,
    )


class _Parser:
    """Reads one instruction after the other; `position` is the next character of `text`."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0
        self.first_use: dict[str, int] = {}
        self.values: dict[str, str] = {}
        self.parameters: list[tuple[str, Value]] = []
        self.licenses: list[str] = []
        self.messages: list[tuple[str, str]] = []
        self.instructions: dict[str, Callable[[int], None]] = {
            "FROM": lambda at: self.store_once("FROM", at, self.word("a model's name or directory")),
            "PARAMETER": self.parameter,
            "TEMPLATE": lambda at: self.store_once("TEMPLATE", at, self.value()),
            "SYSTEM": lambda _: self.values.update(SYSTEM=self.value()),
            "ADAPTER": lambda at: self.store_once("ADAPTER", at, self.word("an adapter's name or directory")),
            "DRAFT": lambda at: self.store_once("DRAFT", at, self.word("a small model's name or directory")),
            "LICENSE": lambda _: self.licenses.append(self.value()),
            "MESSAGE": self.message,
            "MIR": lambda at: self.store_once("MIR", at, self.mir_name()),
        }

    def parse(self) -> Modelfile:
        self.check_characters()
        while self.position < len(self.text):
            self.take(_IDLE)
            self.skip_blank()
            if not self.at_line_end() and self.text[self.position] != "#":
                self.instruction()
            else:
                self.take(_REST)
            self.position += 1
        if "FROM" not in self.values:
            self.position = len(self.text)
            self.fail("FROM", "the end of the file")
        return Modelfile(
            base=self.values["FROM"],
            parameters=tuple(self.parameters),
            template=self.values.get("TEMPLATE"),
            system=self.values.get("SYSTEM"),
            adapter=self.values.get("ADAPTER"),
            draft=self.values.get("DRAFT"),
            licenses=tuple(self.licenses),
            messages=tuple(self.messages),
            mir=self.values.get("MIR"),
        )

    def check_characters(self) -> None:
        if len(self.text) > MAX_MODELFILE_CHARS:
            self.position = MAX_MODELFILE_CHARS
            self.fail(f"at most {MAX_MODELFILE_CHARS} characters", str(len(self.text)))
        if unprintable := _UNPRINTABLE.search(self.text):
            self.position = unprintable.start()
            self.fail("text", f"the control character U+{ord(unprintable.group()):04X}")

    def instruction(self) -> None:
        start = self.position
        word = self.take(_WORD)
        read = self.instructions.get(word.upper())
        if read is None:
            self.position = start
            expected = f"an instruction ({', '.join(self.instructions)})"
            self.fail_unknown(expected, word, _nearest(word.upper(), self.instructions), FOREIGN_INSTRUCTIONS)
        self.skip_blank()
        read(start)

    def store_once(self, instruction: str, start: int, value: str) -> None:
        self.require_first(instruction, start)
        self.values[instruction] = value

    def require_first(self, what: str, start: int) -> None:
        if what in self.first_use:
            self.position = start
            first = self.line_of(self.first_use[what])
            self.fail(f"{what} once", f"it again after line {first}", remedy="keep one of the two lines")
        self.first_use[what] = start

    def parameter(self, start: int) -> None:
        at = self.position
        name = self.required_word("a parameter's name")
        known = PARAMETERS.get(name.lower())
        if known is None:
            self.position = at
            expected = f"a parameter ({', '.join(PARAMETERS)})"
            self.fail_unknown(expected, name, _nearest(name.lower(), PARAMETERS), FOREIGN_PARAMETERS)
        if name.lower() != "stop":
            self.require_first(f"PARAMETER {name.lower()}", start)
        self.skip_blank()
        if name.lower() == "stop" and sum(known == "stop" for known, _ in self.parameters) == MAX_STOPS:
            self.position = start
            self.fail(f"at most {MAX_STOPS} PARAMETER stop", "one more")
        self.parameters.append((name.lower(), self.parameter_value(known)))

    def parameter_value(self, known: Parameter) -> Value:
        start = self.position
        if known.kind is str:
            found = self.value()
            if not known.takes(found):
                self.position = start
                self.fail(known.expected, _quote(found))
            return found
        text = self.word(known.expected)
        number = known.read(text)
        if number is None:
            self.position = start
            self.fail(known.expected, _quote(text))
        return number

    def message(self, _: int) -> None:
        at = self.position
        role = self.required_word("a role (system, user, assistant)").lower()
        if role not in ROLES:
            self.position = at
            self.fail("a role (system, user, assistant)", _quote(role), _nearest(role, ROLES))
        self.skip_blank()
        self.messages.append((role, self.value()))

    def mir_name(self) -> str:
        """Take a MIR name and return its normalised spelling."""
        start = self.position
        found = self.word("a MIR name")
        try:
            return format_mir(parse_mir(found))
        except MirInvalid as error:
            inside = self.text.find(found, start)  # -1 where a JSON string spells it with escapes
            self.position = inside + error.offset if inside >= 0 else start
            self.fail(error.expected, error.found, error.nearest)

    def word(self, expected: str) -> str:
        """Take one word, bare or in quotes, after which nothing may follow."""
        start = self.position
        if self.at_json():
            found = self.json_text()
        elif self.text.startswith('"', start):
            quoted = _QUOTED_WORD.match(self.text, start)
            found = quoted.group(1) if quoted else ""
            self.position = quoted.end() if quoted else start
        else:
            found = self.required_word(expected)
        if not found:
            self.position = start
            self.fail(expected, _quote(self.peek(_WORD)))
        self.require_line_end()
        return found

    def value(self) -> str:
        """Take text up to the line's end, in quotes, in a block of three quotes, or as a JSON string."""
        if self.at_line_end():
            self.fail("text", self.line_end_name())
        if self.at_json():
            found = self.json_text()
        elif self.text.startswith('"""', self.position):
            found = self.block()
        else:
            return self.rest_of_line()
        self.require_line_end()
        return found

    def block(self) -> str:
        match = _BLOCK.match(self.text, self.position)
        if match is None:
            self.fail('text that ends in """', "no end of it")
        self.position = match.end()
        return match.group(1) + match.group(2)[3:]

    def rest_of_line(self) -> str:
        start = self.position
        found = self.take(_REST).rstrip(" \t")
        if not found.startswith('"'):
            return found
        if len(found) < 2 or not found.endswith('"'):
            self.position = start + len(found)
            self.fail('a closing " on the same line', self.line_end_name())
        return found[1:-1]

    def json_text(self) -> str:
        start = self.position
        try:
            found, self.position = json.JSONDecoder().raw_decode(self.text, start + len(_JSON_MARK) - 1)
            str(found).encode()
        except ValueError:  # no JSON string, or half of a surrogate pair in it
            self.position = start
            self.fail("a JSON string after json", _quote(self.peek(_WORD)))
        return str(found)

    def required_word(self, expected: str) -> str:
        if self.at_line_end():
            self.fail(expected, self.line_end_name())
        return self.take(_WORD)

    def require_line_end(self) -> None:
        self.skip_blank()
        if not self.at_line_end():
            found = self.peek(_REST)
            remedy = "put the comment on a line of its own" if found.startswith("#") else ""
            self.fail("the end of the line", _quote(found), remedy=remedy)

    def peek(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self.text, self.position)
        return match.group() if match else ""

    def take(self, pattern: re.Pattern[str]) -> str:
        found = self.peek(pattern)
        self.position += len(found)
        return found

    def skip_blank(self) -> None:
        self.take(_BLANK)

    def at_json(self) -> bool:
        return self.text.startswith(_JSON_MARK, self.position)

    def at_line_end(self) -> bool:
        return self.position >= len(self.text) or self.text[self.position] == "\n"

    def line_end_name(self) -> str:
        return "the end of the line" if self.position < len(self.text) else "the end of the file"

    def line_of(self, position: int) -> int:
        return self.text.count("\n", 0, position) + 1

    def fail_unknown(self, expected: str, word: str, nearest: str | None, foreign: Mapping[str, str]) -> NoReturn:
        """Refuse a word; of one that other programs know, the hint says what became of it."""
        if remedy := foreign.get(word.upper()) or foreign.get(word.lower()):
            self.fail(expected, f"{_quote(word)}, which other programs know", remedy=remedy)
        self.fail(expected, _quote(word), nearest)

    def fail(self, expected: str, found: str, nearest: str | None = None, remedy: str = "") -> NoReturn:
        column = self.position - self.text.rfind("\n", 0, self.position)
        raise ModelfileInvalid(self.line_of(self.position), column, expected, found, nearest, remedy)


def _nearest(word: str, known: Iterable[str]) -> str | None:
    close = difflib.get_close_matches(word[:40], list(known), n=1, cutoff=0.6)
    return close[0] if close else None


def _quote(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:39]}…")


def _format_word(word: str) -> str:
    if _WORD.fullmatch(word) and not word.startswith(('"', _JSON_MARK)) and not _UNPRINTABLE.search(word):
        return word
    if '"' not in word and "\n" not in word and not _UNPRINTABLE.search(word):
        return f'"{word}"'
    return _format_json(word)


def _format_text(text: str) -> str:
    """Return the plainest spelling of `text`: bare, in quotes, as a block, as a JSON string."""
    if _UNPRINTABLE.search(text):
        return _format_json(text)
    if "\n" not in text:
        bare = text and text == text.strip(" \t") and not text.startswith(('"', _JSON_MARK))
        quoted = f'"{text}"'
        if bare or not quoted.startswith('"""'):
            return text if bare else quoted
    return _format_json(text) if '"""' in text else f'"""{text}"""'


def _format_json(text: str) -> str:
    return f"json{json.dumps(text)}"
