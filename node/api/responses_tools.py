"""The tools of a response: functions, and custom tools, whose input is a text."""

import json
from collections.abc import Sequence
from typing import Any, Final

from node.api.errors import BodyInvalid
from node.api.responses_items import CUSTOM_INPUT

Tool = dict[str, Any]

_SHOWN: Final = ("name", "description", "parameters", "strict")
_EXPECTED: Final[dict[str, type]] = {"description": str, "parameters": dict, "strict": bool}


def read_tools(tools: Sequence[Tool] | None) -> tuple[list[Tool], list[Tool], frozenset[str]]:
    """Return the tools as the model hears of them, as the response shows them, and the names of the custom ones.

    Raises:
        BodyInvalid: a tool of another type, or one without a name.
    """
    heard, shown, custom = [], [], set()
    for index, tool in enumerate(tools or ()):
        kind, name = tool.get("type"), tool.get("name")
        if kind not in ("function", "custom"):
            reason = f"tools of type {str(kind)[:40]!r} are not supported; only functions and custom tools are"
            raise BodyInvalid(reason, f"tools.{index}.type")
        if not isinstance(name, str) or not name:
            raise BodyInvalid("a tool without a name", f"tools.{index}.name")
        for field, expected in _EXPECTED.items():
            if not isinstance(tool.get(field), expected | None):
                raise BodyInvalid(f"{field}: expected another type", f"tools.{index}.{field}")
        if kind == "function":
            shown.append({"type": "function", **{field: tool.get(field) for field in _SHOWN}})
            heard.append({"type": "function", "function": _function(tool)})
        else:
            custom.add(name)
            shown.append(tool)
            heard.append({"type": "function", "function": _of_text(tool)})
    return heard, shown, frozenset(custom)


def tool_name(choice: Any) -> object:
    """Return the name in an object of this API that points to a tool."""
    return choice.get("name")


def custom_input(arguments_json: str) -> str:
    """Return the text that a custom tool is called with."""
    return str(json.loads(arguments_json).get(CUSTOM_INPUT, arguments_json))


def _function(tool: Tool) -> Tool:
    function = {"name": tool["name"], "parameters": tool.get("parameters") or {"type": "object", "properties": {}}}
    return {**function, "description": tool["description"]} if tool.get("description") else function


def _of_text(tool: Tool) -> Tool:
    """Return a custom tool as a function of one text; what its grammar asks for is told to the model in words."""
    grammar = tool.get("format")
    definition = grammar.get("definition") if isinstance(grammar, dict) else None
    words = [str(tool.get("description") or ""), str(definition or "")]
    return {
        "name": tool["name"],
        "description": "\n\n".join(word for word in words if word),
        "parameters": {
            "type": "object",
            "properties": {CUSTOM_INPUT: {"type": "string"}},
            "required": [CUSTOM_INPUT],
            "additionalProperties": False,
        },
    }
