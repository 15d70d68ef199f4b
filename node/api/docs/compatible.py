"""The description of the routes under `/v1/`: OpenAI's API and Anthropic's."""

from typing import Any, Final

from node.api.anthropic_schemas import CountBody, MessagesBody
from node.api.docs.compatible_answers import (
    AnthropicMessage,
    AnthropicTold,
    ChatCompletion,
    Deleted,
    InputItems,
    InputTokens,
    ModelFacts,
    ModelList,
    OpenAITold,
    ResponseResource,
    TextCompletion,
    TokenCount,
    VectorList,
)
from node.api.docs.operation import Operation, Operations, answered, in_path, in_query
from node.api.embeddings import CompatibleBody
from node.api.openai_schemas import ChatCompletionBody, CompletionBody
from node.api.responses_schemas import InputTokensBody, ResponseBody

_EVENTS: Final[dict[str, Any]] = {"type": "string"}
_HELLO: Final = [{"role": "user", "content": "Hello!"}]
_MODEL: Final = in_path("name", "the model's name; it may hold slashes")
_RESPONSE: Final = in_path("name", "the id of a response that was kept")
_PAGING: Final = (
    in_query("limit", "how many at most", {"type": "integer", "minimum": 1, "maximum": 100}),
    in_query("order", "newest or oldest first", {"type": "string", "enum": ["asc", "desc"]}),
    in_query("after", "the id of the item before the first", {"type": "string"}),
)

_MODELS: Final[Operations] = {
    ("/v1/models", "GET"): Operation("list the models here", answered(ModelList), OpenAITold),
    ("/v1/models/{name}", "GET"): Operation("describe a model", answered(ModelFacts), OpenAITold, parameters=(_MODEL,)),
}
_COMPLETIONS: Final[Operations] = {
    ("/v1/chat/completions", "POST"): Operation(
        "answer a conversation, once or n times",
        answered(ChatCompletion, events=_EVENTS),
        OpenAITold,
        body=ChatCompletionBody,
        example={"model": "demo", "messages": _HELLO},
    ),
    ("/v1/completions", "POST"): Operation(
        "continue one text or several as they stand",
        answered(TextCompletion, events=_EVENTS),
        OpenAITold,
        body=CompletionBody,
        example={"model": "demo", "prompt": "Hello", "temperature": 0},
    ),
}
_VECTORS: Final[Operations] = {
    ("/v1/embeddings", "POST"): Operation(
        "turn texts into vectors",
        answered(VectorList),
        OpenAITold,
        body=CompatibleBody,
        example={"model": "NAME", "input": "Hello!"},
    ),
}
_RESPONSES: Final[Operations] = {
    ("/v1/responses", "POST"): Operation(
        "answer an input, or follow on an earlier response",
        answered(ResponseResource, events=_EVENTS),
        OpenAITold,
        body=ResponseBody,
        example={"model": "demo", "input": "Hello!"},
    ),
    ("/v1/responses/input_tokens", "POST"): Operation(
        "count the tokens of an input",
        answered(InputTokens),
        OpenAITold,
        body=InputTokensBody,
        example={"model": "demo", "input": "Hello!"},
    ),
    ("/v1/responses/{name}", "GET"): Operation(
        "return a response that was kept", answered(ResponseResource), OpenAITold, parameters=(_RESPONSE,)
    ),
    ("/v1/responses/{name}", "DELETE"): Operation(
        "forget a response", answered(Deleted), OpenAITold, parameters=(_RESPONSE,)
    ),
    ("/v1/responses/{name}/cancel", "POST"): Operation(
        "refused: nothing runs in the background", answered({"type": "object"}), OpenAITold, parameters=(_RESPONSE,)
    ),
    ("/v1/responses/{name}/input_items", "GET"): Operation(
        "list the input of a response", answered(InputItems), OpenAITold, parameters=(_RESPONSE, *_PAGING)
    ),
}
_MESSAGES: Final[Operations] = {
    ("/v1/messages", "POST"): Operation(
        "answer a conversation, as Anthropic's clients ask",
        answered(AnthropicMessage, events=_EVENTS),
        AnthropicTold,
        body=MessagesBody,
        example={"model": "demo", "max_tokens": 100, "messages": _HELLO},
    ),
    ("/v1/messages/count_tokens", "POST"): Operation(
        "count the tokens of a conversation",
        answered(TokenCount),
        AnthropicTold,
        body=CountBody,
        example={"model": "demo", "messages": _HELLO},
    ),
}

COMPATIBLE: Final[Operations] = {**_MODELS, **_COMPLETIONS, **_VECTORS, **_RESPONSES, **_MESSAGES}
