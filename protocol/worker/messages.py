"""The messages between the node and its model worker, and their caps (specs/0015-worker-protocol)."""

from dataclasses import dataclass, field
from typing import Final

MAX_FRAME_BYTES: Final = 64 * 1024 * 1024
MAX_TEXT_BYTES: Final = 32 * 1024 * 1024
MAX_STOPS: Final = 32
MAX_STOP_BYTES: Final = 1024
MAX_TOKENS: Final = 4 * 1024 * 1024
MAX_PATH_BYTES: Final = 4096
MAX_WHY_BYTES: Final = 2000
MAX_NAME_BYTES: Final = 1024
MAX_NOTES: Final = 16
MAX_SEED: Final = 2**64 - 1
MAX_TOP_LOGPROBS: Final = 20
MAX_BIASES: Final = 1024
MAX_ROWS: Final = 256
MAX_ADAPTER_BYTES: Final = 128
MAX_DIMENSIONS: Final = 65536
MAX_VECTOR_BYTES: Final = 8 * 1024 * 1024
MAX_CACHE_BYTES: Final = 2**50
CACHE_KEY_BYTES: Final = 32
NO_LOGPROBS: Final = -1


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen. `temperature` 0 takes the likeliest one and ignores the rest but the penalties.

    `top_k` 0 and `top_p` 1 keep every token; `repeat_last_n` tokens are looked at by `repeat_penalty` (-1: all).
    `logit_bias` is added to the logits of its token ids before anything else.
    """

    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.9
    min_p: float = 0.0
    repeat_penalty: float = 1.0
    repeat_last_n: int = 64
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int = 0
    logit_bias: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class DiskCache:
    """Where a worker keeps the prefixes of prompts between restarts: sealed with `key`, at most `max_bytes` in all."""

    directory: str
    key: bytes = field(repr=False)
    max_bytes: int


@dataclass(frozen=True)
class Load:
    """Node to worker, once and first: load the model in `directory`.

    `draft` is the directory of the model that drafts for it. At most `max_rows` requests are answered at once.
    Keys and values of the context are kept with `kv_bits` bits (4 or 8; 0: as they are computed). `memory_bytes` bounds
    what contexts and kept prefixes take together, 0 leaves that to the worker.
    """

    directory: str
    draft: str | None = None
    max_rows: int = 16
    kv_bits: int = 0
    memory_bytes: int = 0
    cache: DiskCache | None = None


@dataclass(frozen=True)
class LoadAdapter:
    """Node to worker: read the LoRA adapter in `directory`; requests then name it `adapter`. Ends in `Done`."""

    request: int
    adapter: str
    directory: str


@dataclass(frozen=True)
class DropAdapter:
    """Node to worker: forget an adapter; requests that use it end first."""

    adapter: str


@dataclass(frozen=True)
class Embed:
    """Node to worker: embed each of `inputs_json`, a JSON list of texts or of lists of token ids.

    `truncate` cuts what is longer than the model's window, instead of refusing it.
    """

    request: int
    inputs_json: str = field(repr=False)
    truncate: bool = True


@dataclass(frozen=True)
class Generate:
    """Node to worker: answer one request.

    Exactly one of `prompt` (text as it stands) and `messages_json` (a JSON list for the chat template) is not None.
    `template` replaces the model's own. `context` is a token history that goes before the prompt.
    `num_predict` counts tokens, 0 or less means until the context window of `num_ctx` tokens is full.
    `adapter` names a loaded adapter, empty for the model as it is. `format_json` is `"json"` or a JSON schema that the
    answer keeps to, after the thinking. `tool_choice` is `none`, `auto`, `required` or `function:NAME`. `top_logprobs`
    is how many likely tokens come with each chosen one, -1 for no log-probabilities at all. `effort` is how hard a
    model that knows degrees thinks. `suffix` is what follows the words to be inserted. With `count_only` the prompt's
    tokens are counted and nothing is generated.
    """

    request: int
    prompt: str | None
    messages_json: str | None
    tools_json: str
    template: str | None
    thinking: bool
    context: tuple[int, ...]
    num_ctx: int
    num_predict: int
    stop: tuple[str, ...]
    sampling: Sampling
    adapter: str = ""
    format_json: str | None = None
    tool_choice: str = "auto"
    parallel_tool_calls: bool = True
    top_logprobs: int = NO_LOGPROBS
    effort: str = ""
    suffix: str | None = None
    count_only: bool = False


@dataclass(frozen=True)
class Cancel:
    """Node to worker: stop a request; it still ends with `Done`, reason `cancelled`, unless it ended before."""

    request: int


@dataclass(frozen=True)
class Ready:
    """Worker to node: the model is loaded.

    `context_tokens` is what the model was trained for; `memory_bytes` what it holds now; `notes` what a person
    should know about this worker (a slow BLAS, a sandbox that the system denied). `kv_bytes_per_token` is what one
    token of one context takes. A model that embeds has `dimensions` above 0; one that generates `can_generate`.
    `can_insert`: it was trained to fill in between a prompt and a suffix.
    """

    architecture: str
    context_tokens: int
    memory_bytes: int
    can_think: bool
    can_use_tools: bool
    has_template: bool
    notes: tuple[str, ...]
    can_generate: bool = True
    can_insert: bool = False
    dimensions: int = 0
    kv_bytes_per_token: int = 0


@dataclass(frozen=True)
class LoadFailed:
    """Worker to node: the model cannot be loaded; the worker ends after it."""

    why: str


@dataclass(frozen=True)
class Progress:
    """Worker to node: `done` of `total` prompt tokens have been read."""

    request: int
    done: int
    total: int


@dataclass(frozen=True)
class Text:
    """Worker to node: the next words of the answer, or of the thinking before it; `tokens` counts all so far.

    `logprobs_json` is empty, or a JSON list: `token`, `logprob`, `bytes`, `top_logprobs` of each token.
    """

    request: int
    text: str
    thinking: bool
    tokens: int
    logprobs_json: str = field(default="", repr=False)


@dataclass(frozen=True)
class ToolCall:
    """Worker to node: the model called a tool; the arguments are a JSON object."""

    request: int
    name: str
    arguments_json: str


@dataclass(frozen=True)
class Done:
    """Worker to node: the request ended, with what it took.

    `reason` is `stop`, `length` or `cancelled`. `context` is the token history, the answer included. `cached_tokens` of
    the prompt were read for an earlier request already. Of `drafted_tokens` the model took `accepted_tokens`.
    `stopped_by` is the stop string that ended the answer.
    """

    request: int
    reason: str
    prompt_tokens: int
    prompt_ns: int
    eval_tokens: int
    eval_ns: int
    context: tuple[int, ...] = field(repr=False)
    cached_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    stopped_by: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Vectors:
    """Worker to node: embeddings from number `first` on, each `dimensions` 32-bit little-endian floats, of length 1."""

    request: int
    first: int
    dimensions: int
    data: bytes = field(repr=False)


@dataclass(frozen=True)
class Status:
    """Worker to node, whenever a request began or ended: what the worker holds now.

    `memory_bytes` is all that MLX holds, `prefix_bytes` of it the kept prefixes; `rows` requests are being answered and
    `waiting` wait in the worker. `prefix_hits` and `prefix_misses` count since the start.
    """

    memory_bytes: int
    prefix_bytes: int
    rows: int
    waiting: int
    prefix_hits: int
    prefix_misses: int


@dataclass(frozen=True)
class Failed:
    """Worker to node: the request failed, the worker lives. `kind` is one of `FAILURE_KINDS`."""

    request: int
    kind: str
    why: str
    tokens: int = 0
    limit: int = 0


REASONS: Final = frozenset({"stop", "length", "cancelled"})
FAILURE_KINDS: Final = frozenset(
    {"prompt-too-long", "option", "template", "capability", "model", "format", "adapter", "memory", "internal"}
)

ToWorker = Load | LoadAdapter | DropAdapter | Generate | Embed | Cancel
FromWorker = Ready | LoadFailed | Progress | Text | ToolCall | Vectors | Status | Done | Failed
