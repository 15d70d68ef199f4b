"""What a body of the Responses API asks for, in the node's own words; and the resource that tells it back."""

from collections.abc import Sequence
from typing import Any, Final

from node.api.errors import BodyInvalid
from node.api.openai_request import DEFAULTS, THIS_VERSION, effort_word, wanted_format, wanted_thinking
from node.api.responses_items import Item, messages_of
from node.api.responses_schemas import InputTokensBody, ResponseBody, TextConfig
from node.api.responses_tools import Tool, read_tools, tool_name
from node.api.tool_choice import parse_tool_choice
from node.models.errors import CapabilityMissing
from node.models.requests import GenerateRequest

LOGPROBS: Final = "message.output_text.logprobs"
_NOT_SERVED: Final = ("background", "conversation", "prompt", "moderation", "image")


def question_of(body: ResponseBody | InputTokensBody, items: Sequence[Item], client: str) -> GenerateRequest:
    """Return the question; `items` are those of the conversation so far and of the body's own input.

    Raises:
        BodyInvalid: a field is not what it may be.
        CapabilityMissing: something that would change the answer and is not there.
    """
    for name in _NOT_SERVED:
        if getattr(body, name, None):
            raise CapabilityMissing(THIS_VERSION, name)
    if body.truncation == "auto":
        raise CapabilityMissing(THIS_VERSION, "truncation other than disabled")
    messages = messages_of(body.instructions, items)
    if not messages:
        raise BodyInvalid("input is empty", "input")
    heard, _, _ = read_tools(body.tools)
    tool_choice, tools = parse_tool_choice(_pointing(body.tool_choice), heard, tool_name)
    effort = body.reasoning.effort if body.reasoning else None
    question = GenerateRequest(
        model=body.model,
        messages=messages,
        tools=tools,
        tool_choice=tool_choice,
        parallel_tool_calls=body.parallel_tool_calls is not False,
        format=_format(body.text),
        thinking=wanted_thinking(effort),
        thinking_if_able=True,
        effort=effort_word(effort),
        defaults=DEFAULTS,
        client=client,
    )
    return question if isinstance(body, InputTokensBody) else _sampled(question, body)


def resource_of(body: ResponseBody, tools: Sequence[Tool], name: str, created_s: int, *, store: bool) -> dict[str, Any]:
    """Return the response as a resource that has every key, before anything was answered."""
    return {
        "id": name,
        "object": "response",
        "created_at": created_s,
        "status": "in_progress",
        "background": False,
        "completed_at": None,
        "error": None,
        "incomplete_details": None,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "max_tool_calls": body.max_tool_calls,
        "model": body.model,
        "output": [],
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "previous_response_id": body.previous_response_id,
        "reasoning": {"effort": body.reasoning.effort if body.reasoning else None, "summary": None},
        "store": store,
        "temperature": DEFAULTS["temperature"] if body.temperature is None else body.temperature,
        "text": _shown_text(body.text),
        "tool_choice": "auto" if body.tool_choice is None else body.tool_choice,
        "tools": list(tools),
        "top_logprobs": body.top_logprobs or 0,
        "top_p": DEFAULTS["top_p"] if body.top_p is None else body.top_p,
        "presence_penalty": body.presence_penalty or 0.0,
        "frequency_penalty": body.frequency_penalty or 0.0,
        "truncation": "disabled",
        "usage": None,
        "user": body.user,
        "safety_identifier": body.safety_identifier,
        "prompt_cache_key": body.prompt_cache_key,
        "service_tier": "default",
        "metadata": body.metadata or {},
        **dict.fromkeys(_NEVER, None),
    }


# What this program has nothing to say of; clients find the keys all the same.
_NEVER: Final = (
    "access_programs",
    "conversation",
    "image",
    "input_transformations",
    "moderation",
    "prompt",
    "prompt_cache_diagnostics",
    "prompt_cache_options",
    "prompt_cache_retention",
    "tool_usage",
)


def _sampled(question: GenerateRequest, body: ResponseBody) -> GenerateRequest:
    wants_logprobs = LOGPROBS in (body.include or ()) or bool(body.top_logprobs)
    options: dict[str, object] = {
        "temperature": body.temperature,
        "top_p": body.top_p,
        "presence_penalty": body.presence_penalty,
        "frequency_penalty": body.frequency_penalty,
        "num_predict": body.max_output_tokens,
    }
    top_logprobs = (body.top_logprobs or 0) if wants_logprobs else None
    return GenerateRequest(**{**vars(question), "options": options, "top_logprobs": top_logprobs})


def _pointing(choice: Any) -> Any:
    """Return `choice` with a custom tool named as what the model hears of it: a function."""
    if isinstance(choice, dict) and choice.get("type") == "custom":
        return {**choice, "type": "function"}
    return choice


def _format(text: TextConfig | None) -> object:
    if text is None or text.format is None:
        return None
    if text.format.type == "json_schema" and text.format.described is None:
        raise BodyInvalid("a format of type json_schema needs a schema", "text.format.schema")
    return wanted_format(text.format.type, text.format.described)


def _shown_text(text: TextConfig | None) -> dict[str, Any]:
    form = text.format if text else None
    shown: dict[str, Any] = {"type": form.type if form else "text"}
    if form and form.type == "json_schema":
        named = {"name": form.name or "", "description": form.description, "schema": form.described}
        shown |= {**named, "strict": form.strict is not False}
    return {"format": shown, "verbosity": (text.verbosity if text else None) or "medium"}
