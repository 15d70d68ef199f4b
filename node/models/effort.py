"""How hard a model is to think, in the words that chat templates have for it."""

import re
from typing import Any, Final

# From least to most; other APIs' words are among them.
_DEGREES: Final = ("minimal", "low", "medium", "high", "xhigh", "max")
# In templates that count thinking in tokens: 0 is none, -1 no bound.
_BUDGETS: Final = {"minimal": 512, "low": 512, "medium": 2048, "high": 8192, "xhigh": 16384, "max": -1}
_QUOTED: Final = re.compile(r"""['"](none|minimal|low|medium|high|xhigh|max)['"]""")
# A template's own default is one of its words, and says nothing about the others.
_DEFAULT: Final = re.compile(r"""(?:(?<![=!<>])=\s*|default\(\s*)['"]\w+['"]""")
# What a template takes where it names no words itself.
_USUAL: Final = frozenset({"low", "medium", "high"})


def thinking_variables(template: str, thinking: bool, effort: str) -> dict[str, Any]:
    """Return what a chat template is told about thinking; `effort` is empty for the template's own default.

    A switch is always passed, so that a template's own default never decides; a degree only where one was asked for.
    """
    variables: dict[str, Any] = {"enable_thinking": thinking, "thinking": thinking}
    if "reasoning_effort" in template:
        words = set(_QUOTED.findall(_DEFAULT.sub("", template)))
        if not thinking and "none" in words:
            variables["reasoning_effort"] = "none"
        elif effort in _DEGREES:
            variables["reasoning_effort"] = _nearest(effort, (words - {"none"}) or _USUAL)
    if "thinking_budget" in template:
        if not thinking:
            variables["thinking_budget"] = 0
        elif effort in _DEGREES:
            variables["thinking_budget"] = _BUDGETS[effort]
    return variables


def knows_thinking(template: str) -> bool:
    """Return whether a chat template has a switch or a degree for thinking."""
    return "thinking" in template or "reasoning_effort" in template


def _nearest(effort: str, words: "set[str] | frozenset[str]") -> str:
    """Return the word of the template for a degree: the same, or the nearest one, rather more than less."""
    place = _DEGREES.index(effort)
    return min(words, key=lambda word: (abs(_DEGREES.index(word) - place), -_DEGREES.index(word)))
