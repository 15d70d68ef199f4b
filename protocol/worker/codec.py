"""The bytes of the worker's messages: frames of `protocol.wire`, each a message of `protocol.codec`.

Fractions travel as decimal text and token ids as packed 32-bit integers, so that the one canonical encoding without
floats serves here too. Free-form values (chat messages, tool schemas) travel as JSON text and are handed on as they
came. A field whose value is None is left out.

Longer than most files: one reader for each message, and nothing else.
"""

import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import fields as fields_of
from typing import Any, Final, TypeVar

from protocol.codec import VERSION, Fields, decode_message, encode
from protocol.errors import FieldInvalid
from protocol.worker.fast_text import decode_text, encode_text
from protocol.worker.messages import (
    CACHE_KEY_BYTES,
    FAILURE_KINDS,
    MAX_ADAPTER_BYTES,
    MAX_BIASES,
    MAX_CACHE_BYTES,
    MAX_DIMENSIONS,
    MAX_FRAME_BYTES,
    MAX_NAME_BYTES,
    MAX_NOTES,
    MAX_PATH_BYTES,
    MAX_ROWS,
    MAX_SEED,
    MAX_STOP_BYTES,
    MAX_STOPS,
    MAX_TEXT_BYTES,
    MAX_TOKENS,
    MAX_TOP_LOGPROBS,
    MAX_VECTOR_BYTES,
    MAX_WHY_BYTES,
    NO_LOGPROBS,
    REASONS,
    Cancel,
    DiskCache,
    Done,
    DropAdapter,
    Embed,
    Failed,
    FromWorker,
    Generate,
    Load,
    LoadAdapter,
    LoadFailed,
    Progress,
    Ready,
    Sampling,
    Status,
    Text,
    ToolCall,
    ToWorker,
    Vectors,
)

_MAX_COUNT: Final = 2**63 - 1
_TOKEN_BYTES: Final = 4
_FLOAT_BYTES: Final = 4
_KV_BITS: Final = frozenset({0, 4, 8})

T = TypeVar("T")


def encode_to_worker(message: ToWorker) -> bytes:
    """Return the frame payload of a message from the node."""
    return _encode(message)


def decode_to_worker(data: bytes) -> ToWorker:
    """Return the message from the node in a frame payload.

    Raises:
        CodecInvalid: not canonical.
        FieldInvalid: an unknown type or field, or a value out of its bounds.
    """
    return _decode(data, _TO_WORKER)


def encode_from_worker(message: FromWorker) -> bytes:
    """Return the frame payload of a message from the worker."""
    if type(message) is Text:
        return encode_text(message)
    return _encode(message)


def decode_from_worker(data: bytes) -> FromWorker:
    """Return the message from the worker in a frame payload.

    Raises:
        CodecInvalid: not canonical.
        FieldInvalid: an unknown type or field, or a value out of its bounds.
    """
    return decode_text(data) or _decode(data, _FROM_WORKER)


def pack_tokens(tokens: Sequence[int]) -> bytes:
    """Return token ids as 32-bit big-endian integers."""
    return struct.pack(f">{len(tokens)}I", *tokens)


def _encode(message: ToWorker | FromWorker) -> bytes:
    values = {field.name: getattr(message, field.name) for field in fields_of(message)}
    return encode({"v": VERSION, "t": _KINDS[type(message)], **_wire(values)})


def _wire(values: dict[str, Any]) -> dict[str, object]:
    wire: dict[str, object] = {}
    for name, value in values.items():
        if value is None:
            continue
        if name == "context":
            wire[name] = pack_tokens(value)
        elif isinstance(value, Sampling):
            wire[name] = _wire_sampling(value)
        elif isinstance(value, DiskCache):
            wire[name] = dict(vars(value))
        else:
            wire[name] = list(value) if isinstance(value, tuple) else value
    return wire


def _wire_sampling(sampling: Sampling) -> dict[str, object]:
    return {
        **{name: repr(float(getattr(sampling, name))) for name in _FRACTIONS},
        "top_k": sampling.top_k,
        "repeat_last_n": sampling.repeat_last_n,
        "seed": sampling.seed,
        "bias_tokens": pack_tokens([token for token, _ in sampling.logit_bias]),
        "biases": [repr(float(bias)) for _, bias in sampling.logit_bias],
    }


def _decode(data: bytes, readers: dict[str, Callable[[Fields], T]]) -> T:
    kind, fields = decode_message(data, MAX_FRAME_BYTES)
    reader = readers.get(kind)
    if reader is None:
        raise FieldInvalid("message.t", f"unknown type {kind!r}")
    message = reader(fields)
    fields.done()
    return message


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
    fractions = {
        name: _fraction(fields, name, fields.text(name, max=32), lo, hi) for name, (lo, hi) in _FRACTIONS.items()
    }
    sampling = Sampling(
        **fractions,
        top_k=fields.int("top_k", 0, 2**31 - 1),
        repeat_last_n=fields.int("repeat_last_n", -1, 2**31 - 1),
        seed=fields.int("seed", 0, MAX_SEED),
        logit_bias=_biases(fields),
    )
    fields.done()
    return sampling


def _biases(fields: Fields) -> tuple[tuple[int, float], ...]:
    tokens = _tokens(fields, "bias_tokens", MAX_BIASES)
    texts = fields.texts("biases", max=MAX_BIASES, max_each=32)
    if len(tokens) != len(texts):
        raise fields.invalid("biases", f"{len(texts)} for {len(tokens)} tokens")
    return tuple(
        (token, _fraction(fields, "biases", text, -100, 100)) for token, text in zip(tokens, texts, strict=True)
    )


def _fraction(fields: Fields, name: str, text: str, lo: float, hi: float) -> float:
    try:
        value = float(text)
    except ValueError:
        raise fields.invalid(name, f"{text!r} is not a decimal number") from None
    if not math.isfinite(value) or repr(value) != text:
        raise fields.invalid(name, f"{text!r} is not a number in its shortest form")
    if not lo <= value <= hi:
        raise fields.invalid(name, f"{text} is not between {lo} and {hi}")
    return value


def _tokens(fields: Fields, name: str, most: int = MAX_TOKENS) -> tuple[int, ...]:
    packed = fields.bytes(name, max=most * _TOKEN_BYTES)
    if len(packed) % _TOKEN_BYTES:
        raise fields.invalid(name, f"{len(packed)} bytes are no whole number of token ids")
    return struct.unpack(f">{len(packed) // _TOKEN_BYTES}I", packed)


def _optional_text(fields: Fields, name: str, max_bytes: int) -> str | None:
    return fields.text(name, max=max_bytes) if fields.has(name) else None


def _read_load(fields: Fields) -> Load:
    message = Load(
        directory=fields.text("directory", max=MAX_PATH_BYTES),
        draft=_optional_text(fields, "draft", MAX_PATH_BYTES),
        max_rows=fields.int("max_rows", 1, MAX_ROWS),
        kv_bits=fields.int("kv_bits", 0, 8),
        memory_bytes=fields.int("memory_bytes", 0, _MAX_COUNT),
        cache=_read_disk_cache(fields.fields("cache")) if fields.has("cache") else None,
    )
    if message.kv_bits not in _KV_BITS:
        raise fields.invalid("kv_bits", f"{message.kv_bits} is none of 0, 4, 8")
    return message


def _read_disk_cache(fields: Fields) -> DiskCache:
    cache = DiskCache(
        directory=fields.text("directory", max=MAX_PATH_BYTES),
        key=fields.bytes("key", length=CACHE_KEY_BYTES),
        max_bytes=fields.int("max_bytes", 0, MAX_CACHE_BYTES),
    )
    fields.done()
    return cache


def _read_load_adapter(fields: Fields) -> LoadAdapter:
    return LoadAdapter(_request(fields), _adapter(fields), fields.text("directory", max=MAX_PATH_BYTES))


def _read_drop_adapter(fields: Fields) -> DropAdapter:
    return DropAdapter(_adapter(fields))


def _read_embed(fields: Fields) -> Embed:
    return Embed(_request(fields), fields.text("inputs_json", max=MAX_TEXT_BYTES), fields.bool("truncate"))


def _read_cancel(fields: Fields) -> Cancel:
    return Cancel(_request(fields))


def _read_generate(fields: Fields) -> Generate:
    message = Generate(
        request=_request(fields),
        prompt=_optional_text(fields, "prompt", MAX_TEXT_BYTES),
        messages_json=_optional_text(fields, "messages_json", MAX_TEXT_BYTES),
        tools_json=fields.text("tools_json", max=MAX_TEXT_BYTES),
        template=_optional_text(fields, "template", MAX_TEXT_BYTES),
        thinking=fields.bool("thinking"),
        context=_tokens(fields, "context"),
        num_ctx=fields.int("num_ctx", 1, MAX_TOKENS),
        num_predict=fields.int("num_predict", -2, MAX_TOKENS),
        stop=fields.texts("stop", max=MAX_STOPS, max_each=MAX_STOP_BYTES),
        sampling=_sampling(fields.fields("sampling")),
        adapter=_adapter(fields),
        format_json=_optional_text(fields, "format_json", MAX_TEXT_BYTES),
        tool_choice=fields.text("tool_choice", max=MAX_NAME_BYTES + len("function:")),
        parallel_tool_calls=fields.bool("parallel_tool_calls"),
        top_logprobs=fields.int("top_logprobs", NO_LOGPROBS, MAX_TOP_LOGPROBS),
        effort=fields.text("effort", max=16),
        suffix=_optional_text(fields, "suffix", MAX_TEXT_BYTES),
        count_only=fields.bool("count_only"),
    )
    if (message.prompt is None) == (message.messages_json is None):
        raise fields.invalid("prompt", "expected exactly one of prompt and messages_json")
    if message.tool_choice not in ("none", "auto", "required") and not message.tool_choice.startswith("function:"):
        raise fields.invalid("tool_choice", "expected none, auto, required or function:NAME")
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
        can_generate=fields.bool("can_generate"),
        can_insert=fields.bool("can_insert"),
        dimensions=fields.int("dimensions", 0, MAX_DIMENSIONS),
        kv_bytes_per_token=fields.int("kv_bytes_per_token", 0, _MAX_COUNT),
    )


def _read_load_failed(fields: Fields) -> LoadFailed:
    return LoadFailed(fields.text("why", max=MAX_WHY_BYTES))


def _read_progress(fields: Fields) -> Progress:
    return Progress(_request(fields), fields.int("done", 0, MAX_TOKENS), fields.int("total", 0, MAX_TOKENS))


def _read_text(fields: Fields) -> Text:
    return Text(
        request=_request(fields),
        text=fields.text("text", max=MAX_TEXT_BYTES),
        thinking=fields.bool("thinking"),
        tokens=fields.int("tokens", 0, MAX_TOKENS),
        logprobs_json=fields.text("logprobs_json", max=MAX_TEXT_BYTES),
    )


def _read_tool_call(fields: Fields) -> ToolCall:
    return ToolCall(
        _request(fields), fields.text("name", max=MAX_NAME_BYTES), fields.text("arguments_json", max=MAX_TEXT_BYTES)
    )


def _read_vectors(fields: Fields) -> Vectors:
    message = Vectors(
        request=_request(fields),
        first=fields.int("first", 0, MAX_TOKENS),
        dimensions=fields.int("dimensions", 1, MAX_DIMENSIONS),
        data=fields.bytes("data", max=MAX_VECTOR_BYTES),
    )
    if len(message.data) % (_FLOAT_BYTES * message.dimensions):
        raise fields.invalid("data", f"{len(message.data)} bytes are no whole number of vectors")
    return message


def _read_status(fields: Fields) -> Status:
    return Status(
        memory_bytes=fields.int("memory_bytes", 0, _MAX_COUNT),
        prefix_bytes=fields.int("prefix_bytes", 0, _MAX_COUNT),
        rows=fields.int("rows", 0, MAX_ROWS),
        waiting=fields.int("waiting", 0, _MAX_COUNT),
        prefix_hits=fields.int("prefix_hits", 0, _MAX_COUNT),
        prefix_misses=fields.int("prefix_misses", 0, _MAX_COUNT),
    )


def _read_done(fields: Fields) -> Done:
    reason = fields.text("reason", max=32)
    if reason not in REASONS:
        raise fields.invalid("reason", f"unknown reason {reason!r}")
    return Done(
        request=_request(fields),
        reason=reason,
        # Not only those of a context: prompts are also counted, and many texts are embedded by one request.
        prompt_tokens=fields.int("prompt_tokens", 0, _MAX_COUNT),
        prompt_ns=fields.int("prompt_ns", 0, _MAX_COUNT),
        eval_tokens=fields.int("eval_tokens", 0, MAX_TOKENS),
        eval_ns=fields.int("eval_ns", 0, _MAX_COUNT),
        context=_tokens(fields, "context"),
        cached_tokens=fields.int("cached_tokens", 0, MAX_TOKENS),
        drafted_tokens=fields.int("drafted_tokens", 0, MAX_TOKENS),
        accepted_tokens=fields.int("accepted_tokens", 0, MAX_TOKENS),
        stopped_by=_optional_text(fields, "stopped_by", MAX_STOP_BYTES),
    )


def _read_failed(fields: Fields) -> Failed:
    kind = fields.text("kind", max=32)
    if kind not in FAILURE_KINDS:
        raise fields.invalid("kind", f"unknown kind {kind!r}")
    why = fields.text("why", max=MAX_WHY_BYTES)
    return Failed(_request(fields), kind, why, fields.int("tokens", 0, _MAX_COUNT), fields.int("limit", 0, _MAX_COUNT))


def _request(fields: Fields) -> int:
    return fields.int("request", 0, _MAX_COUNT)


def _adapter(fields: Fields) -> str:
    return fields.text("adapter", max=MAX_ADAPTER_BYTES)


_TO_WORKER: Final[dict[str, Callable[[Fields], ToWorker]]] = {
    "load": _read_load,
    "load-adapter": _read_load_adapter,
    "drop-adapter": _read_drop_adapter,
    "generate": _read_generate,
    "embed": _read_embed,
    "cancel": _read_cancel,
}
_FROM_WORKER: Final[dict[str, Callable[[Fields], FromWorker]]] = {
    "ready": _read_ready,
    "load-failed": _read_load_failed,
    "progress": _read_progress,
    "text": _read_text,
    "tool-call": _read_tool_call,
    "vectors": _read_vectors,
    "status": _read_status,
    "done": _read_done,
    "failed": _read_failed,
}
_KINDS: Final[dict[type, str]] = {
    Load: "load",
    LoadAdapter: "load-adapter",
    DropAdapter: "drop-adapter",
    Generate: "generate",
    Embed: "embed",
    Cancel: "cancel",
    Ready: "ready",
    LoadFailed: "load-failed",
    Progress: "progress",
    Text: "text",
    ToolCall: "tool-call",
    Vectors: "vectors",
    Status: "status",
    Done: "done",
    Failed: "failed",
}
