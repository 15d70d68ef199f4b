"""JSON schemas and tools as requests bring them: bounded, and worded as the grammar compiler takes them.

Pure, and used on both sides: the node refuses what is too large before a worker sees it.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from node.models.errors import FormatInvalid, ToolsInvalid

MAX_SCHEMA_BYTES: Final = 512 * 1024
MAX_DEPTH: Final = 100
MAX_NODES: Final = 20_000
MAX_TOOLS: Final = 1024
MAX_TOOL_NAME_CHARS: Final = 256

# What the compiler knows; by the standard any other format is a remark that binds nobody.
KNOWN_FORMATS: Final = frozenset(
    {"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"}
)
# Below these keys stand names or plain values, not schemas.
_NAMED: Final = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})
_VALUES: Final = frozenset({"enum", "const", "default", "examples", "required"})
_COMPILER_OPTIONS: Final = "x-guidance"
# Keywords whose compilation can take long however short the schema is.
_COSTLY: Final = frozenset({"pattern", "patternProperties", "multipleOf", "allOf", "oneOf", "$ref"})
_COUNTS: Final = frozenset({"minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"})
_PLAIN_NODES: Final = 400
_PLAIN_COUNT: Final = 1000
_PLAIN_NUMBER: Final = 10**9
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")


def format_schema(format_: object) -> dict[str, Any] | bool | None:
    """Return the JSON schema that a request's `format` stands for: None for none, an object for "json".

    Raises:
        FormatInvalid: it is neither "json" nor a JSON schema, or too large.
    """
    if format_ is None:
        return None
    if format_ == "json":
        return {"type": "object"}
    if not isinstance(format_, dict | bool):
        raise FormatInvalid('expected "json" or a JSON schema')
    require_bounded(format_, "the schema")
    return format_


def require_bounded(schema: object, where: str) -> None:
    """Accept a schema whose text, depth and number of values are bounded.

    Raises:
        FormatInvalid: it is too large, too deep, or no JSON.
    """
    for count, (depth, _key, _value) in enumerate(_walk(schema)):
        if depth > MAX_DEPTH:
            raise FormatInvalid(f"{where} is nested more than {MAX_DEPTH} levels deep")
        if count >= MAX_NODES:
            raise FormatInvalid(f"{where} has more than {MAX_NODES} values")
    try:
        size = len(json.dumps(schema, ensure_ascii=False, allow_nan=False).encode())
    except (ValueError, TypeError) as error:
        raise FormatInvalid(f"{where} is no JSON") from error
    if size > MAX_SCHEMA_BYTES:
        raise FormatInvalid(f"{where} has {size} bytes, at most {MAX_SCHEMA_BYTES} are allowed")


def compiled_form(schema: Mapping[str, Any] | bool) -> dict[str, Any]:
    """Return the schema as the compiler takes it: nothing in it can change how it is compiled.

    Formats that are not known are left out, as the standard has it; everything else that is not known is refused by
    the compiler itself.

    Raises:
        FormatInvalid: the schema allows nothing at all.
    """
    if isinstance(schema, bool):
        if not schema:
            raise FormatInvalid("the schema false allows no answer")
        return {}
    cleaned = _cleaned(schema)
    return {key: value for key, value in cleaned.items() if key != _COMPILER_OPTIONS}


def is_plain(schema: object) -> bool:
    """Return whether a schema is small and of a kind that always compiles within milliseconds."""
    for count, (_depth, key, value) in enumerate(_walk(schema)):
        if count >= _PLAIN_NODES or key in _COSTLY:
            return False
        if isinstance(value, int | float) and abs(value) > (_PLAIN_COUNT if key in _COUNTS else _PLAIN_NUMBER):
            return False
    return True


def require_tools(tools: Sequence[Mapping[str, Any]], choice: str) -> None:
    """Accept tools that each have a name of their own, and a choice among them.

    Raises:
        ToolsInvalid: what is wrong, with the tool's place or name.
        FormatInvalid: a tool's parameters are too large.
    """
    if len(tools) > MAX_TOOLS:
        raise ToolsInvalid(f"there are {len(tools)}, at most {MAX_TOOLS} are allowed")
    names: set[str] = set()
    for index, tool in enumerate(tools):
        name = _tool_name(tool, index)
        if name in names:
            raise ToolsInvalid(f"two are named {name!r}")
        names.add(name)
        require_bounded(parameters_of(tool), f"the parameters of tool {name!r}")
    if choice.startswith("function:") and choice.removeprefix("function:") not in names:
        raise ToolsInvalid(f"tool_choice names {choice.removeprefix('function:')[:80]!r}, which is none of them")
    if choice == "required" and not names:
        raise ToolsInvalid("tool_choice demands a call, and there are none")


def tool_name(tool: Mapping[str, Any]) -> str:
    """Return the name of a tool that `require_tools` accepted."""
    return str(tool["function"]["name"])


def is_strict(tool: Mapping[str, Any]) -> bool:
    """Return whether a tool's calls are to keep to its schema also where the model makes them by itself."""
    return tool["function"].get("strict") is True


def parameters_of(tool: Mapping[str, Any]) -> dict[str, Any]:
    """Return the JSON schema of a tool's arguments; a tool that declares none takes none."""
    parameters = tool["function"].get("parameters")
    if not parameters:
        return {"type": "object", "properties": {}, "additionalProperties": False}
    return dict(parameters)


def arguments_schema(tool: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema that an enforced call's arguments keep to: an object, with no argument that is not declared.

    Raises:
        FormatInvalid: the parameters are no schema of an object.
    """
    parameters = compiled_form(parameters_of(tool))
    if parameters.setdefault("type", "object") != "object":
        raise FormatInvalid(f"the parameters of tool {tool_name(tool)!r} are of a type that is not object")
    if not isinstance(parameters.get("properties", {}), dict):
        raise FormatInvalid(f"the properties of tool {tool_name(tool)!r} are no object")
    required = parameters.get("required", [])
    if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
        raise FormatInvalid(f"what tool {tool_name(tool)!r} requires is no list of names")
    if "properties" in parameters:
        parameters.setdefault("additionalProperties", False)
    return parameters


def _tool_name(tool: Mapping[str, Any], index: int) -> str:
    function = tool.get("function") if isinstance(tool, dict) else None
    if not isinstance(function, dict):
        raise ToolsInvalid(f"number {index + 1} is no function")
    name = function.get("name")
    if not isinstance(name, str) or not name:
        raise ToolsInvalid(f"number {index + 1} has no name")
    if len(name) > MAX_TOOL_NAME_CHARS or _CONTROL.search(name):
        raise ToolsInvalid(f"number {index + 1} has a name that is too long or has control characters")
    if not isinstance(function.get("parameters") or {}, dict):
        raise ToolsInvalid(f"the parameters of {name!r} are no JSON schema")
    return name


def _walk(schema: object) -> Iterator[tuple[int, str, object]]:
    """Give (depth, key, value) of everything in `schema`, without recursion."""
    waiting: list[tuple[int, str, object]] = [(0, "", schema)]
    while waiting:
        depth, key, value = waiting.pop()
        yield depth, key, value
        if isinstance(value, dict):
            waiting.extend((depth + 1, str(name), below) for name, below in value.items())
        elif isinstance(value, list | tuple):
            waiting.extend((depth + 1, "", below) for below in value)


def _cleaned(schema: Any, named: bool = False) -> Any:
    if isinstance(schema, list):
        return [_cleaned(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if named:
        return {key: _cleaned(value) for key, value in schema.items()}
    return {
        key: value if key in _VALUES else _cleaned(value, key in _NAMED)
        for key, value in schema.items()
        if not _says_nothing(key, value)
    }


def _says_nothing(key: str, value: object) -> bool:
    if key == "format":
        return not isinstance(value, str) or value not in KNOWN_FORMATS
    return key == "uniqueItems" and value is False
