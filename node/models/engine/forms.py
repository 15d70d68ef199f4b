"""What one answer must look like and what its text means: the constraint on its tokens, and the cutting of its text.

An `Answerer` asks `Forms.form` for each request, gives `Form.constraint` to the row, and feeds the text that comes out
to the form: what was said, what was thought, and which tools were called come back.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from node.models.effort import knows_thinking
from node.models.engine.dialect import CONTENT, Splitter, dialect_of
from node.models.engine.grammar import Grammars, Matching
from node.models.engine.phases import AfterThinking, FromMark, WithoutMark
from node.models.engine.rows import Constraint
from node.models.engine.text_stream import Kind, Segment
from node.models.engine.tool_families import family_of
from node.models.engine.tools import Rules
from node.models.errors import CapabilityMissing
from node.models.json_grammar import json_rule
from node.models.json_schemas import compiled_form, format_schema, is_strict, require_tools, tool_name
from protocol.worker.messages import MAX_NAME_BYTES, Generate

NAMED: Final = "function:"
ReadCalls = Callable[[str, Sequence[Mapping[str, Any]]], list[tuple[str, str]]]
Tools = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Said:
    """The next words of the answer, or of the thinking before it."""

    text: str
    thinking: bool


@dataclass(frozen=True)
class Called:
    """The model called a tool; the arguments are a JSON object as text."""

    name: str
    arguments_json: str


class Form:
    """The form of one answer.

    `constraint` is what its tokens must keep to, None where they are free. When `ended` turns true the answer is over,
    as if the model had ended it.
    """

    def __init__(
        self, constraint: Constraint | None, splitter: Splitter, read: "Callable[[str], list[Called]]"
    ) -> None:
        self.constraint = constraint
        self.ended = False
        self._splitter = splitter
        self._read = read

    @property
    def whole(self) -> bool:
        """Whether all that was asked for is said: where tokens are used up just then, nothing was cut off."""
        return self.constraint is not None and self.constraint.ended

    def feed(self, text: str) -> list[Said | Called]:
        """Return what is certain after `text`, the next words of the model."""
        return self._meaning(self._splitter.feed(text))

    def finish(self) -> list[Said | Called]:
        """Return what was held back; nothing more comes."""
        return self._meaning(self._splitter.finish())

    def _meaning(self, segments: Sequence[Segment]) -> list[Said | Called]:
        pieces: list[Said | Called] = []
        for segment in segments:
            if self.ended:
                break
            if segment.kind is not Kind.TOOL_CALL:
                pieces.append(Said(segment.text, segment.kind is Kind.THINKING))
                continue
            # What is no call is still something the model said; hiding it would leave an empty answer.
            pieces += self._read(segment.text) or [Said(segment.text, False)]
        return pieces


class _OneCall(Form):
    """The form of an answer that ends with its first call."""

    def _meaning(self, segments: Sequence[Segment]) -> list[Said | Called]:
        pieces = super()._meaning(segments)
        calls = [place for place, piece in enumerate(pieces) if isinstance(piece, Called)]
        self.ended = self.ended or bool(calls)
        return pieces[: calls[0] + 1] if calls else pieces


class Forms:
    """The forms that one model's answers can take."""

    def __init__(self, tokenizer: Any, vocabulary: int, read_calls: ReadCalls) -> None:
        """Take mlx-lm's wrapper of the tokenizer, the width of the logits, and the parser of the model's family."""
        self.dialect = dialect_of(tokenizer)
        self._tokenizer = tokenizer
        words = tokenizer.get_vocab()
        self._family = family_of(self.dialect.parser, words)
        self._grammars = Grammars(tokenizer._tokenizer, vocabulary, tokenizer.eos_token_ids)
        self._read_calls = read_calls

    @property
    def can_use_tools(self) -> bool:
        """Whether the model has a way to call tools."""
        return self.dialect.tool is not None

    def can_think(self, template: str | None) -> bool:
        """Whether the model can be told to think, by its `template` or, where it has none, by its renderer."""
        if self.dialect.think is None:
            return False
        return template is None or self.dialect.think[0] in template or knows_thinking(template)

    def token_bytes(self, token: int) -> bytes:
        """Return what a token says by itself, its space before it included; nothing for those that end an answer.

        Raises:
            CapabilityMissing: the tokenizer is of a kind whose tokens have no known bytes.
        """
        return self._grammars.token_bytes(token)

    def tools_for_prompt(self, request: Generate) -> list[dict[str, Any]]:
        """Return the tools that the prompt is to show: none where none may be called."""
        tools: list[dict[str, Any]] = json.loads(request.tools_json)
        return [] if request.tool_choice == "none" else tools

    def form(self, request: Generate, prompt: str) -> Form:
        """Return the form of the answer to `request`, whose rendered prompt is `prompt`.

        Raises:
            FormatInvalid: the schema, or a tool's, does not compile.
            ToolsInvalid: a tool without a name, two of one name, or a choice that is none of them.
            CapabilityMissing: the model's calls cannot be held to a choice, or its tokens to a format.
        """
        schema = format_schema(None if request.format_json is None else json.loads(request.format_json))
        if request.prompt is not None:
            rule = None if schema is None else json_rule(compiled_form(schema))
            return Form(self._held(rule), Splitter({}, CONTENT), lambda _: [])
        tools: Tools = json.loads(request.tools_json)
        require_tools(tools, request.tool_choice)
        opened = self.dialect.opened_thinking(prompt)
        enforced = bool(tools) and request.tool_choice not in ("none", "auto")
        offered = () if request.tool_choice == "none" else tools
        held = schema is not None or enforced or (self._family is not None and any(map(is_strict, offered)))
        splitter = Splitter.of(
            self.dialect,
            thinking=request.thinking,
            tools=bool(offered),
            opened=opened,
            strict=schema is not None or enforced,
            is_call=partial(self._is_exact_call, offered) if held else None,
        )
        constraint = self._constraint(request, tools, schema, opened)
        one = bool(offered) and (not request.parallel_tool_calls or request.tool_choice.startswith(NAMED))
        return (_OneCall if one else Form)(constraint, splitter, lambda text: self._calls(text, offered))

    def _constraint(
        self, request: Generate, tools: Tools, schema: dict[str, Any] | bool | None, opened: bool
    ) -> Constraint | None:
        choice = request.tool_choice
        if tools and choice == "none" and schema is None and self.dialect.tool is not None:
            return WithoutMark(self._grammars, self.dialect.tool[0])
        if schema is None and (not tools or choice in ("none", "auto")):
            return self._strict_calls(request, tools) if choice == "auto" and any(map(is_strict, tools)) else None
        thinks = self.dialect.think is not None and (request.thinking or opened or self.dialect.has_headers)
        if not thinks:
            return Matching(self._grammars.matcher(self._lark(request, tools, schema, behind=False)), self._grammars)
        behind = self._lark(request, tools, schema, behind=True)
        self._grammars.matcher(behind)  # what does not compile is said now, not when the thinking ends
        direct = None if opened else self._grammars.matcher(self._lark(request, tools, schema, behind=False))
        return AfterThinking(
            self._grammars,
            None if direct is None else Matching(direct, self._grammars),
            lambda: Matching(self._grammars.matcher(behind), self._grammars),
            self._opening_tokens(),
            self.dialect.think[1] if self.dialect.think else "",
        )

    def _strict_calls(self, request: Generate, tools: Tools) -> Constraint | None:
        """Return what holds the calls that the model makes by itself, where a tool wants that; the words are free."""
        if self._family is None or self.dialect.tool is None:
            return None
        rules, (begin, end) = Rules(self._grammars), self.dialect.tool
        lark = rules.lark(self._family.expression(rules, tools, ("", end), request.parallel_tool_calls, again=False))
        self._grammars.matcher(lark)  # what does not compile is said now
        return FromMark(self._grammars, begin, lambda: Matching(self._grammars.matcher(lark), self._grammars))

    def _held(self, rule: str | None) -> Constraint | None:
        return None if rule is None else Matching(self._grammars.matcher(f"start: {rule}"), self._grammars)

    def _lark(self, request: Generate, tools: Tools, schema: dict[str, Any] | bool | None, *, behind: bool) -> str:
        """Return the grammar of the answer; `behind` its thinking, if there was some."""
        rules = Rules(self._grammars)
        ways: list[str] = []
        enforced = bool(tools) and request.tool_choice not in ("none", "auto")
        if schema is not None and not enforced:
            header = rules.text(self.dialect.to_answer) if self.dialect.to_answer else ""
            ways.append(f"{header} {json_rule(compiled_form(schema))}".strip())
        if tools and request.tool_choice != "none":
            ways.append(self._calls_rule(rules, request, tools))
        gap = ""
        if behind:
            gap = rules.text(self.dialect.after_thinking) if self.dialect.after_thinking else '"\\n"? "\\n"?'
        return rules.lark(f"{gap} {rules.add(' | '.join(ways))}".strip())

    def _calls_rule(self, rules: Rules, request: Generate, tools: Tools) -> str:
        choice = request.tool_choice
        if self._family is None or self.dialect.tool is None:
            wanted = "a format together with tools" if choice == "auto" else f"tool_choice {choice.partition(':')[0]!r}"
            raise CapabilityMissing("the model", f"{wanted}: there is no grammar for the way in which it calls tools")
        chosen = [tool for tool in tools if not choice.startswith(NAMED) or tool_name(tool) == choice[len(NAMED) :]]
        parallel = request.parallel_tool_calls and not choice.startswith(NAMED)
        header = rules.text(self.dialect.to_call) if self.dialect.to_call else ""
        return f"{header} {rules.add(self._family.expression(rules, chosen, self.dialect.tool, parallel))}".strip()

    def _opening_tokens(self) -> list[int]:
        begin = self.dialect.think[0] if self.dialect.think else ""
        token = self._tokenizer.get_vocab().get(begin)
        return [token] if token is not None else list(self._tokenizer.encode(begin, add_special_tokens=False))

    def _is_exact_call(self, tools: Tools, text: str) -> bool:
        return self._family is not None and self._family.read(text, tools) is not None

    def _calls(self, text: str, tools: Tools) -> list[Called]:
        exact = self._family.read(text, tools) if self._family is not None else None
        if exact is None:
            return [Called(name, arguments_json) for name, arguments_json in self._read_calls(text, tools)]
        calls = [Called(name, json.dumps(arguments, ensure_ascii=False)) for name, arguments in exact]
        try:
            "".join(call.arguments_json for call in calls).encode()
            can_be_told = all(0 < len(call.name.encode()) <= MAX_NAME_BYTES for call in calls)
        except UnicodeEncodeError:  # halves of characters, which a model can write as escapes, are no text
            return []
        return calls if can_be_told else []
