"""The conversations that the demo model learns from: their shape, and the small words for making one."""

import random
from dataclasses import dataclass
from typing import Any, Literal, NotRequired, TypedDict


class Function(TypedDict):
    """A call of a tool, as the chat template reads it."""

    name: str
    arguments: dict[str, str]


class ToolCall(TypedDict):
    """One entry of an assistant message's `tool_calls`."""

    type: Literal["function"]
    function: Function


class Message(TypedDict):
    """One message in the usual chat shape."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str
    tool_calls: NotRequired[list[ToolCall]]


Tool = dict[str, Any]
"""A tool's declaration: `{"type": "function", "function": {"name", "description", "parameters"}}`."""


@dataclass(frozen=True)
class Conversation:
    """Messages that end with an assistant's answer, the tools it may call, and what it may think before that answer."""

    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    thought: str | None = None


def user(content: str) -> Message:
    """A line that a person wrote."""
    return {"role": "user", "content": content}


def assistant(content: str) -> Message:
    """A line that the model is to answer with."""
    return {"role": "assistant", "content": content}


def system(content: str) -> Message:
    """The instruction above a conversation."""
    return {"role": "system", "content": content}


def asked(question: str, answer: str, thought: str | None = None) -> Conversation:
    """The shortest conversation: one question, one answer."""
    return Conversation((user(question), assistant(answer)), thought=thought)


def capitalised(text: str) -> str:
    """The text with its first letter in upper case and the rest as it was."""
    return text[0].upper() + text[1:]


def invented_word(source: random.Random) -> str:
    """A pronounceable word of two or three syllables that means nothing: `kiroba`."""
    return "".join(source.choice("bcdfghjklmnprstvwz") + source.choice("aeiou") for _ in range(source.randint(2, 3)))


def seeded(seed: int | str) -> random.Random:
    """The source of everything random in the corpus: the same seed gives the same conversations on every machine."""
    return random.Random(seed)  # noqa: S311 - training text, not a secret
