"""JSON schemas as grammars: how the compiler (llguidance) is told, how much it may take, and what it says."""

import json
from collections.abc import Mapping
from typing import Any, Final

import llguidance

from node.models.errors import FormatInvalid

MAX_LEXER_STATES: Final = 50_000
MAX_REASON_CHARS: Final = 300
# One space, or a line break with its indentation: never an endless run of white space.
WHITESPACE: Final = r" ?|\n{1,2}[ \t]{0,24}"
_OPTIONS: Final = {
    "whitespace_flexible": True,
    "whitespace_pattern": WHITESPACE,
    "item_separator": ",",
    "key_separator": ":",
    "coerce_one_of": False,
    "lenient": False,
    "json_allow_general_unicode_escapes": False,
}


def json_rule(schema: Mapping[str, Any]) -> str:
    """Return the grammar expression for a JSON value of `schema`, whose own compiler options do not count."""
    return "%json " + json.dumps({**schema, "x-guidance": _OPTIONS}, ensure_ascii=False)


def parser_limits() -> llguidance.LLParserLimits:
    """Return what compiling and stepping may take: a step ends within tens of milliseconds, with an error."""
    return llguidance.LLParserLimits(max_lexer_states=MAX_LEXER_STATES, verbose_errors=False)


def compiled(tokenizer: llguidance.LLTokenizer, lark: str, limits: llguidance.LLParserLimits) -> llguidance.LLMatcher:
    """Return a matcher for a grammar that allows at least one beginning of an answer.

    Raises:
        FormatInvalid: with the compiler's reason, which names the keyword.
    """
    grammar = llguidance.LLMatcher.grammar_from_lark(lark)
    matcher = llguidance.LLMatcher(tokenizer, grammar, log_level=0, limits=limits)
    if not matcher.is_error():
        matcher.compute_bitmask()
    if matcher.is_error():
        raise FormatInvalid(reason_of(matcher.get_error()))
    if matcher.is_stopped() and not matcher.is_accepting():
        raise FormatInvalid("no answer can keep to it")
    return matcher


def reason_of(error: str) -> str:
    """Return the compiler's reason in one line."""
    lines = error.split("\n")
    if lines[0].startswith("NoExtension"):
        return "no answer can keep to it"
    reason = lines[0].rpartition("failed to compile JSON schema: ")[2]
    if reason.startswith("regex parse error"):  # a drawing of the place follows, and then what is wrong there
        reason = next((f"pattern: {line[7:]}" for line in lines if line.startswith("error: ")), reason)
    return reason[:MAX_REASON_CHARS] or "it cannot be compiled"
