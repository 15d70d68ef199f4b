"""Ollama's `POST /api/show`: what a model's recipe says, its licence among it."""

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from node.api.body import parse_body
from node.api.errors import BodyInvalid
from node.api.model_info import model_info
from node.api.native_facts import details_facts, unix_moment
from node.api.schemas import ShowBody
from node.models.anatomy import Anatomy
from node.models.library import ServedModel
from node.models.service import Models
from protocol.modelfile import format_modelfile, format_parameter


class ShowRoutes:
    """The route, over the models service's library."""

    def __init__(self, models: Models) -> None:
        self._models = models

    def router(self) -> APIRouter:
        """Return the route for mounting."""
        router = APIRouter()
        router.add_api_route("/api/show", self.show, methods=["POST"], response_model=None)
        return router

    async def show(self, request: Request) -> Response:
        """Describe one model; nothing is loaded for it."""
        body = parse_body(await request.body(), ShowBody)
        name = body.model or body.name
        if not name:
            raise BodyInvalid("model is required", "model")
        model = await self._models.library.find(name)
        return JSONResponse(_shown(model, await self._models.library.anatomy(model.digest)))


def _shown(model: ServedModel, anatomy: Anatomy) -> dict[str, Any]:
    recipe = model.modelfile
    shown: dict[str, Any] = {
        "modelfile": format_modelfile(recipe),
        "parameters": "\n".join(map(format_parameter, recipe.parameters)),
        "template": recipe.template or anatomy.template,
        "details": details_facts(model.details),
        "model_info": model_info(anatomy),
        "capabilities": list(model.details.capabilities),
        "modified_at": unix_moment(model.modified_s),
    }
    if model.mir is not None:
        shown["model_info"]["tilenode.mir"] = str(model.mir)
    if recipe.licenses:
        shown["license"] = "\n\n".join(recipe.licenses)
    if recipe.system is not None:
        shown["system"] = recipe.system
    if recipe.messages:
        shown["messages"] = [{"role": role, "content": content} for role, content in recipe.messages]
    return shown
