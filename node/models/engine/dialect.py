"""How a model's family marks its thinking, its answer and its tool calls in the text; and the cutting along the marks.

A family's marks are a small state machine over text: in each place, which mark leads to which place. The places have
names; `KINDS` says what a reader sees of each. Matching on text rather than on tokens holds however a mark is spelled.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from node.models.engine.text_stream import Kind, Segment, held_back

# The answer before its first word: here thinking may still begin.
OPENING: Final = "opening"
CONTENT: Final = "content"
THINKING: Final = "thinking"
TOOL: Final = "tool"
# Who speaks to whom: marks of the family that nobody reads.
HEADER: Final = "header"
KINDS: Final[Mapping[str, Kind]] = {
    OPENING: Kind.CONTENT,
    CONTENT: Kind.CONTENT,
    THINKING: Kind.THINKING,
    TOOL: Kind.TOOL_CALL,
}

Marks = Mapping[str, Sequence[tuple[str, str]]]


@dataclass(frozen=True)
class Dialect:
    """A family's marks.

    `think` and `tool` are what opens and closes thinking and tool calls; `parser` names the syntax between the tool
    marks. In families that give each message a header, `marks` are all of them and `start` the place where the
    model's words begin; `to_answer` and `to_call` are what stands before an answer and a call, `after_thinking` what
    stands before that when there was thinking. `dropped` are marks within the content that nobody reads.
    """

    think: tuple[str, str] | None = None
    tool: tuple[str, str] | None = None
    parser: str = ""
    marks: Marks = field(default_factory=dict)
    start: str = OPENING
    to_answer: str = ""
    to_call: str = ""
    after_thinking: str = ""
    dropped: tuple[str, ...] = ()

    @property
    def has_headers(self) -> bool:
        """Whether each message of the model begins with a header."""
        return bool(self.marks)

    def opened_thinking(self, prompt: str) -> bool:
        """Return whether the rendered `prompt` ends within thinking that it opened itself."""
        if self.think is None:
            return False
        begin, end = self.think
        return prompt.rfind(begin) > prompt.rfind(end) and not prompt[prompt.rfind(begin) + len(begin) :].strip()


# OpenAI's harmony: each message says its channel; a call's name stands in its header, its arguments are the text.
HARMONY: Final = Dialect(
    think=("<|channel|>analysis<|message|>", "<|end|>"),
    tool=("to=functions.", "<|call|>"),
    parser="harmony",
    start=HEADER,
    to_answer="<|channel|>final<|message|>",
    to_call="<|channel|>commentary ",
    after_thinking="<|start|>assistant",
    marks={
        HEADER: (
            ("<|channel|>analysis", "analysis header"),
            ("<|channel|>final", "answer header"),
            ("<|channel|>commentary", "commentary header"),
            ("to=functions.", TOOL),
        ),
        "analysis header": (("<|message|>", THINKING), ("to=functions.", TOOL)),
        "answer header": (("<|message|>", CONTENT),),
        "commentary header": (("<|message|>", CONTENT), ("to=functions.", TOOL)),
        THINKING: (("<|end|>", HEADER), ("<|start|>", HEADER)),
        CONTENT: (("<|end|>", HEADER), ("<|start|>", HEADER), ("<|return|>", HEADER)),
        TOOL: (("<|call|>", HEADER), ("<|end|>", HEADER), ("<|start|>", HEADER)),
    },
)
MUSE_SPARK: Final = Dialect(
    think=("to=self<|message|>", "<|eom|>"),
    tool=("<atem:function_calls>", "</atem:function_calls>"),
    parser="muse_spark",
    start=HEADER,
    to_answer="to=user<|message|>",
    after_thinking="<|start|>assistant ",
    marks={
        HEADER: (
            ("to=self<|message|>", THINKING),
            ("to=user<|message|>", CONTENT),
            ("to=commentary<|message|>", CONTENT),
            ("<atem:function_calls>", TOOL),
        ),
        THINKING: (("<|eom|>", HEADER), ("<atem:function_calls>", TOOL)),
        CONTENT: (("<|eom|>", HEADER), ("<|eot|>", HEADER)),
        TOOL: (("</atem:function_calls>", HEADER),),
    },
)


# Families whose tags mlx-lm does not look for, or not where they are several tokens.
_MORE_TAGS: Final = (
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<seed:think>", "</seed:think>"),
    ("<|inner_prefix|>", "<|inner_suffix|>"),
)


def dialect_of(tokenizer: Any) -> Dialect:
    """Return the dialect of a model by mlx-lm's wrapper of its tokenizer."""
    vocabulary = tokenizer.get_vocab()
    if all(mark in vocabulary for mark in ("<|channel|>", "<|message|>", "<|start|>", "<|return|>")):
        return HARMONY
    parser = str(tokenizer.init_kwargs.get("tool_parser_type") or "") if tokenizer.has_tool_calling else ""
    if parser == "muse_spark" or tokenizer.response_initial_state == "header":
        return MUSE_SPARK
    markers = tuple(tokenizer.structural_markers)
    return Dialect(
        think=(tokenizer.think_start, tokenizer.think_end) if tokenizer.has_thinking else _more_tags(tokenizer),
        tool=(tokenizer.tool_call_start, tokenizer.tool_call_end) if tokenizer.has_tool_calling else None,
        parser=parser,
        to_answer=markers[0] if markers else "",
        dropped=markers,
    )


def _more_tags(tokenizer: Any) -> tuple[str, str] | None:
    vocabulary, template = tokenizer.get_vocab(), str(tokenizer.chat_template)
    for begin, end in _MORE_TAGS:
        if (begin in vocabulary and end in vocabulary) or (begin in template and end in template):
            return begin, end
    return None


class Splitter:
    """Cuts the model's text along the marks; holds back what could still become one."""

    def __init__(self, marks: Marks, start: str, is_call: Callable[[str], bool] | None = None) -> None:
        """Take the marks of each place and the place where the text begins.

        With `is_call` the mark that closes a tool call counts only behind what is one: before, it is the call's words.
        """
        self._marks = marks
        self._is_call = is_call
        self._place = start
        self._held = ""
        # Up to where the marks that close a call were found to be its words: what is before them does not change.
        self._passed: dict[str, int] = {}
        self._trim = start in (THINKING, HEADER)

    @classmethod
    def of(
        cls,
        dialect: Dialect,
        *,
        thinking: bool,
        tools: bool,
        opened: bool,
        strict: bool,
        is_call: Callable[[str], bool] | None = None,
    ) -> "Splitter":
        """Return the splitter for one answer of a conversation.

        `thinking` says that it was asked for, `tools` that calls are to be cut out, `opened` that the prompt opened the
        thinking, `strict` that the answer is held to a format, so that marks within it are the answer's own words.
        """
        if dialect.has_headers:
            return cls(dialect.marks, THINKING if opened else dialect.start, is_call)
        marks: dict[str, list[tuple[str, str]]] = {OPENING: [], CONTENT: [], THINKING: [], TOOL: []}
        if dialect.think is not None:
            for place in (OPENING,) if strict or not thinking else (OPENING, CONTENT):
                marks[place].append((dialect.think[0], THINKING))
            marks[THINKING].append((dialect.think[1], OPENING))
        if dialect.tool is not None and tools:
            for place in (OPENING,) if strict else (OPENING, CONTENT, THINKING):
                marks[place].append((dialect.tool[0], TOOL))
            marks[TOOL] += [(dialect.tool[1], OPENING)] if dialect.tool[1] else []
        for mark in dialect.dropped:
            marks[OPENING].append((mark, OPENING))
            marks[CONTENT].append((mark, CONTENT))
        return cls(marks, THINKING if opened else OPENING, is_call)

    def feed(self, text: str) -> list[Segment]:
        """Return the pieces that are certain after `text`."""
        self._held += text
        pieces: list[Segment] = []
        while (found := self._next_mark()) is not None:
            start, mark, place = found
            before, self._held = self._held[:start], self._held[start:]
            self._passed.clear()
            here = self._place
            self._emit(pieces, before)
            if self._place == here:  # words before the mark may lead to a place where it is none
                self._held = self._held[len(mark) :]
                self._place, self._trim = place, True
        if KINDS.get(self._place) is not Kind.TOOL_CALL:
            keep = held_back(self._held, [mark for mark, _ in self._marks.get(self._place, ())])
            words, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
            self._emit(pieces, words)
        return pieces

    def finish(self) -> list[Segment]:
        """Return what was held back; a tool call that the model left open still counts as one."""
        pieces: list[Segment] = []
        self._emit(pieces, self._held)
        self._held = ""
        return pieces

    def _next_mark(self) -> tuple[int, str, str] | None:
        places = [(self._find(mark), mark, place) for mark, place in self._marks.get(self._place, ())]
        found = [place for place in places if place[0] >= 0]
        return min(found, key=lambda place: place[0]) if found else None

    def _find(self, mark: str) -> int:
        start = self._held.find(mark, self._passed.get(mark, 0))
        if self._place == TOOL and self._is_call is not None:
            while start >= 0 and not self._is_call(self._held[:start]):
                self._passed[mark] = start + 1
                start = self._held.find(mark, start + 1)
        return start

    def _emit(self, pieces: list[Segment], text: str) -> None:
        kind = KINDS.get(self._place)
        if kind is None:
            return
        if self._trim:  # the line breaks around the marks belong to the marks
            text = text.lstrip()
        if text:
            self._trim = False
            if self._place == OPENING and not text.isspace():
                self._place = CONTENT
            pieces.append(Segment(kind, text))
