"""The tool-call syntaxes of the model families that mlx-lm has parsers for, by the parser's name, and harmony."""

import json
import re
from collections.abc import Collection, Mapping
from typing import Final

from node.models.engine.tools import Call, Family, JsonCalls, ListedCalls, TaggedCalls

_HARMONY_CALL: Final = re.compile(r"\s*(?P<name>[^\s<]+)[^{]*<\|message\|>(?P<arguments>.*)", re.DOTALL)


def _read_harmony(text: str) -> list[Call] | None:
    found = _HARMONY_CALL.fullmatch(text)
    try:
        arguments = json.loads(found["arguments"]) if found else None
    except (ValueError, RecursionError):
        return None
    return [(found["name"], arguments)] if found and isinstance(arguments, dict) else None


_JSON: Final = JsonCalls('{"name": {json_name}, "arguments": ', "}", spaced=True)
_GLM: Final = TaggedCalls("{name}", "<arg_key>{key}</arg_key><arg_value>", "</arg_value>", "")
_LONGCAT: Final = TaggedCalls(
    "{name}", "<longcat_arg_key>{key}</longcat_arg_key><longcat_arg_value>", "</longcat_arg_value>", ""
)
_MINIMAX: Final = TaggedCalls('<invoke name="{name}">', '<parameter name="{key}">', "</parameter>", "</invoke>")
_KIMI_K2: Final = JsonCalls(
    "<|tool_call_begin|>functions.{name}:{number}<|tool_call_argument_begin|>", "<|tool_call_end|>"
)
_KIMI_K3: Final = JsonCalls(
    '<|open|>call tool="{name}" index="{number}"<|sep|><|open|>json type="object"<|sep|>',
    "<|close|>json<|sep|><|close|>call<|sep|>",
)
# Older models of the family write a list of objects, newer ones a header before each call's arguments.
_MISTRAL_LIST: Final = Family(
    JsonCalls('{"name": {json_name}, "arguments": ', "}"), wrapped=False, opening="[", closing="]", between=", "
)
FAMILIES: Final[Mapping[str, Family]] = {
    "json_tools": Family(_JSON),
    "mistral": Family(JsonCalls("{name}[ARGS]", "")),
    "kimi_k2": Family(_KIMI_K2, wrapped=False),
    "kimi_k3": Family(_KIMI_K3, wrapped=False),
    "harmony": Family(
        JsonCalls("{name} <|constrain|>json<|message|>", ""), ends_with_answer=True, reader=_read_harmony
    ),
    "qwen3_coder": Family(TaggedCalls("<function={name}>\n", "<parameter={key}>\n", "\n</parameter>", "</function>")),
    "glm47": Family(_GLM),
    "laguna": Family(_GLM),
    "longcat": Family(_LONGCAT),
    "minimax_m2": Family(_MINIMAX, wrapped=False),
    "minicpm5": Family(TaggedCalls('"{name}">', '<param name="{key}">', "</param>", "")),
    "gemma4": Family(ListedCalls("call:{name}{", ":", "}", quotes='<|"|>')),
    "function_gemma": Family(ListedCalls("call:{name}{", ":", "}", quotes="<escape>")),
    "pythonic": Family(
        ListedCalls("{name}(", "=", ")", comma=", "), wrapped=False, opening="[", closing="]", between=", "
    ),
}


def family_of(parser: str, vocabulary: Collection[str]) -> Family | None:
    """Return the syntax of a parser's family; None if calls cannot be held to it."""
    if parser == "mistral" and "[ARGS]" not in vocabulary:
        return _MISTRAL_LIST
    return FAMILIES.get(parser)
