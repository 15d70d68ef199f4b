"""Which tools a request offers and which it demands, from the words of OpenAI's two APIs."""

from collections.abc import Callable, Sequence
from typing import Any, Final

from node.api.errors import BodyInvalid

_PLAIN: Final = ("none", "auto", "required")

Tool = dict[str, Any]


def function_tools(tools: Sequence[Tool] | None) -> list[Tool]:
    """Return `tools` as chat completions and chat templates write them.

    Raises:
        BodyInvalid: one of them is no function with a name.
    """
    for index, tool in enumerate(tools or ()):
        if tool.get("type", "function") != "function":
            kind = str(tool.get("type"))[:40]
            raise BodyInvalid(f"tools of type {kind!r} are not supported; only functions are", f"tools.{index}.type")
        if not isinstance(tool.get("function"), dict):
            raise BodyInvalid("a tool without a function", f"tools.{index}.function")
    return list(tools or ())


def parse_tool_choice(value: object, tools: Sequence[Tool], name_of: Callable[[Any], object]) -> tuple[str, list[Tool]]:
    """Return the choice as the models service words it, and the tools that are left to choose from.

    `name_of` reads the function's name out of an object that points to a tool.

    Raises:
        BodyInvalid: another word or object, a tool that is not among `tools`, or a demand without any tools.
    """
    allowed = list(tools)
    if isinstance(value, dict) and value.get("type") == "allowed_tools":
        value, allowed = _allowed(value.get("allowed_tools", value), tools, name_of)
    if value is None:
        return "auto", allowed
    if isinstance(value, str) and value in _PLAIN:
        choice = value
    elif isinstance(value, dict) and value.get("type") == "function" and isinstance(name_of(value), str):
        choice = f"function:{name_of(value)}"
        _require_known(name_of(value), tools)
    else:
        raise BodyInvalid("tool_choice must be none, auto, required, or name a function", "tool_choice")
    if not allowed and choice not in ("none", "auto"):
        raise BodyInvalid("tool_choice demands a tool, but there are no tools", "tool_choice")
    return choice, allowed


def _allowed(value: object, tools: Sequence[Tool], name_of: Callable[[Any], object]) -> tuple[object, list[Tool]]:
    chosen = value.get("tools") if isinstance(value, dict) else None
    mode = value.get("mode") if isinstance(value, dict) else None
    if mode not in ("auto", "required") or not isinstance(chosen, list):
        raise BodyInvalid("allowed_tools needs a mode, auto or required, and a list of tools", "tool_choice")
    names = [name_of(tool) for tool in chosen if isinstance(tool, dict)]
    for name in names:
        _require_known(name, tools)
    return mode, [tool for tool in tools if tool["function"].get("name") in names]


def _require_known(name: object, tools: Sequence[Tool]) -> None:
    if name not in [tool["function"].get("name") for tool in tools]:
        raise BodyInvalid(f"tool_choice names {str(name)[:80]!r}, which is not among tools", "tool_choice")
