"""`/openapi.json` and `/docs`: made at the first request, from the routes that are really there."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import trio
from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse, Response

from node.api.streams import to_json


class DocsRoutes:
    """The two routes, over the routers of one application."""

    def __init__(self, routers: Sequence[APIRouter], version: str, *, with_registry: bool) -> None:
        self._routers = routers
        self._version = version
        self._with_registry = with_registry
        self._document = cache(self._describe)

    def router(self) -> APIRouter:
        """Return the routes for mounting; they describe themselves as well."""
        router = APIRouter()
        router.add_api_route("/openapi.json", self.document, methods=["GET"], response_model=None)
        router.add_api_route("/docs", self.page, methods=["GET"], response_model=None)
        self._routers = [*self._routers, router]
        return router

    async def document(self) -> Response:
        """Return the OpenAPI document."""
        told = await trio.to_thread.run_sync(self._document)
        return Response(to_json(told), media_type="application/json")

    async def page(self, request: Request) -> Response:
        """Return the same for people, with commands that address this very API."""
        from node.api.docs.page import POLICY, write_page

        told = await trio.to_thread.run_sync(self._document)
        url = f"http://{request.headers.get('host', 'localhost')}"
        return HTMLResponse(write_page(told, url), headers={"content-security-policy": POLICY})

    def _describe(self) -> dict[str, Any]:
        # One route's types take milliseconds to describe, all of them half a second: not on the event loop.
        # Nor does a node that nobody asks for it read, at its start, all that is said there of the types.
        from node.api.docs.document import describe
        from node.api.docs.registry import REGISTRY

        return describe(self._routers, self._version, REGISTRY if self._with_registry else {})
