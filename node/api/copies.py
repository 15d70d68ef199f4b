"""`/api/copy` and `/api/delete` of the native API, as Ollama's clients call them."""

from typing import Final

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from node.api.body import parse_body
from node.api.errors import BodyInvalid
from node.api.own_programs import IsOwn, is_own_program, require_own
from node.api.schemas import _Native
from node.versions import Versions
from store.errors import ModelUnknown, VersionAmbiguous, VersionPinned, VersionTaken, VersionUnknown

_NOT_FOUND: Final = (ModelUnknown, VersionUnknown)
_REFUSED: Final = (VersionAmbiguous, VersionPinned, VersionTaken)


class CopyBody(_Native):
    """`POST /api/copy`."""

    source: str = ""
    destination: str = ""


class DeleteBody(_Native):
    """`DELETE /api/delete`; `name` is what older clients send."""

    model: str = ""
    name: str = ""


class CopyRoutes:
    """The two routes, over the node's `Versions`; for this account's own programs only."""

    def __init__(self, versions: Versions, is_own: IsOwn = is_own_program) -> None:
        self._versions = versions
        self._is_own = is_own

    def router(self) -> APIRouter:
        """Return the routes for mounting."""
        router = APIRouter()
        router.add_api_route("/api/copy", self.copy, methods=["POST"], response_model=None)
        router.add_api_route("/api/delete", self.delete, methods=["DELETE"], response_model=None)
        return router

    async def copy(self, request: Request) -> Response:
        """Copy a model to a name under which this device signs it."""
        await require_own(request, self._is_own)
        body = parse_body(await request.body(), CopyBody)
        for field in ("source", "destination"):
            if not getattr(body, field):
                raise BodyInvalid(f"{field} is required", field)
        try:
            await self._versions.copy(body.source, body.destination)
        except (*_NOT_FOUND, *_REFUSED) as error:
            return _refusal(error)
        return Response(status_code=200)

    async def delete(self, request: Request) -> Response:
        """Forget a model with all its versions, unless one is pinned."""
        await require_own(request, self._is_own)
        body = parse_body(await request.body(), DeleteBody)
        name = body.model or body.name
        if not name:
            raise BodyInvalid("model is required", "model")
        try:
            await self._versions.remove(name, None, False)
        except (*_NOT_FOUND, *_REFUSED) as error:
            return _refusal(error)
        return Response(status_code=200)


def _refusal(error: ModelUnknown | VersionUnknown | VersionAmbiguous | VersionPinned | VersionTaken) -> Response:
    status = 404 if isinstance(error, _NOT_FOUND) else 400
    hint = {"hint": error.hint} if error.hint else {}
    return JSONResponse({"error": str(error), **hint}, status_code=status)
