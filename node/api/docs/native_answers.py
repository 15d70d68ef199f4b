"""The answers of the native API as types, for its description alone: what is sent is written without them."""

from typing import Any, Literal, NotRequired

# pydantic reads these; on Python before 3.12 it needs this TypedDict.
from typing_extensions import TypedDict

from protocol.worker.logprobs import ChosenToken


class Told(TypedDict):
    """Why a request was refused or failed, and what to do about it."""

    error: str
    hint: NotRequired[str]


class Version(TypedDict):
    """This program's version."""

    version: str


class Proof(TypedDict):
    """What a model wrote when it was asked for a token."""

    model: str
    tokens: int
    seconds: float


class Healthy(TypedDict):
    """How this node is: models in memory, requests that workers have, requests in line, and the proof where asked."""

    status: Literal["ok", "failing"]
    version: str
    models: list[str]
    active: int
    waiting: int
    proof: NotRequired[Proof | None]
    reason: NotRequired[str]
    error: NotRequired[str]
    hint: NotRequired[str]


class Stopped(TypedDict):
    """Whether the model was in memory."""

    model: str
    stopped: bool


class Details(TypedDict):
    """What a model's files say about themselves."""

    parent_model: str
    format: str
    family: str
    families: list[str]
    parameter_size: str
    quantization_level: str


class Listed(TypedDict):
    """A model in the store. `digest` is empty for the embedded model before its first use."""

    name: str
    model: str
    modified_at: str
    size: int
    digest: str
    details: Details
    capabilities: list[str]


class Tags(TypedDict):
    """The models in the store."""

    models: list[Listed]


class Running(TypedDict):
    """A model in memory."""

    name: str
    model: str
    size: int
    digest: str
    details: Details
    expires_at: str
    size_vram: int
    context_length: int


class Loaded(TypedDict):
    """The models in memory."""

    models: list[Running]


class CalledFunction(TypedDict):
    """Which tool, with which arguments."""

    index: int
    name: str
    arguments: dict[str, Any]


class Called(TypedDict):
    """A tool that the model wants called."""

    id: str
    function: CalledFunction


class Figures(TypedDict):
    """What an answer took, in tokens and nanoseconds; with the last object of a stream."""

    done_reason: NotRequired[Literal["stop", "length", "load", "unload"]]
    total_duration: NotRequired[int]
    load_duration: NotRequired[int]
    prompt_eval_count: NotRequired[int]
    prompt_eval_duration: NotRequired[int]
    eval_count: NotRequired[int]
    eval_duration: NotRequired[int]


class Said(TypedDict):
    """A message, or in a stream a piece of one."""

    role: Literal["assistant"]
    content: str
    thinking: NotRequired[str]
    tool_calls: NotRequired[list[Called]]


class ChatAnswer(Figures):
    """An answer of `/api/chat`, whole or a piece of it."""

    model: str
    created_at: str
    message: Said
    done: bool
    logprobs: NotRequired[list[ChosenToken]]


class GenerateAnswer(Figures):
    """An answer of `/api/generate`, whole or a piece of it. `context` continues from here when it is sent back."""

    model: str
    created_at: str
    response: str
    done: bool
    thinking: NotRequired[str]
    tool_calls: NotRequired[list[Called]]
    logprobs: NotRequired[list[ChosenToken]]
    context: NotRequired[list[int]]


class ShownMessage(TypedDict):
    """A line that every chat with the model begins with."""

    role: str
    content: str


class Shown(TypedDict):
    """One model: its recipe, its chat template, and how its architecture is made."""

    modelfile: str
    parameters: str
    template: str
    details: Details
    model_info: dict[str, Any]
    capabilities: list[str]
    modified_at: str
    license: NotRequired[str]
    system: NotRequired[str]
    messages: NotRequired[list[ShownMessage]]


class Progress(TypedDict):
    """How far work of minutes is; the last line says `success`."""

    status: str
    digest: NotRequired[str]
    total: NotRequired[int]
    completed: NotRequired[int]
