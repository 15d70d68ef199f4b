"""Bodies of the compatible APIs: whatever comes, it is a question or refused by name."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.api import anthropic_request, openai_request, responses_request
from node.api.anthropic_schemas import CountBody, MessagesBody
from node.api.body import parse_body
from node.api.errors import BodyInvalid
from node.api.openai_parts import new_ids
from node.api.openai_schemas import ChatCompletionBody, CompletionBody
from node.api.responses_items import read_input
from node.api.responses_schemas import ResponseBody
from node.models.errors import CapabilityMissing

WORDS = st.sampled_from(
    [
        *("message", "text", "input_text", "output_text", "reasoning", "function_call", "function_call_output"),
        *("custom_tool_call", "item_reference", "tool_use", "tool_result", "thinking", "function", "custom", "auto"),
        *("required", "allowed_tools", "json_schema", "json_object", "user", "assistant", "system", "tool", "f", ""),
    ]
)
SCALARS = st.none() | st.booleans() | st.integers(-5, 300) | st.floats(allow_nan=False, allow_infinity=False) | WORDS
KEYS = st.sampled_from(
    [
        *("type", "role", "content", "text", "name", "id", "call_id", "arguments", "output", "input", "function"),
        *("tool_calls", "tool_call_id", "tool_use_id", "thinking", "parameters", "input_schema", "tools", "mode"),
        *("allowed_tools", "json_schema", "schema", "format", "summary", "description", "refusal"),
    ]
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=5), max_leaves=12
)


def _response(body: bytes) -> object:
    parsed = parse_body(body, ResponseBody)
    items = read_input(parsed.input, new_ids(lambda size: bytes(size)))
    return responses_request.question_of(parsed, [item for item in items if item["type"] != "item_reference"], "")


READERS: dict[str, tuple[Any, Callable[[bytes], object]]] = {
    "chat": (ChatCompletionBody, lambda body: openai_request.chat_questions(parse_body(body, ChatCompletionBody), "")),
    "completions": (
        CompletionBody,
        lambda body: openai_request.completion_questions(parse_body(body, CompletionBody), ""),
    ),
    "responses": (ResponseBody, _response),
    "messages": (MessagesBody, lambda body: anthropic_request.question_of(parse_body(body, MessagesBody), "")),
    "count": (CountBody, lambda body: anthropic_request.question_of(parse_body(body, CountBody), "")),
}


@pytest.mark.parametrize("api", READERS)
@given(data=st.data())
def test_a_body_is_a_question_or_refused(api: str, data: st.DataObject) -> None:
    schema, read = READERS[api]
    names = st.sampled_from(sorted(schema.model_fields))
    hello = [{"role": "user", "content": "x"}]
    good: dict[str, Any] = {"model": "m", "prompt": "x"} if api == "completions" else {"model": "m", "messages": hello}
    if api == "responses":
        good = {"model": "m", "input": "x"}
    if api == "messages":
        good["max_tokens"] = 5
    body = {**good, **data.draw(st.dictionaries(names, VALUES, max_size=3))}
    try:
        read(json.dumps(body).encode())
    except (BodyInvalid, CapabilityMissing):
        return
