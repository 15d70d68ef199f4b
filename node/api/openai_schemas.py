"""The bodies of OpenAI's chat completions and completions; a field that nobody knows is refused by name."""

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from protocol.worker.messages import MAX_SEED, MAX_TOP_LOGPROBS

# Each choice takes a place among the answers that are given at once, or waits for one.
MAX_CHOICES: Final = 32
MAX_PROMPTS: Final = 1024

Penalty = Annotated[float, Field(ge=-2, le=2)]
TokenCount = Annotated[int, Field(ge=1, le=2**22)]
TokenId = Annotated[int, Field(ge=0, le=2**32 - 1)]


class Strict(BaseModel):
    """A body of which every field is known."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Open(BaseModel):
    """A part of a body that may say more than is read here."""

    model_config = ConfigDict(extra="ignore", strict=True)


class TextPart(Open):
    """One part of a message's content; only text is taken, other types are named in the refusal."""

    type: str
    text: str | None = None
    refusal: str | None = None


class FunctionCall(Open):
    """The function of a tool call; arguments are JSON text, as everywhere in this API."""

    name: str
    arguments: str


class ToolCall(Open):
    """A tool call that an earlier answer made."""

    id: str
    type: Literal["function"] = "function"
    function: FunctionCall


class Message(Open):
    """One line of a conversation. `reasoning_content` is the thinking that an earlier answer came with."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None


class StreamOptions(Open):
    """What a stream carries besides the answer."""

    include_usage: bool | None = None


class NamedSchema(Open):
    """A JSON schema under a name, which is for the client alone."""

    model_config = ConfigDict(extra="ignore", strict=True, populate_by_name=True)
    name: str = Field(min_length=1, max_length=64, pattern=r"^[a-zA-Z0-9_-]+$")
    described: dict[str, Any] | None = Field(default=None, alias="schema")


class ResponseFormat(Open):
    """What the answer keeps to."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: NamedSchema | None = None


class _Sampled(Strict):
    model: str = Field(min_length=1)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, ge=0, le=1)
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    max_tokens: TokenCount | None = None
    seed: int | None = Field(default=None, ge=-(2**63), le=MAX_SEED)
    stop: str | list[str] | None = None
    n: int | None = Field(default=None, ge=1, le=MAX_CHOICES)
    logit_bias: dict[str, float] | None = None
    user: str | None = None


class ChatCompletionBody(_Sampled):
    """`POST /v1/chat/completions`: what is served, what is refused by name, and what is taken without effect."""

    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: TokenCount | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=MAX_TOP_LOGPROBS)
    response_format: ResponseFormat | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    modalities: list[str] | None = None
    audio: Any = None
    functions: Any = None
    function_call: Any = None
    prediction: Any = None
    web_search_options: Any = None
    moderation: Any = None
    # They steer a cloud service's bookkeeping or style; an answer from this machine is the same without them.
    verbosity: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_options: dict[str, Any] | None = None
    prompt_cache_retention: str | None = None
    service_tier: str | None = None
    store: bool | None = None
    metadata: dict[str, Any] | None = None


class CompletionBody(_Sampled):
    """`POST /v1/completions`: texts or token ids, each continued as it stands."""

    prompt: str | list[str] | list[TokenId] | list[list[TokenId]]
    suffix: str | None = None
    echo: bool | None = None
    best_of: int | None = Field(default=None, ge=1, le=20)
    logprobs: int | None = Field(default=None, ge=0, le=MAX_TOP_LOGPROBS)
