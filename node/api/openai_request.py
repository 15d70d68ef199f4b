"""What the bodies of OpenAI's chat completions and completions ask for, in the node's own words."""

from collections.abc import Mapping
from typing import Any, Final

from node.api.body import parse_json_object
from node.api.errors import BodyInvalid
from node.api.openai_schemas import (
    MAX_PROMPTS,
    ChatCompletionBody,
    CompletionBody,
    Message,
    ResponseFormat,
    TextPart,
)
from node.api.tool_choice import function_tools, parse_tool_choice
from node.models.errors import CapabilityMissing
from node.models.requests import GenerateRequest
from protocol.worker.messages import MAX_BIASES

THIS_VERSION: Final = "this version of tilenode"
# What this API promises where a request is silent; a model's own parameters go before it.
DEFAULTS: Final = {"temperature": 1.0, "top_p": 1.0, "top_k": 0}
# A legacy completion that says nothing of its length is this short, as its clients know.
COMPLETION_TOKENS: Final = 16
_NOT_SERVED: Final = ("audio", "functions", "function_call", "prediction", "web_search_options", "moderation")
_UNBIASED: Final = 100.0
_MAX_TOKEN: Final = 2**32 - 1


def chat_questions(body: ChatCompletionBody, client: str) -> list[GenerateRequest]:
    """Return one question for each of the choices that `body` asks for.

    Raises:
        BodyInvalid: a field is not what it may be.
        CapabilityMissing: something that would change the answer and is not there.
    """
    _check_served(body)
    tools = function_tools(body.tools)
    tool_choice, tools = parse_tool_choice(body.tool_choice, tools, _function_name)
    questions = [
        GenerateRequest(
            model=body.model,
            messages=[_message(index, message) for index, message in enumerate(body.messages)],
            tools=tools,
            tool_choice=tool_choice,
            parallel_tool_calls=body.parallel_tool_calls is not False,
            format=_format(body.response_format),
            top_logprobs=(body.top_logprobs or 0) if body.logprobs else None,
            thinking=wanted_thinking(body.reasoning_effort),
            thinking_if_able=True,
            effort=effort_word(body.reasoning_effort),
            options={**_options(body), "num_predict": body.max_completion_tokens or body.max_tokens},
            defaults=DEFAULTS,
            logit_bias=_biases(body.logit_bias),
            client=client,
        )
    ]
    return _choices(questions, body.n, body.seed)


def completion_questions(body: CompletionBody, client: str) -> list[GenerateRequest]:
    """Return one question for each choice of each prompt, the choices of one prompt beside each other.

    Raises:
        BodyInvalid: a field is not what it may be.
        CapabilityMissing: something that would change the answer and is not there.
    """
    if (body.best_of or 1) > (body.n or 1):
        raise CapabilityMissing(THIS_VERSION, "best_of above n")
    if body.echo and body.logprobs is not None:
        raise CapabilityMissing(THIS_VERSION, "logprobs of the prompt: echo with logprobs")
    if body.echo and body.suffix:
        raise BodyInvalid("echo and suffix exclude each other", "echo")
    prompts = _prompts(body)
    if body.echo and not all(isinstance(prompt, str) for prompt in prompts):
        raise CapabilityMissing(THIS_VERSION, "echo of token ids")
    if body.suffix and not all(isinstance(prompt, str) for prompt in prompts):
        raise CapabilityMissing(THIS_VERSION, "a suffix behind token ids")
    questions = [
        GenerateRequest(
            model=body.model,
            prompt=prompt if isinstance(prompt, str) else "",
            context=() if isinstance(prompt, str) else prompt,
            raw=True,
            suffix=body.suffix or None,
            top_logprobs=body.logprobs,
            options={**_options(body), "num_predict": body.max_tokens or COMPLETION_TOKENS},
            defaults=DEFAULTS,
            logit_bias=_biases(body.logit_bias),
            client=client,
        )
        for prompt in prompts
    ]
    return _choices(questions, body.n, body.seed)


def wanted_thinking(effort: str | None) -> bool | None:
    """Return whether `effort`, a word of this API, asks for thinking; None where it says nothing."""
    return None if effort is None else effort not in ("none", "minimal")


def effort_word(effort: str | None) -> str:
    """Return how hard to think, in the words of the models service; empty where that is left to the model."""
    return {"low": "low", "medium": "medium", "high": "high", "xhigh": "max", "max": "max"}.get(effort or "", "")


def wanted_format(kind: str, schema: Mapping[str, Any] | None) -> object:
    """Return the format of an answer: None for text, else a JSON schema."""
    return {"text": None, "json_object": {"type": "object"}}.get(kind, {"type": "object"} if schema is None else schema)


def content_text(content: str | list[TextPart] | None, where: str) -> str:
    """Return the text of a message's content.

    Raises:
        BodyInvalid: a part is not text; its type is named.
    """
    if content is None or isinstance(content, str):
        return content or ""
    for part in content:
        if part.type not in ("text", "refusal") or (part.text is None and part.refusal is None):
            raise BodyInvalid(f"content of type {part.type[:40]!r} is not supported", where)
    return "".join(part.text or part.refusal or "" for part in content)


def call_arguments(text: str, where: str) -> Mapping[str, Any]:
    """Return the arguments of an earlier tool call as the object that chat templates expect.

    Raises:
        BodyInvalid: no JSON object, or not one that a body could be.
    """
    # How arguments are spelled in the prompt is the model's business.
    try:
        return parse_json_object((text or "{}").encode())
    except BodyInvalid:
        raise BodyInvalid("tool call arguments are not a JSON object", where) from None


def _check_served(body: ChatCompletionBody) -> None:
    if body.modalities not in (None, ["text"]):
        raise CapabilityMissing(THIS_VERSION, "modalities other than text")
    for name in _NOT_SERVED:
        if getattr(body, name):
            raise CapabilityMissing(THIS_VERSION, name)
    if body.top_logprobs is not None and not body.logprobs:
        raise BodyInvalid("top_logprobs needs logprobs to be true", "top_logprobs")


def _choices(questions: list[GenerateRequest], n: int | None, seed: int | None) -> list[GenerateRequest]:
    """Return each question `n` times; with a seed each choice draws from one of its own, the first from that seed."""
    if (n or 1) == 1:
        return questions
    return [
        GenerateRequest(**{**vars(question), "options": {**question.options, "seed": _seed(seed, number)}})
        for question in questions
        for number in range(n or 1)
    ]


def _seed(seed: int | None, number: int) -> int | None:
    return seed if seed is None or seed < 0 else (seed + number) % 2**64


def _options(body: ChatCompletionBody | CompletionBody) -> dict[str, object]:
    return {
        "temperature": body.temperature,
        "top_p": body.top_p,
        "frequency_penalty": body.frequency_penalty,
        "presence_penalty": body.presence_penalty,
        "seed": body.seed,
        "stop": body.stop,
    }


def _biases(wanted: dict[str, float] | None) -> dict[int, float]:
    if len(wanted or ()) > MAX_BIASES:
        raise BodyInvalid(f"logit_bias: at most {MAX_BIASES} tokens", "logit_bias")
    biases: dict[int, float] = {}
    for token, bias in (wanted or {}).items():
        if not (token.isascii() and token.isdigit() and len(token) <= 10 and int(token) <= _MAX_TOKEN):
            raise BodyInvalid(f"logit_bias: {token[:40]!r} is no token id", "logit_bias")
        if not -_UNBIASED <= bias <= _UNBIASED:
            raise BodyInvalid("logit_bias: a bias is a number from -100 to 100", "logit_bias")
        biases[int(token)] = float(bias)
    return biases


def _format(wanted: ResponseFormat | None) -> object:
    if wanted is None:
        return None
    if wanted.type == "json_schema" and wanted.json_schema is None:
        raise BodyInvalid("response_format of type json_schema needs json_schema", "response_format.json_schema")
    return wanted_format(wanted.type, wanted.json_schema.described if wanted.json_schema else None)


def _function_name(choice: Any) -> object:
    function = choice.get("function")
    return function.get("name") if isinstance(function, dict) else None


def _message(index: int, message: Message) -> dict[str, Any]:
    role = "system" if message.role == "developer" else message.role
    told: dict[str, Any] = {"role": role, "content": content_text(message.content, f"messages.{index}.content")}
    if message.tool_calls:
        told["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {
                    "name": call.function.name,
                    "arguments": call_arguments(call.function.arguments, f"messages.{index}.tool_calls"),
                },
            }
            for call in message.tool_calls
        ]
    optional = {
        "reasoning_content": message.reasoning_content,
        "tool_call_id": message.tool_call_id,
        "name": message.name,
    }
    return {**told, **{name: value for name, value in optional.items() if value}}


def _prompts(body: CompletionBody) -> list[str | list[int]]:
    if isinstance(body.prompt, str):
        if not body.prompt and not body.suffix:
            raise BodyInvalid("prompt is empty", "prompt")
        return [body.prompt]
    tokens = [token for token in body.prompt if isinstance(token, int)]
    if tokens:
        return [tokens]
    prompts: list[str | list[int]] = [prompt for prompt in body.prompt if not isinstance(prompt, int)]
    if not prompts or not all(prompts):
        raise BodyInvalid("prompt: expected a text, token ids, or a list of such, none of them empty", "prompt")
    if len(prompts) > MAX_PROMPTS:
        raise BodyInvalid(f"prompt: at most {MAX_PROMPTS} at once", "prompt")
    return prompts
