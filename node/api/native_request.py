"""What the native API's bodies ask for, in the node's own words."""

from collections.abc import Mapping
from typing import Any

from node.api.durations import parse_keep_alive
from node.api.errors import BodyInvalid
from node.api.schemas import ChatBody, GenerateBody, NativeMessage, _NativeRequest
from node.api.tool_choice import function_tools, parse_tool_choice
from node.models.errors import CapabilityMissing
from node.models.requests import GenerateRequest
from protocol.worker.messages import MAX_TOP_LOGPROBS


def chat_request(body: ChatBody, client: str) -> GenerateRequest:
    """Return the question that a body of `/api/chat` asks.

    Raises:
        BodyInvalid: a field is not what it may be.
        CapabilityMissing: an image is among the messages.
    """
    # Ollama knows no choice; its words are those of OpenAI's API.
    choice, tools = parse_tool_choice(body.tool_choice, function_tools(body.tools), _function_name)
    return GenerateRequest(
        messages=[_message(body.model, message) for message in body.messages or ()],
        tools=tools,
        tool_choice=choice,
        **_shared(body, client),
    )


def generate_request(body: GenerateBody, client: str) -> GenerateRequest:
    """Return the question that a body of `/api/generate` asks.

    Raises:
        BodyInvalid: a field is not what it may be.
        CapabilityMissing: an image is to be looked at.
    """
    if body.images:
        raise CapabilityMissing(f'"{body.model}"', "images")
    if body.raw and (body.template or body.system or body.context):
        raise BodyInvalid("raw mode does not support template, system, or context", "raw")
    return GenerateRequest(
        prompt=body.prompt or "",
        suffix=body.suffix or None,
        system=body.system,
        template=body.template,
        raw=bool(body.raw),
        context=body.context or (),
        **_shared(body, client),
    )


def _shared(body: _NativeRequest, client: str) -> dict[str, Any]:
    if not body.model:
        raise BodyInvalid("model is required", "model")
    if not 0 <= (body.top_logprobs or 0) <= MAX_TOP_LOGPROBS:
        raise BodyInvalid(f"top_logprobs must be between 0 and {MAX_TOP_LOGPROBS}", "top_logprobs")
    return {
        "model": body.model,
        "format": _format(body.format),
        "top_logprobs": (body.top_logprobs or 0) if body.logprobs else None,
        "thinking": None if body.think is None else bool(body.think),
        "effort": body.think if isinstance(body.think, str) else "",
        "options": body.options or {},
        "keep_alive_s": parse_keep_alive(body.keep_alive),
        "client": client,
    }


def _format(value: object) -> object:
    if value in (None, ""):
        return None
    if value != "json" and not isinstance(value, dict):
        raise BodyInvalid(
            f'invalid format: {str(value)[:40]!r}; expected "json" or a valid JSON Schema object', "format"
        )
    return value


def _function_name(tool: Mapping[str, Any]) -> object:
    function = tool.get("function")
    return function.get("name") if isinstance(function, dict) else None


def _message(model: str, message: NativeMessage) -> dict[str, Any]:
    if message.images:
        raise CapabilityMissing(f'"{model}"', "images")
    told: dict[str, Any] = {"role": message.role, "content": message.content or ""}
    if message.tool_calls:
        told["tool_calls"] = [
            {
                "type": "function",
                **({"id": call.id} if call.id else {}),
                "function": {"name": call.function.name, "arguments": call.function.arguments},
            }
            for call in message.tool_calls
        ]
    optional = {
        "reasoning_content": message.thinking,
        "name": message.tool_name,
        "tool_call_id": message.tool_call_id,
    }
    return {**told, **{name: value for name, value in optional.items() if value}}
