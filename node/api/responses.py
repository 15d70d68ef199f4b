"""OpenAI's Responses API: answers as typed items and events, which later requests may follow on by id."""

import json
from collections.abc import Awaitable, Callable
from typing import Any, Final

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from node.api.body import parse_body
from node.api.clients import client_of
from node.api.errors import AnswerNotKept, BodyInvalid
from node.api.openai_errors import openai_error
from node.api.openai_parts import EVENT_STREAM, new_ids
from node.api.responses_items import Item, read_input
from node.api.responses_kept import Kept, conversation_of
from node.api.responses_request import question_of, resource_of
from node.api.responses_schemas import InputTokensBody, ResponseBody
from node.api.responses_tools import read_tools
from node.api.responses_writer import ResponseWriter
from node.api.streams import Emit, Streamed, Whole
from node.models.requests import GenerateRequest
from node.models.service import Models
from node.ports import Clock, Entropy

_PAGE: Final = 20
_MAX_PAGE: Final = 100


class ResponsesRoutes:
    """The routes, over the models service and the kept responses."""

    def __init__(self, models: Models, clock: Clock, entropy: Entropy, kept: Kept) -> None:
        self._models = models
        self._clock = clock
        self._new_id = new_ids(entropy.random_bytes)
        self._kept = kept

    def router(self) -> APIRouter:
        """Return the routes for mounting."""
        router = APIRouter()
        router.add_api_route("/v1/responses", self.create, methods=["POST"], response_model=None)
        router.add_api_route("/v1/responses/input_tokens", self.count, methods=["POST"], response_model=None)
        router.add_api_route("/v1/responses/{name}", self.show, methods=["GET"], response_model=None)
        router.add_api_route("/v1/responses/{name}", self.delete, methods=["DELETE"], response_model=None)
        router.add_api_route("/v1/responses/{name}/cancel", self.cancel, methods=["POST"], response_model=None)
        router.add_api_route("/v1/responses/{name}/input_items", self.input_items, methods=["GET"], response_model=None)
        return router

    async def create(self, request: Request) -> Response:
        """Answer the input, as one resource or as a stream of events."""
        body = parse_body(await request.body(), ResponseBody)
        own = read_input(body.input, self._new_id)
        items = await conversation_of(self._kept, body.previous_response_id, own)
        question = question_of(body, items, client_of(request))
        _, shown, custom = read_tools(body.tools)
        name = self._new_id("resp_")
        resource = resource_of(body, shown, name, self._clock.now_s(), store=body.store is not False)
        writer = ResponseWriter(resource, custom, self._new_id, self._clock.now_s)

        async def keep() -> None:
            if resource["store"]:
                await self._kept.keep(writer.resource, own)

        if body.stream:
            return self._stream(question, writer, keep)

        async def compute() -> dict[str, Any]:
            async with self._models.generate(question) as pieces:
                async for piece in pieces:
                    writer.hear(piece)
            await keep()
            return writer.resource

        return Whole(compute, openai_error)

    def _stream(
        self, question: GenerateRequest, writer: ResponseWriter, keep: Callable[[], Awaitable[None]]
    ) -> Response:
        async def produce(emit: Emit) -> None:
            async with self._models.generate(question) as pieces:
                async for piece in pieces:
                    events = writer.take(piece)
                    if piece.ending is not None:
                        await keep()  # before its last event: who reads that may follow on it at once
                    if events:
                        await emit(events.encode())

        def last_words(error: bytes) -> bytes:
            told = json.loads(error)["error"]
            return writer.fail(told["code"] or "", told["message"]).encode()

        return Streamed(produce, EVENT_STREAM, openai_error, last_words)

    async def count(self, request: Request) -> Response:
        """Count the tokens that the input would have; nothing is generated."""
        body = parse_body(await request.body(), InputTokensBody)
        items = await conversation_of(self._kept, body.previous_response_id, read_input(body.input, self._new_id))
        question = question_of(body, items, client_of(request))

        async def compute() -> dict[str, Any]:
            return {"object": "response.input_tokens", "input_tokens": await self._models.count(question)}

        return Whole(compute, openai_error)

    async def show(self, request: Request, name: str) -> Response:
        """Return a response that was kept."""
        if request.query_params.get("stream", "false") != "false":
            raise BodyInvalid("a response that has ended cannot be streamed", "stream")
        resource, _ = await self._found(name)
        return JSONResponse(resource)

    async def delete(self, name: str) -> Response:
        """Forget a response; conversations that rest on it cannot be followed on any more."""
        if not await self._kept.forget(name):
            raise AnswerNotKept(name)
        return JSONResponse({"id": name, "object": "response", "deleted": True})

    async def cancel(self, name: str) -> Response:
        """Refuse: only responses in the background could be cancelled; to cancel a running one, hang up."""
        await self._found(name)
        raise BodyInvalid("only responses in the background can be cancelled", "response_id")

    async def input_items(self, request: Request, name: str) -> Response:
        """List the items of a kept response's own input, newest first unless `order` is asc."""
        _, items = await self._found(name)
        asked = request.query_params
        limit, order, after = asked.get("limit", str(_PAGE)), asked.get("order", "desc"), asked.get("after")
        if not (limit.isascii() and limit.isdigit() and len(limit) < 4 and 1 <= int(limit) <= _MAX_PAGE):
            raise BodyInvalid(f"limit: expected a number from 1 to {_MAX_PAGE}", "limit")
        if order not in ("asc", "desc"):
            raise BodyInvalid("order: expected asc or desc", "order")
        ordered = items if order == "asc" else items[::-1]
        names = [item["id"] for item in ordered]
        begin = names.index(after) + 1 if after in names else 0
        page = ordered[begin : begin + int(limit)]
        ends = {"first_id": page[0]["id"], "last_id": page[-1]["id"]} if page else {"first_id": "", "last_id": ""}
        return JSONResponse(
            {"object": "list", "data": page, **ends, "has_more": begin + len(page) < len(ordered)},
        )

    async def _found(self, name: str) -> tuple[dict[str, Any], list[Item]]:
        found = await self._kept.find(name)
        if found is None:
            raise AnswerNotKept(name)
        return found
