"""Conversations as the exact text of the chat template, cut into what the model is given and what it learns to write.

`template.jinja` is the same rule for every other program (it is shipped inside tokenizer_config.json); this module
knows besides which characters are the assistant's. A test holds the two equal.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from node.models.demo.conversation import Conversation, Message, Tool

END_OF_TURN = "<|im_end|>"


@dataclass(frozen=True)
class Span:
    """A piece of rendered text, and whether the model is trained to write it."""

    text: str
    trained: bool


def render(conversation: Conversation) -> list[Span]:
    """The conversation's text in order; every answer and its end-of-turn mark are trained, all else is given."""
    messages = conversation.messages
    instruction = messages[0]["content"] if messages[0]["role"] == "system" else ""
    spans = list(_render_opening(instruction, conversation.tools))
    rest = messages[1:] if instruction else messages
    for place, message in enumerate(rest):
        is_last = place == len(rest) - 1
        spans += _render_message(message, conversation.thought if is_last else None)
    return spans


def _render_opening(instruction: str, tools: Sequence[Tool]) -> Iterator[Span]:
    if not instruction and not tools:
        return
    text = f"<|im_start|>system\n{instruction}"
    if tools:
        declarations = "".join("\n" + json.dumps(tool, ensure_ascii=False) for tool in tools)
        text += ("\n\n" if instruction else "") + f"Tools:\n<tools>{declarations}\n</tools>"
    yield Span(f"{text}{END_OF_TURN}\n", trained=False)


def _render_message(message: Message, thought: str | None) -> list[Span]:
    content = message["content"]
    if message["role"] == "tool":
        content = f"<tool_response>\n{content}\n</tool_response>"
    if message["role"] != "assistant":
        return [Span(f"<|im_start|>user\n{content}{END_OF_TURN}\n", trained=False)]
    opening, answer = "<|im_start|>assistant\n", content + _render_calls(message)
    if thought:
        opening, answer = f"{opening}<think>\n", f"{thought}\n</think>\n\n{answer}"
    return [Span(opening, trained=False), Span(answer + END_OF_TURN, trained=True), Span("\n", trained=False)]


def _render_calls(message: Message) -> str:
    functions = [call["function"] for call in message.get("tool_calls", [])]
    bodies = [
        f'{{"name": "{function["name"]}", "arguments": {json.dumps(function["arguments"], ensure_ascii=False)}}}'
        for function in functions
    ]
    return "".join(f"<tool_call>\n{body}\n</tool_call>" for body in bodies)
