"""Parts that OpenAI's answers share: usage, log-probabilities, tool calls, and JSON text put together by hand."""

import json
from collections.abc import Callable, Sequence
from json.encoder import encode_basestring
from typing import Any, Final

from node.api.blocks import Blocks
from node.models.requests import Call, ChosenToken, Ending, LikelyToken

EVENT_STREAM: Final = "text/event-stream"
LAST_EVENT: Final = b"data: [DONE]\n\n"
_ID_BYTES: Final = 12

NewId = Callable[[str], str]

quote: Final = encode_basestring
"""Return a text as JSON."""


def new_ids(random_bytes: Callable[[int], bytes]) -> NewId:
    """Return what makes ids: a prefix that tells the kind, and random hexadecimal."""
    return lambda prefix: f"{prefix}{random_bytes(_ID_BYTES).hex()}"


def compact(value: object) -> str:
    """Return `value` as JSON without spaces."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def usage_of(answers: Sequence[Blocks], prompts: int) -> dict[str, Any]:
    """Return what the answers took. The choices of one prompt lie beside each other, and the prompt counts once."""
    endings = [blocks.ended() for blocks in answers]
    return usage(
        endings[:: max(1, len(endings) // prompts)], endings, sum(blocks.thinking_tokens for blocks in answers)
    )


def usage(prompts: Sequence[Ending], endings: Sequence[Ending], thinking_tokens: int) -> dict[str, Any]:
    """Return what was read and generated, in tokens."""
    read = sum(ending.prompt_tokens for ending in prompts)
    generated = sum(ending.eval_tokens for ending in endings)
    return {
        "prompt_tokens": read,
        "completion_tokens": generated,
        "total_tokens": read + generated,
        "prompt_tokens_details": {"cached_tokens": sum(ending.cached_tokens for ending in prompts)},
        "completion_tokens_details": {"reasoning_tokens": thinking_tokens},
    }


def tool_call(call: Call, call_id: str) -> dict[str, Any]:
    """Return `call` as chat completions write it."""
    return {"id": call_id, "type": "function", "function": {"name": call.name, "arguments": call.arguments_json}}


def logprob_facts(chosen: Sequence[ChosenToken]) -> list[dict[str, Any]]:
    """Return tokens with their probabilities, and the likely ones beside each."""
    return [{**_likely(token), "top_logprobs": [_likely(other) for other in token.top]} for token in chosen]


def _likely(token: LikelyToken) -> dict[str, Any]:
    return {"token": token.token, "logprob": token.logprob, "bytes": list(token.bytes)}
