"""The OpenAI-compatible API: models, chat completions and completions, in the shapes that its stock clients parse."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import trio
from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from node.api.body import parse_body
from node.api.choices import answer_all
from node.api.clients import client_of
from node.api.openai_chat import ChatWriter
from node.api.openai_completions import CompletionWriter
from node.api.openai_errors import openai_error
from node.api.openai_parts import EVENT_STREAM, LAST_EVENT, new_ids
from node.api.openai_request import chat_questions, completion_questions
from node.api.openai_schemas import ChatCompletionBody, CompletionBody, StreamOptions
from node.api.streams import Emit, Streamed, Whole
from node.models.library import ListedModel
from node.models.requests import GenerateRequest
from node.models.service import Models
from node.ports import Clock, Entropy


class OpenAIRoutes:
    """The routes, over the models service."""

    def __init__(self, models: Models, clock: Clock, entropy: Entropy) -> None:
        self._models = models
        self._clock = clock
        self._new_id = new_ids(entropy.random_bytes)

    def router(self) -> APIRouter:
        """Return the routes for mounting."""
        router = APIRouter()
        router.add_api_route("/v1/models", self.list_models, methods=["GET"], response_model=None)
        router.add_api_route("/v1/models/{name:path}", self.show_model, methods=["GET"], response_model=None)
        router.add_api_route("/v1/chat/completions", self.chat, methods=["POST"], response_model=None)
        router.add_api_route("/v1/completions", self.complete, methods=["POST"], response_model=None)
        return router

    async def list_models(self) -> Response:
        """List the models in the store; each also with the fields that Anthropic's clients read."""
        models = [_model(model) for model in await self._models.library.list()]
        first, last = (models[0]["id"], models[-1]["id"]) if models else (None, None)
        return JSONResponse(
            {"object": "list", "data": models, "first_id": first, "last_id": last, "has_more": False},
        )

    async def show_model(self, name: str) -> Response:
        """Return one model."""
        return JSONResponse(_model(await self._models.library.find(name)))

    async def chat(self, request: Request) -> Response:
        """Answer the last line of a conversation, once or `n` times."""
        body = parse_body(await request.body(), ChatCompletionBody)
        questions = chat_questions(body, client_of(request))
        writer = ChatWriter(
            body.model,
            self._clock.now_s(),
            self._new_id,
            choices=len(questions),
            with_usage=_with_usage(body.stream_options),
        )
        return self._answer(questions, writer, bool(body.stream))

    async def complete(self, request: Request) -> Response:
        """Continue one text or several, each as it stands."""
        body = parse_body(await request.body(), CompletionBody)
        questions = completion_questions(body, client_of(request))
        writer = CompletionWriter(
            body.model,
            self._clock.now_s(),
            self._new_id,
            questions,
            prompts=len(questions) // (body.n or 1),
            echo=bool(body.echo),
            with_usage=_with_usage(body.stream_options),
        )
        return self._answer(questions, writer, bool(body.stream))

    def _answer(
        self, questions: Sequence[GenerateRequest], writer: ChatWriter | CompletionWriter, stream: bool
    ) -> Response:
        async def produce(emit: Emit) -> None:
            told = emit if len(questions) == 1 else one_at_a_time(emit)
            await answer_all(self._models, questions, lambda number, pieces: writer.stream(number, pieces, told))
            await emit(writer.usage_chunk() + LAST_EVENT)

        async def compute() -> dict[str, Any]:
            await answer_all(self._models, questions, writer.hear)
            return writer.whole()

        if stream:
            return Streamed(produce, EVENT_STREAM, openai_error, lambda error: b"data: " + error + b"\n\n")
        return Whole(compute, openai_error)


def one_at_a_time(emit: Emit) -> Emit:
    """Return `emit` for several tasks: their pieces leave one after the other, each whole."""
    turn = trio.Lock()

    async def emit_in_turn(piece: bytes) -> None:
        async with turn:
            await emit(piece)

    return emit_in_turn


def _with_usage(options: StreamOptions | None) -> bool:
    return bool(options and options.include_usage)


def _model(model: ListedModel) -> dict[str, Any]:
    made = datetime.fromtimestamp(model.modified_s, UTC).isoformat().replace("+00:00", "Z")
    return {
        "id": model.name,
        "object": "model",
        "created": model.modified_s,
        "owned_by": "library",
        "type": "model",
        "display_name": model.name,
        "created_at": made,
        "lifecycle": "active",
    }
