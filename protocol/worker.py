"""What the node and its model worker say to each other (specs/0015-worker-protocol).

Frames of `protocol.wire` on a socketpair, each a message of `protocol.codec`. Fractions travel as decimal text and
token ids as packed 32-bit integers, so that the one canonical encoding without floats serves here too. Free-form values
(chat messages, tool schemas) travel as JSON text and are handed to the template as they came.

Longer than most files: both directions of one small protocol, side by side.
"""

import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

from protocol.codec import VERSION, Fields, decode_message, encode, encode_message
from protocol.errors import FieldInvalid

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
_MAX_COUNT: Final = 2**63 - 1
_TOKEN_BYTES: Final = 4

T = TypeVar("T")


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen. `temperature` 0 takes the likeliest one and ignores the rest but the penalties.

    `top_k` 0 and `top_p` 1 keep every token; `repeat_last_n` tokens are looked at by `repeat_penalty` (-1: all).
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


@dataclass(frozen=True)
class Load:
    """Node to worker, once and first: load the model in `directory`."""

    directory: str


@dataclass(frozen=True)
class Generate:
    """Node to worker: answer one request.

    Exactly one of `prompt` (text as it stands) and `messages_json` (a JSON list for the chat template) is not None.
    `template` replaces the model's own. `context` is a token history that goes before the prompt.
    `num_predict` counts tokens, 0 or less means until the context window of `num_ctx` tokens is full.
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


@dataclass(frozen=True)
class Cancel:
    """Node to worker: stop a request; it still ends with `Done`, reason `cancelled`, unless it ended before."""

    request: int


@dataclass(frozen=True)
class Ready:
    """Worker to node: the model is loaded.

    `context_tokens` is what the model was trained for; `memory_bytes` what it holds now; `notes` what a person
    should know about this worker (a slow BLAS, a sandbox that the system denied).
    """

    architecture: str
    context_tokens: int
    memory_bytes: int
    can_think: bool
    can_use_tools: bool
    has_template: bool
    notes: tuple[str, ...]


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
    """Worker to node: the next words of the answer, or of the thinking before it; `tokens` counts all so far."""

    request: int
    text: str
    thinking: bool
    tokens: int


@dataclass(frozen=True)
class ToolCall:
    """Worker to node: the model called a tool; the arguments are a JSON object."""

    request: int
    name: str
    arguments_json: str


@dataclass(frozen=True)
class Done:
    """Worker to node: the request ended, with what it took.

    `reason` is `stop`, `length` or `cancelled`. `context` is the token history, the answer included.
    """

    request: int
    reason: str
    prompt_tokens: int
    prompt_ns: int
    eval_tokens: int
    eval_ns: int
    context: tuple[int, ...] = field(repr=False)


@dataclass(frozen=True)
class Failed:
    """Worker to node: the request failed, the worker lives. `kind` is one of `FAILURE_KINDS`."""

    request: int
    kind: str
    why: str
    tokens: int = 0
    limit: int = 0


REASONS: Final = frozenset({"stop", "length", "cancelled"})
FAILURE_KINDS: Final = frozenset({"prompt-too-long", "option", "template", "capability", "model", "internal"})

ToWorker = Load | Generate | Cancel
FromWorker = Ready | LoadFailed | Progress | Text | ToolCall | Done | Failed


def encode_to_worker(message: ToWorker) -> bytes:
    """Return the frame payload of a message from the node."""
    match message:
        case Load(directory):
            return encode_message("load", directory=directory)
        case Cancel(request):
            return encode_message("cancel", request=request)
        case Generate():
            return encode_message("generate", **_generate_fields(message))


def decode_to_worker(data: bytes) -> ToWorker:
    """Return the message from the node in a frame payload.

    Raises:
        CodecInvalid: not canonical.
        FieldInvalid: an unknown type or field, or a value out of its bounds.
    """
    return _decode(data, _TO_WORKER)


def encode_from_worker(message: FromWorker) -> bytes:
    """Return the frame payload of a message from the worker."""
    kind = _KINDS[type(message)]
    values = {name: getattr(message, name) for name in message.__dataclass_fields__}
    if isinstance(message, Done):
        values["context"] = pack_tokens(message.context)
    return encode({"v": VERSION, "t": kind, **values})


def decode_from_worker(data: bytes) -> FromWorker:
    """Return the message from the worker in a frame payload.

    Raises:
        CodecInvalid: not canonical.
        FieldInvalid: an unknown type or field, or a value out of its bounds.
    """
    return _decode(data, _FROM_WORKER)


def pack_tokens(tokens: Sequence[int]) -> bytes:
    """Return token ids as 32-bit big-endian integers."""
    return struct.pack(f">{len(tokens)}I", *tokens)


def _tokens(fields: Fields, name: str) -> tuple[int, ...]:
    packed = fields.bytes(name, max=MAX_TOKENS * _TOKEN_BYTES)
    if len(packed) % _TOKEN_BYTES:
        raise fields.invalid(name, f"{len(packed)} bytes are no whole number of token ids")
    return struct.unpack(f">{len(packed) // _TOKEN_BYTES}I", packed)


def _decode(data: bytes, readers: dict[str, Callable[[Fields], T]]) -> T:
    kind, fields = decode_message(data, MAX_FRAME_BYTES)
    reader = readers.get(kind)
    if reader is None:
        raise FieldInvalid("message.t", f"unknown type {kind!r}")
    message = reader(fields)
    fields.done()
    return message


def _generate_fields(message: Generate) -> dict[str, object]:
    sampling = message.sampling
    optional = {"prompt": message.prompt, "messages": message.messages_json, "template": message.template}
    return {
        **{name: value for name, value in optional.items() if value is not None},
        "request": message.request,
        "tools": message.tools_json,
        "thinking": message.thinking,
        "context": pack_tokens(message.context),
        "num_ctx": message.num_ctx,
        "num_predict": message.num_predict,
        "stop": list(message.stop),
        "sampling": {
            **{name: repr(float(getattr(sampling, name))) for name in _FRACTIONS},
            "top_k": sampling.top_k,
            "repeat_last_n": sampling.repeat_last_n,
            "seed": sampling.seed,
        },
    }


# Name -> lowest and highest value that makes sense.
_FRACTIONS: Final = {
    "temperature": (0.0, 100.0),
    "top_p": (0.0, 1.0),
    "min_p": (0.0, 1.0),
    "repeat_penalty": (0.001, 100.0),
    "presence_penalty": (-100.0, 100.0),
    "frequency_penalty": (-100.0, 100.0),
}


def _sampling(fields: Fields) -> Sampling:
    fractions = {name: _fraction(fields, name, lo, hi) for name, (lo, hi) in _FRACTIONS.items()}
    sampling = Sampling(
        **fractions,
        top_k=fields.int("top_k", 0, 2**31 - 1),
        repeat_last_n=fields.int("repeat_last_n", -1, 2**31 - 1),
        seed=fields.int("seed", 0, MAX_SEED),
    )
    fields.done()
    return sampling


def _fraction(fields: Fields, name: str, lo: float, hi: float) -> float:
    text = fields.text(name, max=32)
    try:
        value = float(text)
    except ValueError:
        raise fields.invalid(name, f"{text!r} is not a decimal number") from None
    if not math.isfinite(value) or repr(value) != text:
        raise fields.invalid(name, f"{text!r} is not a number in its shortest form")
    if not lo <= value <= hi:
        raise fields.invalid(name, f"{text} is not between {lo} and {hi}")
    return value


def _optional_text(fields: Fields, name: str, max_bytes: int) -> str | None:
    return fields.text(name, max=max_bytes) if fields.has(name) else None


def _read_load(fields: Fields) -> Load:
    return Load(fields.text("directory", max=MAX_PATH_BYTES))


def _read_cancel(fields: Fields) -> Cancel:
    return Cancel(_request(fields))


def _read_generate(fields: Fields) -> Generate:
    message = Generate(
        request=_request(fields),
        prompt=_optional_text(fields, "prompt", MAX_TEXT_BYTES),
        messages_json=_optional_text(fields, "messages", MAX_TEXT_BYTES),
        tools_json=fields.text("tools", max=MAX_TEXT_BYTES),
        template=_optional_text(fields, "template", MAX_TEXT_BYTES),
        thinking=fields.bool("thinking"),
        context=_tokens(fields, "context"),
        num_ctx=fields.int("num_ctx", 1, MAX_TOKENS),
        num_predict=fields.int("num_predict", -2, MAX_TOKENS),
        stop=fields.texts("stop", max=MAX_STOPS, max_each=MAX_STOP_BYTES),
        sampling=_sampling(fields.fields("sampling")),
    )
    if (message.prompt is None) == (message.messages_json is None):
        raise fields.invalid("prompt", "expected exactly one of prompt and messages")
    return message


def _read_ready(fields: Fields) -> Ready:
    return Ready(
        architecture=fields.text("architecture", max=256),
        context_tokens=fields.int("context_tokens", 1, _MAX_COUNT),
        memory_bytes=fields.int("memory_bytes", 0, _MAX_COUNT),
        can_think=fields.bool("can_think"),
        can_use_tools=fields.bool("can_use_tools"),
        has_template=fields.bool("has_template"),
        notes=fields.texts("notes", max=MAX_NOTES, max_each=MAX_WHY_BYTES),
    )


def _read_load_failed(fields: Fields) -> LoadFailed:
    return LoadFailed(fields.text("why", max=MAX_WHY_BYTES))


def _read_progress(fields: Fields) -> Progress:
    return Progress(_request(fields), fields.int("done", 0, MAX_TOKENS), fields.int("total", 0, MAX_TOKENS))


def _read_text(fields: Fields) -> Text:
    text = fields.text("text", max=MAX_TEXT_BYTES)
    return Text(_request(fields), text, fields.bool("thinking"), fields.int("tokens", 0, MAX_TOKENS))


def _read_tool_call(fields: Fields) -> ToolCall:
    return ToolCall(
        _request(fields), fields.text("name", max=MAX_NAME_BYTES), fields.text("arguments_json", max=MAX_TEXT_BYTES)
    )


def _read_done(fields: Fields) -> Done:
    reason = fields.text("reason", max=32)
    if reason not in REASONS:
        raise fields.invalid("reason", f"unknown reason {reason!r}")
    return Done(
        request=_request(fields),
        reason=reason,
        prompt_tokens=fields.int("prompt_tokens", 0, MAX_TOKENS),
        prompt_ns=fields.int("prompt_ns", 0, _MAX_COUNT),
        eval_tokens=fields.int("eval_tokens", 0, MAX_TOKENS),
        eval_ns=fields.int("eval_ns", 0, _MAX_COUNT),
        context=_tokens(fields, "context"),
    )


def _read_failed(fields: Fields) -> Failed:
    kind = fields.text("kind", max=32)
    if kind not in FAILURE_KINDS:
        raise fields.invalid("kind", f"unknown kind {kind!r}")
    why = fields.text("why", max=MAX_WHY_BYTES)
    return Failed(_request(fields), kind, why, fields.int("tokens", 0, _MAX_COUNT), fields.int("limit", 0, _MAX_COUNT))


def _request(fields: Fields) -> int:
    return fields.int("request", 0, _MAX_COUNT)


_TO_WORKER: Final[dict[str, Callable[[Fields], ToWorker]]] = {
    "load": _read_load,
    "generate": _read_generate,
    "cancel": _read_cancel,
}
_FROM_WORKER: Final[dict[str, Callable[[Fields], FromWorker]]] = {
    "ready": _read_ready,
    "load-failed": _read_load_failed,
    "progress": _read_progress,
    "text": _read_text,
    "tool-call": _read_tool_call,
    "done": _read_done,
    "failed": _read_failed,
}
_KINDS: Final[dict[type, str]] = {
    Ready: "ready",
    LoadFailed: "load-failed",
    Progress: "progress",
    Text: "text",
    ToolCall: "tool-call",
    Done: "done",
    Failed: "failed",
}
