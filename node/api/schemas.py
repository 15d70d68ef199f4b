"""The request bodies of both APIs. Ollama's ignore fields that they do not know, OpenAI's refuse them."""

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


class _OpenAI(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class TextPart(_OpenAI):
    """One part of a message's content; only text is taken, other types are named in the refusal."""

    model_config = ConfigDict(extra="allow", strict=True)
    type: str
    text: str | None = None


class OpenAIFunctionCall(_OpenAI):
    """The function of a tool call; arguments are JSON text, as everywhere in this API."""

    name: str
    arguments: str


class OpenAIToolCall(_OpenAI):
    """A tool call that an earlier answer made."""

    id: str
    type: Literal["function"] = "function"
    function: OpenAIFunctionCall


class OpenAIMessage(_OpenAI):
    """One line of a conversation."""

    model_config = ConfigDict(extra="ignore", strict=True)
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    name: str | None = None
    tool_calls: list[OpenAIToolCall] | None = None
    tool_call_id: str | None = None


class StreamOptions(_OpenAI):
    """What a stream carries besides the answer."""

    model_config = ConfigDict(extra="ignore", strict=True)
    include_usage: bool | None = None


class ChatCompletionBody(_OpenAI):
    """`POST /v1/chat/completions`: what is served, what is taken without effect, and what is refused by name."""

    model: str
    messages: list[OpenAIMessage] = Field(min_length=1)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, ge=0, le=1)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    max_tokens: int | None = Field(default=None, ge=1, le=2**22)
    max_completion_tokens: int | None = Field(default=None, ge=1, le=2**22)
    seed: int | None = Field(default=None, ge=-(2**63), le=2**64 - 1)
    stop: str | list[str] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: Any = None
    n: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    logit_bias: dict[str, Any] | None = None
    response_format: dict[str, Any] | None = None
    modalities: list[str] | None = None
    audio: Any = None
    functions: Any = None
    function_call: Any = None
    prediction: Any = None
    web_search_options: Any = None
    # They steer a cloud service's bookkeeping or hints; an answer from this machine is the same without them.
    parallel_tool_calls: bool | None = None
    reasoning_effort: str | None = None
    verbosity: str | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    service_tier: str | None = None
    store: bool | None = None
    metadata: dict[str, Any] | None = None
