"""The items of a response's input: brought into one form, and turned into the messages of a conversation."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from node.api.errors import BodyInvalid
from node.api.openai_parts import NewId
from node.api.openai_request import call_arguments

Item = dict[str, Any]

_ROLES: Final = ("user", "assistant", "system", "developer")
_CALLS: Final = ("function_call", "custom_tool_call")
_RESULTS: Final = ("function_call_output", "custom_tool_call_output")
_TEXTS: Final = ("input_text", "output_text", "text", "refusal", "summary_text", "reasoning_text")
# The one argument of a custom tool, whose input is a text and no JSON.
CUSTOM_INPUT: Final = "input"


def read_input(value: str | Sequence[Mapping[str, Any]] | None, new_id: NewId) -> list[Item]:
    """Return the input as items in their full form, each with an id: messages with a type and a list of parts.

    Raises:
        BodyInvalid: an item or a part that is not served; `param` tells which.
    """
    if isinstance(value, str):
        value = [{"role": "user", "content": value}]
    return [_full(dict(item), f"input.{index}", new_id) for index, item in enumerate(value or ())]


def messages_of(instructions: str | None, items: Sequence[Item]) -> list[dict[str, Any]]:
    """Return the conversation as chat templates expect it.

    `instructions` and the system's words before anybody else's become one message, since templates take one; what the
    model thought, said and called without anybody between becomes one message too.

    Raises:
        BodyInvalid: the arguments of a call are not JSON.
    """
    system: list[str] = [instructions] if instructions else []
    messages: list[dict[str, Any]] = []
    for index, item in enumerate(items):
        if item["type"] == "message" and item["role"] in ("system", "developer") and not messages:
            system.append(_text(item["content"]))
        elif item["type"] == "message" and item["role"] != "assistant":
            role = "user" if item["role"] == "user" else "system"
            messages.append({"role": role, "content": _text(item["content"])})
        elif item["type"] in _RESULTS:
            messages.append({"role": "tool", "content": _output(item), "tool_call_id": item["call_id"]})
        else:
            _say(messages, item, f"input.{index}")
    return [{"role": "system", "content": "\n\n".join(system)}, *messages] if system else messages


def _say(messages: list[dict[str, Any]], item: Item, where: str) -> None:
    """Add what the model itself thought, said or called to its last message, or as a new one."""
    last = messages[-1] if messages and messages[-1]["role"] == "assistant" else {}
    if item["type"] in _CALLS:
        last = last or _begin(messages)
        last.setdefault("tool_calls", []).append(_call(item, where))
    elif item["type"] == "reasoning":
        if not last or last["content"] or "tool_calls" in last:
            last = _begin(messages)
        if text := _text(item.get("content") or []):
            last["reasoning_content"] = last.get("reasoning_content", "") + text
    else:
        if not last or last["content"] or "tool_calls" in last:
            last = _begin(messages)
        last["content"] = _text(item["content"])


def _begin(messages: list[dict[str, Any]]) -> dict[str, Any]:
    messages.append({"role": "assistant", "content": ""})
    return messages[-1]


def _call(item: Item, where: str) -> dict[str, Any]:
    if item["type"] == "custom_tool_call":
        arguments: Mapping[str, Any] = {CUSTOM_INPUT: item["input"]}
    else:
        arguments = call_arguments(item["arguments"], where)
    return {"id": item["call_id"], "type": "function", "function": {"name": item["name"], "arguments": arguments}}


def _output(item: Item) -> str:
    return item["output"] if isinstance(item["output"], str) else _text(item["output"])


def _text(parts: Sequence[Mapping[str, Any]]) -> str:
    return "".join(part.get("text") or part.get("refusal") or "" for part in parts)


def _full(item: Item, where: str, new_id: NewId) -> Item:
    kind = item.get("type") or ("message" if "role" in item else "item_reference")
    if kind == "message":
        return _full_message(item, where, new_id)
    if kind in _CALLS:
        field = "arguments" if kind == "function_call" else CUSTOM_INPUT
        _require_texts(item, ("call_id", "name", field), where)
        return {"status": "completed", **item, "id": item.get("id") or new_id("fc_")}
    if kind in _RESULTS:
        _require_texts(item, ("call_id",), where)
        if not isinstance(item.get("output"), str):
            item["output"] = _parts(item.get("output"), f"{where}.output")
        return {"status": "completed", **item, "id": item.get("id") or new_id("fco_")}
    if kind == "reasoning":
        content = _parts(item.get("content") or [], f"{where}.content")
        return {**item, "summary": item.get("summary") or [], "content": content, "id": item.get("id") or new_id("rs_")}
    if kind == "item_reference":
        _require_texts(item, ("id",), where)
        return {**item, "type": kind}
    raise BodyInvalid(f"items of type {str(kind)[:40]!r} are not supported", f"{where}.type")


def _full_message(item: Item, where: str, new_id: NewId) -> Item:
    role, content = item.get("role"), item.get("content")
    if role not in _ROLES:
        raise BodyInvalid(f"role {str(role)[:40]!r} is none of {', '.join(_ROLES)}", f"{where}.role")
    if isinstance(content, str):
        content = [{"type": "output_text" if role == "assistant" else "input_text", "text": content}]
    parts = _parts(content, f"{where}.content")
    if role == "assistant":
        parts = [
            {"annotations": [], "logprobs": [], **part} if part["type"] == "output_text" else part for part in parts
        ]
    rest = {"id": item.get("id") or new_id("msg_"), "type": "message", "status": item.get("status") or "completed"}
    return {**item, **rest, "role": role, "content": parts}


def _parts(value: object, where: str) -> list[Item]:
    if not isinstance(value, list):
        raise BodyInvalid("expected a text or a list of parts", where)
    for part in value:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind not in _TEXTS:
            raise BodyInvalid(f"content of type {str(kind)[:40]!r} is not supported", where)
        if not isinstance(part.get("refusal" if kind == "refusal" else "text"), str):
            raise BodyInvalid("a part without text", where)
    return value


def _require_texts(item: Item, fields: Sequence[str], where: str) -> None:
    for field in fields:
        if not isinstance(item.get(field), str) or not item[field]:
            if field == "arguments" and item.get(field) == "":
                continue
            raise BodyInvalid(f"{field}: expected a text", f"{where}.{field}")
