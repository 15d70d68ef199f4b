"""What a body of Anthropic's messages API asks for, in the node's own words."""

from collections.abc import Sequence
from typing import Any, Final

from node.api.anthropic_schemas import Block, CountBody, Message, MessagesBody, Tool, ToolChoice
from node.api.errors import BodyInvalid
from node.api.openai_request import DEFAULTS, THIS_VERSION, effort_word
from node.models.errors import CapabilityMissing
from node.models.requests import GenerateRequest

_NOT_SERVED: Final = ("container", "mcp_servers")
_CHOICES: Final = {"auto": "auto", "any": "required", "none": "none"}


def question_of(body: CountBody | MessagesBody, client: str) -> GenerateRequest:
    """Return the question.

    Raises:
        BodyInvalid: a field is not what it may be.
        CapabilityMissing: something that would change the answer and is not there.
    """
    for name in _NOT_SERVED:
        if getattr(body, name):
            raise CapabilityMissing(THIS_VERSION, name)
    form = body.output_format or (body.output_config.format if body.output_config else None)
    thinking = body.thinking.type if body.thinking else "disabled"
    effort = body.output_config.effort if body.output_config else None
    question = GenerateRequest(
        model=body.model,
        messages=_messages(body),
        tools=[_tool(index, tool) for index, tool in enumerate(body.tools or ())],
        tool_choice=_tool_choice(body.tool_choice, body.tools or ()),
        parallel_tool_calls=not (body.tool_choice and body.tool_choice.disable_parallel_tool_use),
        format=form.described if form else None,
        thinking=thinking != "disabled",
        # Adaptive leaves it to the model; enabled is a demand.
        thinking_if_able=thinking != "enabled",
        effort=effort_word(effort),
        defaults=DEFAULTS,
        client=client,
    )
    return _sampled(question, body) if isinstance(body, MessagesBody) else question


def _sampled(question: GenerateRequest, body: MessagesBody) -> GenerateRequest:
    if body.stop_sequences and not all(stop.strip() for stop in body.stop_sequences):
        raise BodyInvalid("stop_sequences: each stop sequence must contain non-whitespace", "stop_sequences")
    options = {
        "temperature": body.temperature,
        "top_p": body.top_p,
        "top_k": body.top_k,
        "num_predict": body.max_tokens,
        "stop": body.stop_sequences,
    }
    return GenerateRequest(**{**vars(question), "options": options})


def _messages(body: CountBody) -> list[dict[str, Any]]:
    if body.messages[-1].role == "assistant":
        raise CapabilityMissing(THIS_VERSION, "a conversation that ends with the assistant's own words")
    told = [line for index, message in enumerate(body.messages) for line in _lines(message, f"messages.{index}")]
    system = body.system if isinstance(body.system, str) else _text(body.system or (), "system", "\n\n")
    return [{"role": "system", "content": system}, *told] if system else told


def _lines(message: Message, where: str) -> list[dict[str, Any]]:
    """Return a message as chat templates expect it: what tools returned comes first, as messages of its own."""
    if isinstance(message.content, str):
        return [{"role": message.role, "content": message.content}]
    if message.role == "assistant":
        return [_said(message.content, f"{where}.content")]
    results = [block for block in message.content if block.type == "tool_result"]
    words = [block for block in message.content if block.type != "tool_result"]
    lines = [_result(block, f"{where}.content") for block in results]
    if words or not results:
        lines.append({"role": message.role, "content": _text(words, f"{where}.content")})
    return lines


def _said(blocks: Sequence[Block], where: str) -> dict[str, Any]:
    thinking = "".join(block.thinking or "" for block in blocks if block.type == "thinking")
    calls = [_call(block, where) for block in blocks if block.type == "tool_use"]
    hidden = ("thinking", "redacted_thinking", "tool_use")
    said: dict[str, Any] = {"role": "assistant"}
    said["content"] = _text([block for block in blocks if block.type not in hidden], where)
    if thinking:
        said["reasoning_content"] = thinking
    if calls:
        said["tool_calls"] = calls
    return said


def _call(block: Block, where: str) -> dict[str, Any]:
    if not block.id or not block.name:
        raise BodyInvalid("tool_use needs an id and a name", where)
    return {"id": block.id, "type": "function", "function": {"name": block.name, "arguments": block.input or {}}}


def _result(block: Block, where: str) -> dict[str, Any]:
    if not block.tool_use_id:
        raise BodyInvalid("tool_result needs a tool_use_id", where)
    content = block.content if isinstance(block.content, str) else _text(block.content or (), where)
    return {"role": "tool", "content": content, "tool_call_id": block.tool_use_id}


def _text(blocks: Sequence[Block], where: str, between: str = "\n") -> str:
    for block in blocks:
        if block.type != "text" or block.text is None:
            raise BodyInvalid(f"content of type {block.type[:40]!r} is not supported", where)
    return between.join(block.text or "" for block in blocks)


def _tool(index: int, tool: Tool) -> dict[str, Any]:
    if tool.type not in (None, "custom") or tool.input_schema is None:
        kind = str(tool.type)[:40]
        reason = f"tools of type {kind!r} are not supported; only tools with an input_schema are"
        raise BodyInvalid(reason, f"tools.{index}.type")
    function: dict[str, Any] = {"name": tool.name, "parameters": tool.input_schema}
    if tool.description:
        function["description"] = tool.description
    return {"type": "function", "function": function}


def _tool_choice(choice: ToolChoice | None, tools: Sequence[Tool]) -> str:
    if choice is None:
        return "auto"
    if choice.type in ("any", "tool") and not tools:
        raise BodyInvalid("tool_choice demands a tool, but there are no tools", "tool_choice")
    if choice.type != "tool":
        return _CHOICES[choice.type]
    if choice.name not in [tool.name for tool in tools]:
        raise BodyInvalid(f"tool_choice names {str(choice.name)[:80]!r}, which is not among tools", "tool_choice.name")
    return f"function:{choice.name}"
