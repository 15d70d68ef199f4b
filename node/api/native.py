"""The native API, in Ollama's shapes: generate, chat, tags, version, ps."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from node.api.body import parse_body
from node.api.durations import parse_keep_alive
from node.api.errors import ApiRefused, BodyInvalid
from node.api.schemas import ChatBody, GenerateBody, NativeMessage, _NativeRequest
from node.api.streams import Emit, Streamed, Whole, to_json
from node.models.errors import CapabilityMissing, ModelNotFound, RequestRefused, ServerBusy
from node.models.requests import Ending, GenerateRequest, ModelDetails, Piece
from node.models.service import Models
from node.ports import Clock
from protocol.errors import ModelNameInvalid

NDJSON: Final = "application/x-ndjson"
THIS_VERSION: Final = "this version of tilenode"
# As far away as a clock in 64-bit nanoseconds reaches: how Ollama writes "never".
NEVER: Final = timedelta(days=292 * 365)

# What one kind of answer puts into its pieces: text, thinking text, tool calls.
Shape = Callable[[str, str, list[dict[str, Any]]], dict[str, Any]]


class NativeRoutes:
    """The routes, over the models service."""

    def __init__(self, models: Models, clock: Clock, version: str) -> None:
        self._models = models
        self._clock = clock
        self._version = version

    def router(self) -> APIRouter:
        """Return the routes for mounting."""
        router = APIRouter()
        for path, get in (("/", self.root), ("/api/version", self.version), ("/api/tags", self.tags)):
            router.add_api_route(path, get, methods=["GET", "HEAD"], response_model=None)
        router.add_api_route("/api/ps", self.running, methods=["GET"], response_model=None)
        router.add_api_route("/api/chat", self.chat, methods=["POST"], response_model=None)
        router.add_api_route("/api/generate", self.generate, methods=["POST"], response_model=None)
        return router

    async def root(self) -> Response:
        """Say what clients look for to find out whether somebody is there."""
        return PlainTextResponse("Ollama is running")

    async def version(self) -> Response:
        """Return this program's version."""
        return JSONResponse({"version": self._version})

    async def tags(self) -> Response:
        """List the models in the store."""
        models = await self._models.library.list()
        return JSONResponse(
            {
                "models": [
                    {
                        "name": model.name,
                        "model": model.name,
                        "modified_at": rfc3339(datetime.fromtimestamp(model.modified_s, UTC)),
                        "size": model.size_bytes,
                        "digest": model.digest,
                        "details": details_facts(model.details),
                        "capabilities": list(model.details.capabilities),
                    }
                    for model in models
                ]
            }
        )

    async def running(self) -> Response:
        """List the models in memory."""
        now = self._now()
        return JSONResponse(
            {
                "models": [
                    {
                        "name": model.name,
                        "model": model.name,
                        "size": model.memory_bytes,
                        "digest": model.digest,
                        "details": details_facts(model.details),
                        "expires_at": rfc3339(
                            now + NEVER if model.expires_s is None else datetime.fromtimestamp(model.expires_s, UTC)
                        ),
                        "size_vram": model.memory_bytes,
                        "context_length": model.context_tokens,
                    }
                    for model in self._models.loaded()
                ]
            }
        )

    async def chat(self, request: Request) -> Response:
        """Answer the last line of a conversation."""
        body = parse_body(await request.body(), ChatBody)
        _check_shared(body)
        keep_alive_s = parse_keep_alive(body.keep_alive)
        if not body.messages:
            return self._load_or_unload(body.model, keep_alive_s, _chat_shape)
        question = GenerateRequest(
            model=body.model,
            messages=[_message(body.model, message) for message in body.messages],
            tools=body.tools or (),
            thinking=None if body.think is None else bool(body.think),
            options=body.options or {},
            keep_alive_s=keep_alive_s,
        )
        return self._answer(question, body.stream is not False, _chat_shape)

    async def generate(self, request: Request) -> Response:
        """Continue a prompt."""
        body = parse_body(await request.body(), GenerateBody)
        _check_shared(body)
        if body.suffix:
            raise CapabilityMissing(f'"{body.model}"', "insert")
        if body.images:
            raise CapabilityMissing(f'"{body.model}"', "images")
        if body.raw and (body.template or body.system or body.context):
            raise BodyInvalid("raw mode does not support template, system, or context", "raw")
        keep_alive_s = parse_keep_alive(body.keep_alive)
        if not body.prompt:
            return self._load_or_unload(body.model, keep_alive_s, _generate_shape)
        question = GenerateRequest(
            model=body.model,
            prompt=body.prompt,
            system=body.system,
            template=body.template,
            raw=bool(body.raw),
            thinking=None if body.think is None else bool(body.think),
            context=body.context or (),
            options=body.options or {},
            keep_alive_s=keep_alive_s,
        )
        return self._answer(question, body.stream is not False, _generate_shape, with_context=not body.raw)

    def _answer(self, question: GenerateRequest, stream: bool, shape: Shape, *, with_context: bool = False) -> Response:
        async def produce(emit: Emit) -> None:
            async with self._models.generate(question) as pieces:
                async for piece in pieces:
                    await emit(to_json(self._line(question.model, piece, shape, with_context)) + b"\n")

        async def compute() -> dict[str, Any]:
            async with self._models.generate(question) as pieces:
                said = [piece async for piece in pieces]
            return self._whole(question.model, said, shape, with_context)

        if stream:
            return Streamed(produce, NDJSON, native_error, lambda error: error + b"\n")
        return Whole(compute, native_error)

    def _load_or_unload(self, model: str, keep_alive_s: float | None, shape: Shape) -> Response:
        async def compute() -> dict[str, Any]:
            if keep_alive_s == 0:
                await self._models.stop(model)
            else:
                await self._models.load(model, keep_alive_s)
            reason = "unload" if keep_alive_s == 0 else "load"
            return {**self._head(model), **shape("", "", []), "done": True, "done_reason": reason}

        return Whole(compute, native_error)

    def _line(self, model: str, piece: Piece, shape: Shape, with_context: bool) -> dict[str, Any]:
        head = self._head(model)
        if piece.ending is not None:
            return {**head, **shape("", "", []), **_ending(piece.ending, with_context)}
        calls = [_call(piece)] if piece.call else []
        text, thinking = ("", piece.text) if piece.thinking else (piece.text, "")
        return {**head, **shape(text, thinking, calls), "done": False}

    def _whole(self, model: str, said: list[Piece], shape: Shape, with_context: bool) -> dict[str, Any]:
        text = "".join(piece.text for piece in said if not piece.thinking)
        thinking = "".join(piece.text for piece in said if piece.thinking)
        calls = [_call(piece) for piece in said if piece.call]
        ending = said[-1].ending
        assert ending is not None, "the service ends every answer with its ending"
        return {**self._head(model), **shape(text, thinking, calls), **_ending(ending, with_context)}

    def _head(self, model: str) -> dict[str, Any]:
        return {"model": model, "created_at": rfc3339(self._now())}

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock.now_ms() / 1000, UTC)


def native_error(error: Exception) -> Response:
    """Return `error` in Ollama's shape, `{"error": text}`, with the status that its clients expect, and our hint."""
    match error:
        case ApiRefused():
            status = error.status
        case ModelNotFound():
            status = 404
        case RequestRefused() | ModelNameInvalid():
            status = 400
        case ServerBusy():
            status = 503
        case _:
            status = 500
    hint = getattr(error, "hint", "")
    return JSONResponse({"error": str(error), **({"hint": hint} if hint else {})}, status_code=status)


def _check_shared(body: _NativeRequest) -> None:
    if not body.model:
        raise BodyInvalid("model is required", "model")
    if body.format not in (None, ""):
        raise CapabilityMissing(THIS_VERSION, "format (structured output)")
    if body.logprobs or body.top_logprobs:
        raise CapabilityMissing(THIS_VERSION, "logprobs")


def _message(model: str, message: NativeMessage) -> dict[str, Any]:
    if message.images:
        raise CapabilityMissing(f'"{model}"', "images")
    told: dict[str, Any] = {"role": message.role, "content": message.content or ""}
    if message.tool_calls:
        told["tool_calls"] = [
            {"type": "function", "function": {"name": call.function.name, "arguments": call.function.arguments}}
            for call in message.tool_calls
        ]
    optional = {
        "reasoning_content": message.thinking,
        "name": message.tool_name,
        "tool_call_id": message.tool_call_id,
    }
    return {**told, **{name: value for name, value in optional.items() if value}}


def _chat_shape(text: str, thinking: str, calls: list[dict[str, Any]]) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if thinking:
        message["thinking"] = thinking
    if calls:
        message["tool_calls"] = calls
    return {"message": message}


def _generate_shape(text: str, thinking: str, _calls: list[dict[str, Any]]) -> dict[str, Any]:
    return {"response": text, **({"thinking": thinking} if thinking else {})}


def _call(piece: Piece) -> dict[str, Any]:
    assert piece.call is not None
    return {"function": {"name": piece.call.name, "arguments": json.loads(piece.call.arguments_json)}}


def _ending(ending: Ending, with_context: bool) -> dict[str, Any]:
    return {
        "done": True,
        "done_reason": ending.reason,
        **({"context": list(ending.context)} if with_context else {}),
        "total_duration": ending.total_ns,
        "load_duration": ending.load_ns,
        "prompt_eval_count": ending.prompt_tokens,
        "prompt_eval_duration": ending.prompt_ns,
        "eval_count": ending.eval_tokens,
        "eval_duration": ending.eval_ns,
    }


def details_facts(details: ModelDetails) -> dict[str, Any]:
    """Return `details` as this API names them."""
    return {
        "parent_model": "",
        "format": details.format,
        "family": details.family,
        "families": [details.family] if details.family else [],
        "parameter_size": details.parameter_size,
        "quantization_level": details.quantization_level,
    }


def rfc3339(moment: datetime) -> str:
    """Return `moment` as this API writes times."""
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
