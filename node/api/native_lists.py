"""What the native API says without any model's help: that it is there, its version, models kept and models loaded."""

from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter
from starlette.responses import JSONResponse, PlainTextResponse, Response

from node.api.native_facts import NEVER, details_facts, rfc3339, unix_moment
from node.models.library import ListedModel
from node.models.requests import LoadedModel
from node.models.service import Models
from node.ports import Clock


class ListRoutes:
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
        return router

    async def root(self) -> Response:
        """Say what clients look for to find out whether somebody is there."""
        return PlainTextResponse("Ollama is running")

    async def version(self) -> Response:
        """Return this program's version."""
        return JSONResponse({"version": self._version})

    async def tags(self) -> Response:
        """List the models in the store."""
        return JSONResponse({"models": [_listed(model) for model in await self._models.library.list()]})

    async def running(self) -> Response:
        """List the models in memory."""
        never = rfc3339(datetime.fromtimestamp(self._clock.now_s(), UTC) + NEVER)
        return JSONResponse({"models": [_loaded(model, never) for model in self._models.loaded()]})


def _listed(model: ListedModel) -> dict[str, Any]:
    return {
        "name": model.name,
        "model": model.name,
        "modified_at": unix_moment(model.modified_s),
        "size": model.size_bytes,
        "digest": model.digest,
        "details": details_facts(model.details),
        "capabilities": list(model.details.capabilities),
    }


def _loaded(model: LoadedModel, never: str) -> dict[str, Any]:
    return {
        "name": model.name,
        "model": model.name,
        "size": model.memory_bytes,
        "digest": model.digest,
        "details": details_facts(model.details),
        "expires_at": never if model.expires_s is None else unix_moment(model.expires_s),
        "size_vram": model.memory_bytes,
        "context_length": model.context_tokens,
    }
