"""`/api/pull` and `/api/push` of the native API: registries, and for a pull also linked devices; Ollama's words."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

from fastapi import APIRouter, Request
from starlette.responses import Response

from node.api.body import parse_body
from node.api.errors import ApiRefused, BodyInvalid
from node.api.native import NDJSON, native_error
from node.api.own_programs import IsOwn, is_own_program, require_own
from node.api.schemas import _Native
from node.api.streams import Emit, Streamed, Whole, to_json
from node.errors import ModelNotOffered
from node.registries import Registries
from protocol.errors import ModelNameInvalid, OciNameInvalid, ReferenceInvalid
from protocol.registry import names_registry
from store.registry.errors import (
    LocalNameNeeded,
    RegistryLoginNeeded,
    RegistryLoginRefused,
    RegistryRefused,
    RegistryStalled,
    RegistryUnknown,
    RegistryUnreachable,
)

Event = dict[str, Any]
PeerPull = Callable[[str], AbstractAsyncContextManager[AsyncIterator[Event]]]
Work = Callable[[Callable[[Event], Awaitable[None]]], Awaitable[None]]

_TOLD: Final = ("status", "digest", "total", "completed")
_STATUS: Final[tuple[tuple[tuple[type[Exception], ...], int], ...]] = (
    ((RegistryUnknown, ModelNotOffered), 404),
    ((RegistryLoginNeeded, RegistryLoginRefused), 401),
    ((ReferenceInvalid, OciNameInvalid, ModelNameInvalid, LocalNameNeeded), 400),
    ((RegistryUnreachable, RegistryStalled, RegistryRefused), 502),
)


class TransferBody(_Native):
    """`POST /api/pull` and `POST /api/push`; `name` is what older clients send."""

    model: str = ""
    name: str = ""
    stream: bool | None = None


class TransferRoutes:
    """The two routes, over the node's registries and its linked devices; for this account's own programs only."""

    def __init__(
        self,
        registries: Registries,
        from_peers: PeerPull,
        is_own: IsOwn = is_own_program,
    ) -> None:
        """Take both, and what tells by the two ports of a connection whether its caller is this account's own."""
        self._registries = registries
        self._from_peers = from_peers
        self._is_own = is_own

    def router(self) -> APIRouter:
        """Return the routes for mounting."""
        router = APIRouter()
        router.add_api_route("/api/pull", self.pull, methods=["POST"], response_model=None)
        router.add_api_route("/api/push", self.push, methods=["POST"], response_model=None)
        return router

    async def pull(self, request: Request) -> Response:
        """Fetch a model: from the registry that its name begins with, else from linked devices."""
        await require_own(request, self._is_own)
        body = parse_body(await request.body(), TransferBody)
        name = _name(body)

        async def work(tell: Callable[[Event], Awaitable[None]]) -> None:
            if names_registry(name):
                await self._registries.pull(name, None, tell)
                await tell({"status": "success"})
                return
            async with self._from_peers(name) as events:
                async for event in events:
                    await tell(event)

        return _answer(body, work)

    async def push(self, request: Request) -> Response:
        """Put a model into the registry that its name begins with."""
        await require_own(request, self._is_own)
        body = parse_body(await request.body(), TransferBody)
        name = _name(body)

        async def work(tell: Callable[[Event], Awaitable[None]]) -> None:
            await self._registries.push(name, "", tell)
            await tell({"status": "success"})

        return _answer(body, work)


def _name(body: TransferBody) -> str:
    name = body.model or body.name
    if not name:
        raise BodyInvalid("model is required", "model")
    return name


def _answer(body: TransferBody, work: Work) -> Response:
    async def produce(emit: Emit) -> None:
        async def tell(event: Event) -> None:
            await emit(to_json({key: event[key] for key in _TOLD if key in event}) + b"\n")

        await work(tell)

    async def compute() -> dict[str, Any]:
        await work(_silent)
        return {"status": "success"}

    if body.stream is False:
        return Whole(compute, _error)
    return Streamed(produce, NDJSON, _error, lambda error: error + b"\n")


async def _silent(_: Event) -> None:
    return


def _error(error: Exception) -> Response:
    """Return `error` as the native API says it, with the status that fits a transfer."""
    told = native_error(error)
    if not isinstance(error, ApiRefused):
        told.status_code = next((status for kinds, status in _STATUS if isinstance(error, kinds)), told.status_code)
    return told
