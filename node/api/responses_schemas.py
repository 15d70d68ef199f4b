"""The bodies of OpenAI's Responses API; a field that nobody knows is refused by name."""

from typing import Annotated, Any, Literal

from pydantic import Field

from node.api.openai_schemas import Open, Penalty, Strict, TokenCount
from protocol.worker.messages import MAX_TOP_LOGPROBS

MetadataKey = Annotated[str, Field(max_length=64)]
MetadataValue = Annotated[str, Field(max_length=512)]


class TextFormat(Open):
    """What the answer keeps to. The schema lies beside the name here, and not below it as in chat completions."""

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = Field(default=None, min_length=1, max_length=64, pattern=r"^[a-zA-Z0-9_-]+$")
    description: str | None = None
    described: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: bool | None = None


class TextConfig(Open):
    """How the answer is written."""

    format: TextFormat | None = None
    verbosity: str | None = None


class Reasoning(Open):
    """How hard the model thinks; what `summary` asks for is not made, the thinking itself is told."""

    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    summary: str | None = None


class _Conversation(Strict):
    model: str = Field(min_length=1)
    input: str | list[dict[str, Any]] | None = None
    instructions: str | None = None
    previous_response_id: str | None = Field(default=None, max_length=128)
    tools: list[dict[str, Any]] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    text: TextConfig | None = None
    reasoning: Reasoning | None = None
    truncation: Literal["auto", "disabled"] | None = None
    conversation: Any = None


class InputTokensBody(_Conversation):
    """`POST /v1/responses/input_tokens`: what would be asked, to be counted."""

    personality: Any = None


class ResponseBody(_Conversation):
    """`POST /v1/responses`: what is served, what is refused by name, and what is taken without effect."""

    stream: bool | None = None
    store: bool | None = None
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, ge=0, le=1)
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    max_output_tokens: TokenCount | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=MAX_TOP_LOGPROBS)
    include: list[str] | None = None
    metadata: dict[MetadataKey, MetadataValue] | None = Field(default=None, max_length=16)
    background: bool | None = None
    prompt: Any = None
    moderation: Any = None
    image: Any = None
    # They steer a cloud service's bookkeeping, or tools that it runs itself; an answer from this machine is the same.
    max_tool_calls: int | None = None
    stream_options: dict[str, Any] | None = None
    context_management: Any = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_options: dict[str, Any] | None = None
    prompt_cache_retention: str | None = None
    service_tier: str | None = None
    access_programs: Any = None
    client_metadata: Any = None
