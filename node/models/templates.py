"""Chat templates: messages in, one prompt text out, by Jinja in a sandbox with caps.

Templates come from publishers and are hostile until proven otherwise. The sandbox is immutable, knows no loader and
no file, and bounds its own size; the caller bounds time and memory (`node.models.limits`).
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import lru_cache
from typing import Any, Final, NoReturn, TypeAlias

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from node.models.effort import thinking_variables
from node.models.errors import TemplateForeign, TemplateInvalid

MAX_TEMPLATE_CHARS: Final = 256 * 1024
MAX_PROMPT_CHARS: Final = 32 * 1024 * 1024
MAX_INTEGER_BITS: Final = 4096

# Go's template language, as other programs' Modelfiles use it: fields begin with a dot and blocks end with "end".
_GO_MARKS: Final = re.compile(
    r"""\{\{-?\s*(?:(?:if|range|with|else\ if)\s+(?:not\s+|and\s+|or\s+|eq\s+|ne\s+|len\s+|\(+|\$\w*\s*,?\s*)*[.$]"""
    r"""|[.$]\w*|(?:end|else)\s*-?\}\}|(?:template|block|define)\s+")""",
    re.VERBOSE,
)

# What Jinja's own filters and functions raise at values that they do not take.
_OF_FILTERS: Final = (
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    RuntimeError,
)

Message: TypeAlias = Mapping[str, Any]


def render_chat(
    template: str,
    messages: Sequence[Message],
    *,
    tools: Sequence[Mapping[str, Any]],
    thinking: bool,
    special_tokens: Mapping[str, str],
    now: datetime,
    effort: str = "",
) -> str:
    """Return the prompt that `template` makes of `messages`, ending where the assistant's words begin.

    Whether to think is always passed, so a template's own default never decides; `effort` is how hard, for templates
    that know degrees. `special_tokens` maps names such as `bos_token` to their text.

    Raises:
        TemplateInvalid: not Jinja, over a cap, or the template itself refused the messages.
    """
    with _refusals():
        pieces = _compile(template).generate(
            messages=messages,
            tools=list(tools) or None,
            documents=None,
            add_generation_prompt=True,
            **thinking_variables(template, thinking, effort),
            strftime_now=now.strftime,
            **special_tokens,
        )
        return _join(pieces)


def check_template(template: str) -> None:
    """Accept a template that `render_chat` can run; what it makes of messages shows when it has some.

    Raises:
        TemplateForeign: it is written in Go's template language.
        TemplateInvalid: it is not Jinja, or over a cap.
    """
    with _refusals():
        _compile(template)


def is_go_template(template: str) -> bool:
    """Return whether `template` looks like Go's template language rather than Jinja."""
    return _GO_MARKS.search(template) is not None


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except SecurityError as error:
        raise TemplateInvalid(f"not allowed: {error}") from error
    except jinja2.TemplateSyntaxError as error:
        raise TemplateInvalid(f"line {error.lineno}: {error.message}") from error
    except (RecursionError, MemoryError) as error:
        raise TemplateInvalid("needs more memory than a template may use") from error
    except (jinja2.TemplateError, *_OF_FILTERS) as error:
        raise TemplateInvalid(str(error)[:300]) from error


def _join(pieces: Any) -> str:
    prompt: list[str] = []
    room = MAX_PROMPT_CHARS
    for piece in pieces:
        room -= len(piece)
        if room < 0:
            raise TemplateInvalid(f"made a prompt of more than {MAX_PROMPT_CHARS} characters")
        prompt.append(piece)
    return "".join(prompt)


@lru_cache(maxsize=8)
def _compile(template: str) -> jinja2.Template:
    if len(template) > MAX_TEMPLATE_CHARS:
        raise TemplateInvalid(f"{len(template)} characters, at most {MAX_TEMPLATE_CHARS} are allowed")
    if found := _GO_MARKS.search(template):
        line = template.count("\n", 0, found.start()) + 1
        raise TemplateForeign(f"line {line} of it: {found.group()[:40]!r}")
    # The same language that model publishers write for: trimmed blocks, loop controls, {% generation %}.
    sandbox = _Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
    sandbox.filters["tojson"] = _to_json
    sandbox.globals["raise_exception"] = _refuse
    return sandbox.from_string(template)


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's sandbox plus a bound on what one multiplication or power may build."""

    intercepted_binops = frozenset({"*", "**"})

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "**" and isinstance(left, int) and isinstance(right, int):
            _require_small(left.bit_length() * max(right, 0))
        elif operator == "*" and isinstance(left, int) and isinstance(right, int):
            _require_small(left.bit_length() + right.bit_length())
        elif operator == "*":
            _require_short(left, right)
            _require_short(right, left)
        return super().call_binop(context, operator, left, right)


def _require_small(bits: int) -> None:
    if bits > MAX_INTEGER_BITS:
        raise SecurityError(f"a number of {bits} bits, at most {MAX_INTEGER_BITS}")


def _require_short(sequence: Any, count: Any) -> None:
    if isinstance(sequence, str | list | tuple) and isinstance(count, int) and len(sequence) * count > MAX_PROMPT_CHARS:
        raise SecurityError(f"a repetition {len(sequence)} x {count} long")


class _Generation(Extension):
    """`{% generation %}` marks the assistant's words for training; here it only lets its body through."""

    tags = {"generation"}  # noqa: RUF012 - Jinja declares this as a plain class attribute

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False
) -> str:
    # Jinja's own filter escapes for HTML, which no model was trained on.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(message: str) -> NoReturn:
    raise jinja2.TemplateError(str(message))
