"""The request bodies of the native API: fields that nobody knows are ignored, as Ollama ignores them."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Role = Literal["system", "user", "assistant", "tool"]
TokenId = Annotated[int, Field(ge=0, le=2**32 - 1)]


class _Native(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)


class NativeFunction(_Native):
    """The function of a tool call; arguments are an object, as everywhere in this API."""

    name: str
    arguments: dict[str, Any] = Field(default_factory=dict)


class NativeCall(_Native):
    """A tool call that an earlier answer made."""

    function: NativeFunction
    id: str | None = None


class NativeMessage(_Native):
    """One line of a conversation."""

    role: Role
    content: str | None = None
    thinking: str | None = None
    images: list[str] | None = None
    tool_calls: list[NativeCall] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None


class _NativeRequest(_Native):
    model: str = ""
    stream: bool | None = None
    options: dict[str, Any] | None = None
    format: Any = None
    # Its grammar is Go's; node.api.durations reads it.
    keep_alive: Any = None
    think: bool | Literal["low", "medium", "high", "max"] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    # A prompt that is too long for the context is always refused with the reason, and an answer ends where it is full.
    truncate: bool | None = None
    shift: bool | None = None


class ChatBody(_NativeRequest):
    """`POST /api/chat`. `tool_choice` is not Ollama's: none, auto, required, or a tool as OpenAI's API names it."""

    messages: list[NativeMessage] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: Any = None


class GenerateBody(_NativeRequest):
    """`POST /api/generate`."""

    prompt: str | None = None
    suffix: str | None = None
    system: str | None = None
    template: str | None = None
    context: list[TokenId] | None = None
    raw: bool | None = None
    images: list[str] | None = None


class ShowBody(_Native):
    """`POST /api/show`; `name` is what older clients send."""

    model: str = ""
    name: str = ""
