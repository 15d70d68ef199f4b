"""What is asked of a model and what comes back, in the node's own words; both HTTP APIs speak through these."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from protocol.digest import Digest


@dataclass(frozen=True)
class GenerateRequest:
    """One question.

    Either `messages` is a conversation, or `prompt` is a text: put into the model's chat template after `system`,
    or, with `raw`, given to the model as it stands. `thinking` None leaves the choice to the model's default, which is
    not to think. `keep_alive_s` is how long the model stays loaded afterwards: None for the node's default, negative
    for ever. `defaults` lie under the Modelfile's parameters, `options` over them. `context` is the history that an
    earlier answer returned.
    """

    model: str
    messages: Sequence[Mapping[str, Any]] | None = field(default=None, repr=False)
    prompt: str | None = field(default=None, repr=False)
    system: str | None = field(default=None, repr=False)
    template: str | None = field(default=None, repr=False)
    raw: bool = False
    tools: Sequence[Mapping[str, Any]] = field(default=(), repr=False)
    thinking: bool | None = None
    context: Sequence[int] = field(default=(), repr=False)
    options: Mapping[str, object] = field(default_factory=dict)
    defaults: Mapping[str, object] = field(default_factory=dict)
    keep_alive_s: float | None = None


@dataclass(frozen=True)
class Call:
    """A tool that the model wants called; the arguments are a JSON object as text."""

    name: str
    arguments_json: str = field(repr=False)


@dataclass(frozen=True)
class Ending:
    """How an answer ended and what it took, in tokens and nanoseconds.

    `reason` is `stop` or `length`. `load_ns` is the wait for the worker and its model, within `total_ns`.
    `context` is the token history to continue from.
    """

    reason: str
    prompt_tokens: int
    eval_tokens: int
    total_ns: int
    load_ns: int
    prompt_ns: int
    eval_ns: int
    context: tuple[int, ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class Piece:
    """The next part of an answer: text, thinking text, or a tool call; the last one carries the `ending`."""

    text: str = field(default="", repr=False)
    thinking: bool = False
    call: Call | None = None
    ending: Ending | None = None


@dataclass(frozen=True)
class ModelDetails:
    """What a model's files say about themselves, for lists."""

    format: str = "safetensors"
    family: str = ""
    parameter_size: str = ""
    quantization_level: str = ""
    capabilities: tuple[str, ...] = ("completion",)


@dataclass(frozen=True)
class LoadedModel:
    """A model that a worker holds now. `expires_s` is Unix time, None for never."""

    name: str
    digest: Digest
    size_bytes: int
    memory_bytes: int
    context_tokens: int
    details: ModelDetails
    expires_s: float | None
    notes: tuple[str, ...] = ()
