"""Parts that OpenAI's answers share: names, usage and tool calls."""

from collections.abc import Callable, Sequence
from typing import Any, Final

from node.api.blocks import Blocks
from node.models.requests import Call, Ending

EVENT_STREAM: Final = "text/event-stream"
LAST_EVENT: Final = b"data: [DONE]\n\n"
_ID_BYTES: Final = 12

NewId = Callable[[str], str]


def new_ids(random_bytes: Callable[[int], bytes]) -> NewId:
    """Return what makes ids: a prefix that tells the kind, and random hexadecimal."""
    return lambda prefix: f"{prefix}{random_bytes(_ID_BYTES).hex()}"


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
