"""The native API, in Ollama's shapes: chat and generate, streamed or whole."""

from datetime import UTC, datetime
from typing import Any, Final

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from node.api.body import parse_body
from node.api.clients import client_of
from node.api.errors import ApiRefused
from node.api.native_facts import rfc3339
from node.api.native_lines import Shape, Writer, chat_shape, generate_shape
from node.api.native_request import chat_request, generate_request
from node.api.retry import retry_after
from node.api.schemas import ChatBody, GenerateBody
from node.api.streams import Emit, Streamed, Whole
from node.models.errors import ModelNotFound, RequestRefused, ServerBusy, WorkerStopped
from node.models.requests import GenerateRequest
from node.models.service import Models
from node.ports import Clock, Entropy
from protocol.errors import ModelNameInvalid

NDJSON: Final = "application/x-ndjson"
_ID_BYTES: Final = 4


class NativeRoutes:
    """The routes, over the models service."""

    def __init__(self, models: Models, clock: Clock, entropy: Entropy) -> None:
        self._models = models
        self._clock = clock
        self._entropy = entropy

    def router(self) -> APIRouter:
        """Return the routes for mounting."""
        router = APIRouter()
        router.add_api_route("/api/chat", self.chat, methods=["POST"], response_model=None)
        router.add_api_route("/api/generate", self.generate, methods=["POST"], response_model=None)
        return router

    async def chat(self, request: Request) -> Response:
        """Answer the last line of a conversation."""
        body = parse_body(await request.body(), ChatBody)
        question = chat_request(body, client_of(request))
        writer = self._writer(body.model, chat_shape, with_context=False)
        if not body.messages:
            return self._load_or_unload(question, writer)
        return self._answer(question, writer, body.stream is not False)

    async def generate(self, request: Request) -> Response:
        """Continue a prompt, or fill in what is missing between it and a suffix."""
        body = parse_body(await request.body(), GenerateBody)
        question = generate_request(body, client_of(request))
        writer = self._writer(body.model, generate_shape, with_context=not body.raw)
        if not body.prompt and not body.suffix:
            return self._load_or_unload(question, writer)
        return self._answer(question, writer, body.stream is not False)

    def _answer(self, question: GenerateRequest, writer: Writer, stream: bool) -> Response:
        async def produce(emit: Emit) -> None:
            async with self._models.generate(question) as pieces:
                async for piece in pieces:
                    await emit(writer.line(piece))

        async def compute() -> dict[str, Any]:
            async with self._models.generate(question) as pieces:
                return writer.whole([piece async for piece in pieces])

        if stream:
            return Streamed(produce, NDJSON, native_error, lambda error: error + b"\n")
        return Whole(compute, native_error)

    def _load_or_unload(self, question: GenerateRequest, writer: Writer) -> Response:
        async def compute() -> dict[str, Any]:
            if question.keep_alive_s == 0:
                await self._models.stop(question.model)
                return writer.loaded("unload")
            await self._models.load(question.model, question.keep_alive_s)
            return writer.loaded("load")

        return Whole(compute, native_error)

    def _writer(self, model: str, shape: Shape, *, with_context: bool) -> Writer:
        return Writer(model, shape, self._now, self._call_id, with_context=with_context)

    def _now(self) -> str:
        return rfc3339(datetime.fromtimestamp(self._clock.now_ms() / 1000, UTC))

    def _call_id(self) -> str:
        return f"call_{self._entropy.random_bytes(_ID_BYTES).hex()}"


def native_error(error: Exception) -> Response:
    """Return `error` in Ollama's shape, `{"error": text}`, with the status that its clients expect, and our hint."""
    headers: dict[str, str] = {}
    match error:
        case ApiRefused():
            status = error.status
        case ModelNotFound():
            status = 404
        case RequestRefused() | ModelNameInvalid():
            status = 400
        case ServerBusy() | WorkerStopped():
            status = 503
            headers = retry_after(error)
        case _:
            status = 500
    hint = getattr(error, "hint", "")
    told = {"error": str(error), **({"hint": hint} if hint else {})}
    return JSONResponse(told, status_code=status, headers=headers)
