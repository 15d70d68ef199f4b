"""The bodies of Anthropic's messages API; a field that nobody knows is refused by name."""

from typing import Annotated, Any, Literal

from pydantic import Field

from node.api.openai_schemas import Open, Strict, TokenCount

ToolName = Annotated[str, Field(min_length=1, max_length=128)]


class Block(Open):
    """One block of a message's content; what is read of it depends on its type, which is checked where it is read."""

    type: str
    text: str | None = None
    thinking: str | None = None
    id: str | None = None
    name: str | None = None
    input: dict[str, Any] | None = None
    tool_use_id: str | None = None
    content: "str | list[Block] | None" = None


class Message(Strict):
    """One line of a conversation."""

    role: Literal["user", "assistant", "system"]
    content: str | list[Block]


class Tool(Open):
    """A tool that the client runs; a `type` other than custom names one that only Anthropic's own models know."""

    name: ToolName
    type: str | None = None
    description: str | None = None
    input_schema: dict[str, Any] | None = None


class ToolChoice(Open):
    """Which tools the model calls."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class Thinking(Open):
    """Whether the model thinks; its budget is taken without effect."""

    type: Literal["enabled", "disabled", "adaptive", "between_tools"]
    budget_tokens: int | None = Field(default=None, ge=1)
    display: Literal["summarized", "omitted"] | None = None


class OutputFormat(Open):
    """What the answer keeps to."""

    type: Literal["json_schema"]
    described: dict[str, Any] = Field(alias="schema")


class OutputConfig(Open):
    """How the answer is written."""

    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: OutputFormat | None = None


class CountBody(Strict):
    """`POST /v1/messages/count_tokens`: what would be asked, to be counted."""

    model: str = Field(min_length=1)
    messages: list[Message] = Field(min_length=1)
    system: str | list[Block] | None = None
    tools: list[Tool] | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    output_format: OutputFormat | None = None
    container: Any = None
    mcp_servers: Any = None
    # They steer a cloud service's bookkeeping and caches; an answer from this machine is the same without them.
    cache_control: Any = None
    context_management: Any = None
    speed: str | None = None
    user_profile_id: str | None = None
    workspace_id: str | None = None


class MessagesBody(CountBody):
    """`POST /v1/messages`: what is served, what is refused by name, and what is taken without effect."""

    max_tokens: TokenCount
    stream: bool | None = None
    temperature: float | None = Field(default=None, ge=0, le=1)
    top_p: float | None = Field(default=None, ge=0, le=1)
    top_k: int | None = Field(default=None, ge=0, le=2**31 - 1)
    stop_sequences: list[str] | None = None
    metadata: dict[str, Any] | None = None
    service_tier: str | None = None
    inference_geo: str | None = None
    diagnostics: Any = None
