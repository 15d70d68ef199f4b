"""What the routes under `/v1/` answer, as types for the description."""

from typing import Any, Literal, NotRequired

# pydantic reads these; on Python before 3.12 it needs this TypedDict.
from typing_extensions import TypedDict


class OpenAIError(TypedDict):
    """What is wrong: the words, the kind, the field and the code by which programs tell errors apart."""

    message: str
    type: str
    param: str | None
    code: str | None
    hint: NotRequired[str]


class OpenAITold(TypedDict):
    """Why a request was refused or failed."""

    error: OpenAIError


class AnthropicError(TypedDict):
    """What is wrong."""

    type: str
    message: str
    hint: NotRequired[str]


class AnthropicTold(TypedDict):
    """Why a request was refused or failed."""

    type: Literal["error"]
    error: AnthropicError
    request_id: str | None


class ModelFacts(TypedDict):
    """A model in the store, for the clients of both APIs."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    type: Literal["model"]
    display_name: str
    created_at: str
    lifecycle: str


class ModelList(TypedDict):
    """The models in the store."""

    object: Literal["list"]
    data: list[ModelFacts]
    first_id: str | None
    last_id: str | None
    has_more: bool


class CompletionUsage(TypedDict):
    """What an answer took, in tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: dict[str, int]
    completion_tokens_details: dict[str, int]


class ChatChoice(TypedDict):
    """One of the answers."""

    index: int
    message: dict[str, Any]
    logprobs: dict[str, Any] | None
    finish_reason: Literal["stop", "length", "tool_calls"]


class ChatCompletion(TypedDict):
    """The answers to a conversation."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: CompletionUsage
    system_fingerprint: str | None


class TextChoice(TypedDict):
    """One of the continuations."""

    text: str
    index: int
    logprobs: dict[str, Any] | None
    finish_reason: Literal["stop", "length"]


class TextCompletion(TypedDict):
    """The continuations of a text."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChoice]
    usage: CompletionUsage
    system_fingerprint: str | None


class ResponseResource(TypedDict):
    """A response: every key is there, null where there is nothing to say."""

    id: str
    object: Literal["response"]
    created_at: int
    completed_at: int | None
    status: Literal["in_progress", "completed", "incomplete", "failed"]
    error: dict[str, Any] | None
    incomplete_details: dict[str, Any] | None
    instructions: str | None
    model: str
    output: list[dict[str, Any]]
    previous_response_id: str | None
    store: bool
    tools: list[dict[str, Any]]
    usage: dict[str, Any] | None


class Deleted(TypedDict):
    """What was forgotten."""

    id: str
    object: Literal["response"]
    deleted: bool


class InputItems(TypedDict):
    """Items of a response's own input."""

    object: Literal["list"]
    data: list[dict[str, Any]]
    first_id: str
    last_id: str
    has_more: bool


class InputTokens(TypedDict):
    """How many tokens an input has."""

    object: Literal["response.input_tokens"]
    input_tokens: int


class AnthropicMessage(TypedDict):
    """The answer to a conversation, in blocks."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[dict[str, Any]]
    stop_reason: str
    stop_sequence: str | None
    usage: dict[str, Any]


class TokenCount(TypedDict):
    """How many tokens a conversation has."""

    input_tokens: int


class Vector(TypedDict):
    """One input's vector: numbers, or with `encoding_format` base64 their 32-bit floats."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class VectorList(TypedDict):
    """A vector of length 1 for each input."""

    object: Literal["list"]
    data: list[Vector]
    model: str
    usage: dict[str, int]
