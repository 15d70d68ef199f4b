"""The OpenAI-compatible API: chat completions and models, in the shapes that its stock clients parse."""

import json
from collections.abc import Mapping
from typing import Any, Final

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from node.api.body import parse_body
from node.api.errors import ApiRefused, BodyInvalid
from node.api.schemas import ChatCompletionBody, OpenAIMessage
from node.api.streams import Emit, Streamed, Whole, to_json
from node.models.errors import (
    CapabilityMissing,
    ModelNotFound,
    OptionInvalid,
    PromptTooLong,
    RequestRefused,
    ServerBusy,
)
from node.models.library import ListedModel
from node.models.requests import Ending, GenerateRequest, Piece
from node.models.service import Models
from node.ports import Clock, Entropy
from protocol.errors import ModelNameInvalid

EVENT_STREAM: Final = "text/event-stream"
THIS_VERSION: Final = "this version of tilenode"
# What this API promises where a request is silent; a model's own parameters go before it.
DEFAULTS: Final = {"temperature": 1.0, "top_p": 1.0, "top_k": 0}
_ID_BYTES: Final = 12
_NOT_YET: Final = ("logit_bias", "audio", "functions", "function_call", "prediction", "web_search_options")


class OpenAIRoutes:
    """The routes, over the models service."""

    def __init__(self, models: Models, clock: Clock, entropy: Entropy) -> None:
        self._models = models
        self._clock = clock
        self._entropy = entropy

    def router(self) -> APIRouter:
        """Return the routes for mounting."""
        router = APIRouter()
        router.add_api_route("/v1/models", self.list_models, methods=["GET"], response_model=None)
        router.add_api_route("/v1/models/{name:path}", self.show_model, methods=["GET"], response_model=None)
        router.add_api_route("/v1/chat/completions", self.complete, methods=["POST"], response_model=None)
        return router

    async def list_models(self) -> Response:
        """List the models in the store."""
        models = await self._models.library.list()
        return JSONResponse({"object": "list", "data": [_model(model) for model in models]})

    async def show_model(self, name: str) -> Response:
        """Return one model."""
        return JSONResponse(_model(await self._models.library.find(name)))

    async def complete(self, request: Request) -> Response:
        """Answer the last line of a conversation."""
        body = parse_body(await request.body(), ChatCompletionBody)
        _check_supported(body)
        question = _question(body)
        completion = _Completion(
            f"chatcmpl-{self._entropy.random_bytes(_ID_BYTES).hex()}", self._clock.now_s(), body.model
        )

        async def produce(emit: Emit) -> None:
            async with self._models.generate(question) as pieces:
                async for piece in pieces:
                    for event in completion.events(piece, body):
                        await emit(b"data: " + to_json(event) + b"\n\n")
            await emit(b"data: [DONE]\n\n")

        async def compute() -> dict[str, Any]:
            async with self._models.generate(question) as pieces:
                said = [piece async for piece in pieces]
            return completion.whole(said)

        if body.stream:
            return Streamed(produce, EVENT_STREAM, openai_error, lambda error: b"data: " + error + b"\n\n")
        return Whole(compute, openai_error)


class _Completion:
    """One completion being told: the head that all its pieces share, and what was said so far."""

    def __init__(self, name: str, created_s: int, model: str) -> None:
        self._head = {"id": name, "created": created_s, "model": model}
        self._opened = False
        self._calls = 0

    def events(self, piece: Piece, body: ChatCompletionBody) -> list[dict[str, Any]]:
        """Return the stream's events for `piece`."""
        with_usage = bool(body.stream_options and body.stream_options.include_usage)
        events: list[dict[str, Any]] = []
        if not self._opened:
            self._opened = True
            events.append(self._chunk({"role": "assistant", "content": ""}, None, with_usage))
        if piece.call is not None:
            events.append(self._chunk({"tool_calls": [self._call(piece, indexed=True)]}, None, with_usage))
        elif piece.text:
            name = "reasoning_content" if piece.thinking else "content"
            events.append(self._chunk({name: piece.text}, None, with_usage))
        if piece.ending is not None:
            events.append(self._chunk({}, self._reason(piece.ending), with_usage))
            if with_usage:
                usage = _usage(piece.ending)
                events.append({**self._head, "object": "chat.completion.chunk", "choices": [], "usage": usage})
        return events

    def whole(self, said: list[Piece]) -> dict[str, Any]:
        """Return the completion in one piece."""
        text = "".join(piece.text for piece in said if not piece.thinking)
        thinking = "".join(piece.text for piece in said if piece.thinking)
        calls = [self._call(piece, indexed=False) for piece in said if piece.call]
        ending = said[-1].ending
        assert ending is not None, "the service ends every answer with its ending"
        message: dict[str, Any] = {"role": "assistant", "content": text if text or not calls else None}
        if thinking:
            message["reasoning_content"] = thinking
        if calls:
            message["tool_calls"] = calls
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": self._reason(ending)}
        return {**self._head, "object": "chat.completion", "choices": [choice], "usage": _usage(ending)}

    def _chunk(self, delta: dict[str, Any], reason: str | None, with_usage: bool) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        chunk = {**self._head, "object": "chat.completion.chunk", "choices": [choice]}
        return {**chunk, "usage": None} if with_usage else chunk

    def _call(self, piece: Piece, *, indexed: bool) -> dict[str, Any]:
        assert piece.call is not None
        number, self._calls = self._calls, self._calls + 1
        function = {"name": piece.call.name, "arguments": piece.call.arguments_json}
        call = {"id": f"call_{self._head['id']}_{number}", "type": "function", "function": function}
        return {"index": number, **call} if indexed else call

    def _reason(self, ending: Ending) -> str:
        return "tool_calls" if self._calls and ending.reason == "stop" else ending.reason


def openai_error(error: Exception) -> Response:
    """Return `error` in OpenAI's shape, with the status by which its clients choose the exception to raise."""
    kind, code, param = "invalid_request_error", None, None
    match error:
        case ModelNotFound():
            status, code, param = 404, "model_not_found", "model"
        case BodyInvalid():
            status, param = error.status, error.param
        case ApiRefused():
            status = error.status
        case PromptTooLong():
            status, code, param = 400, "context_length_exceeded", "messages"
        case OptionInvalid():
            status, param = 400, error.option
        case RequestRefused():
            status = 400
        case ModelNameInvalid():
            status, param = 400, "model"
        case ServerBusy():
            status, kind, code = 503, "server_error", "server_busy"
        case _:
            status, kind = 500, "server_error"
    hint = getattr(error, "hint", "")
    told = {"message": str(error), "type": kind, "param": param, "code": code, **({"hint": hint} if hint else {})}
    return JSONResponse({"error": told}, status_code=status)


def _check_supported(body: ChatCompletionBody) -> None:
    if body.n not in (None, 1):
        raise CapabilityMissing(THIS_VERSION, "n above 1")
    if body.logprobs or body.top_logprobs:
        raise CapabilityMissing(THIS_VERSION, "logprobs")
    if body.response_format not in (None, {"type": "text"}):
        raise CapabilityMissing(THIS_VERSION, "response_format other than text")
    if body.tool_choice not in (None, "auto", "none"):
        raise CapabilityMissing(THIS_VERSION, "tool_choice other than auto and none")
    if body.modalities not in (None, ["text"]):
        raise CapabilityMissing(THIS_VERSION, "modalities other than text")
    for name in _NOT_YET:
        if getattr(body, name):
            raise CapabilityMissing(THIS_VERSION, name)


def _question(body: ChatCompletionBody) -> GenerateRequest:
    options: dict[str, object] = {
        "temperature": body.temperature,
        "top_p": body.top_p,
        "frequency_penalty": body.frequency_penalty,
        "presence_penalty": body.presence_penalty,
        "seed": body.seed,
        "num_predict": body.max_completion_tokens or body.max_tokens,
        "stop": body.stop,
    }
    return GenerateRequest(
        model=body.model,
        messages=[_message(index, message) for index, message in enumerate(body.messages)],
        tools=(body.tools or ()) if body.tool_choice != "none" else (),
        options=options,
        defaults=DEFAULTS,
    )


def _message(index: int, message: OpenAIMessage) -> dict[str, Any]:
    role = "system" if message.role == "developer" else message.role
    told: dict[str, Any] = {"role": role, "content": _content(index, message)}
    if message.tool_calls:
        told["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.function.name, "arguments": _arguments(index, call.function.arguments)},
            }
            for call in message.tool_calls
        ]
    if message.tool_call_id:
        told["tool_call_id"] = message.tool_call_id
    if message.name:
        told["name"] = message.name
    return told


def _content(index: int, message: OpenAIMessage) -> str:
    if message.content is None or isinstance(message.content, str):
        return message.content or ""
    for part in message.content:
        if part.type != "text" or part.text is None:
            raise BodyInvalid(f"content of type {part.type[:40]!r} is not supported", f"messages.{index}.content")
    return "".join(part.text or "" for part in message.content)


def _arguments(index: int, text: str) -> Mapping[str, Any]:
    # Templates expect an object: how arguments are spelled in the prompt is the model's business.
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise BodyInvalid("tool call arguments are not a JSON object", f"messages.{index}.tool_calls")
    return value


def _model(model: ListedModel) -> dict[str, Any]:
    return {"id": model.name, "object": "model", "created": model.modified_s, "owned_by": "library"}


def _usage(ending: Ending) -> dict[str, int]:
    total = ending.prompt_tokens + ending.eval_tokens
    return {"prompt_tokens": ending.prompt_tokens, "completion_tokens": ending.eval_tokens, "total_tokens": total}
