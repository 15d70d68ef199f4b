"""Anthropic's messages API, in the shapes that its stock clients parse."""

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from node.api.anthropic_errors import anthropic_error
from node.api.anthropic_request import question_of
from node.api.anthropic_schemas import CountBody, MessagesBody
from node.api.anthropic_writer import MessageWriter
from node.api.body import parse_body
from node.api.clients import client_of
from node.api.openai_parts import EVENT_STREAM, new_ids
from node.api.streams import Emit, Streamed, Whole
from node.models.service import Models
from node.ports import Entropy


class AnthropicRoutes:
    """The routes, over the models service."""

    def __init__(self, models: Models, entropy: Entropy) -> None:
        self._models = models
        self._new_id = new_ids(entropy.random_bytes)

    def router(self) -> APIRouter:
        """Return the routes for mounting."""
        router = APIRouter()
        router.add_api_route("/v1/messages", self.create, methods=["POST"], response_model=None)
        router.add_api_route("/v1/messages/count_tokens", self.count, methods=["POST"], response_model=None)
        return router

    async def create(self, request: Request) -> Response:
        """Answer the last line of a conversation."""
        body = parse_body(await request.body(), MessagesBody)
        question = question_of(body, client_of(request))
        hide_thinking = body.thinking is not None and body.thinking.display == "omitted"
        writer = MessageWriter(body.model, self._new_id, max_tokens=body.max_tokens, hide_thinking=hide_thinking)

        async def produce(emit: Emit) -> None:
            async with self._models.generate(question) as pieces:
                async for piece in pieces:
                    if events := writer.take(piece):
                        await emit(events.encode())

        async def compute() -> dict[str, Any]:
            async with self._models.generate(question) as pieces:
                async for piece in pieces:
                    writer.hear(piece)
            return writer.whole()

        if body.stream:
            return Streamed(produce, EVENT_STREAM, anthropic_error, _last_event)
        return Whole(compute, anthropic_error)

    async def count(self, request: Request) -> Response:
        """Count the tokens that the conversation has; nothing is generated."""
        body = parse_body(await request.body(), CountBody)
        question = question_of(body, client_of(request))

        async def compute() -> dict[str, Any]:
            return {"input_tokens": await self._models.count(question)}

        return Whole(compute, anthropic_error)


def _last_event(error: bytes) -> bytes:
    return b"event: error\ndata: " + error + b"\n\n"
