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

    `format` is None, "json" or a JSON schema; the answer keeps to it, after the thinking. `tool_choice` is `none`,
    `auto`, `required` or `function:NAME`. `top_logprobs` asks for log-probabilities with so many likely tokens beside
    each chosen one; None for none at all. `effort` is how hard a model that knows degrees thinks; with
    `thinking_if_able` thinking is no more than a hint, which a model that cannot think does without. `suffix` is what
    follows the words to be inserted after `prompt`. `client` tells who asks, so that nobody waits for somebody else's
    many requests: requests with the same text share one place in turn.
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
    format: object = field(default=None, repr=False)
    tool_choice: str = "auto"
    parallel_tool_calls: bool = True
    top_logprobs: int | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    effort: str = ""
    thinking_if_able: bool = False
    suffix: str | None = field(default=None, repr=False)
    client: str = ""


@dataclass(frozen=True)
class EmbedRequest:
    """Texts, or lists of token ids, to embed; `truncate` cuts what is longer than the model's window."""

    model: str
    inputs: Sequence[str | Sequence[int]] = field(repr=False)
    truncate: bool = True
    keep_alive_s: float | None = None
    client: str = ""


@dataclass(frozen=True)
class Embeddings:
    """One vector of length 1 for each input, in order; `tokens` counts what was read."""

    vectors: Sequence[Sequence[float]] = field(repr=False)
    tokens: int
    total_ns: int
    load_ns: int


@dataclass(frozen=True)
class Call:
    """A tool that the model wants called; the arguments are a JSON object as text."""

    name: str
    arguments_json: str = field(repr=False)


@dataclass(frozen=True)
class Ending:
    """How an answer ended and what it took, in tokens and nanoseconds.

    `reason` is `stop` or `length`. `load_ns` is the wait for the worker and its model, within `total_ns`.
    `context` is the token history to continue from. `cached_tokens` of the prompt had been read before. `stopped_by` is
    the stop string that ended it, empty where none did.
    """

    reason: str
    prompt_tokens: int
    eval_tokens: int
    total_ns: int
    load_ns: int
    prompt_ns: int
    eval_ns: int
    context: tuple[int, ...] = field(default=(), repr=False)
    cached_tokens: int = 0
    stopped_by: str = field(default="", repr=False)


@dataclass(frozen=True)
class Piece:
    """The next part of an answer: text, thinking text, or a tool call; the last one carries the `ending`.

    `logprobs_json` has the tokens whose text this is, where they were asked for: see `protocol.worker.logprobs`.
    `tokens` counts those of the answer so far, `prompt_tokens` those of the prompt.
    """

    text: str = field(default="", repr=False)
    thinking: bool = False
    tokens: int = 0
    prompt_tokens: int = 0
    logprobs_json: str = field(default="", repr=False)
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
