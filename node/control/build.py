"""Control routes for builds: a recipe becomes a model, and a model is built again to be checked."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from identity.did import DeviceId
from node.catalog import layer_facts, provenance_facts
from node.control.models import Name
from node.control.responses import Emit, EventStream
from node.health import device_names
from node.parts import Node
from node.recipes import Order, RecipeKind, read_order
from protocol.build_record import MAX_TIME_S
from protocol.model_name import format_model_name
from protocol.quantization import Quantization

Directory = Annotated[str, StringConstraints(max_length=4096, pattern="^/")]


class CreateBody(BaseModel):
    """A recipe and the directory in which its relative paths begin.

    `name` and `quantization` come before what the recipe says; `created_s` is the time in the manifest, None for that
    of what it is built from.
    """

    model_config = ConfigDict(extra="forbid")
    recipe: Annotated[str, StringConstraints(max_length=1024 * 1024)]
    directory: Directory
    kind: RecipeKind = RecipeKind.MODELFILE
    name: Name | None = None
    quantization: Quantization | None = None
    created_s: Annotated[int, Field(ge=0, le=MAX_TIME_S)] | None = None


class CheckBody(BaseModel):
    """A model to build again; `source` is the directory where its weights lie now, None for where they lay."""

    model_config = ConfigDict(extra="forbid")
    name: Name
    source: Directory | None = None


class BuildRoutes:
    """The routes, each a few lines over the catalog."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def router(self) -> APIRouter:
        """Return the routes for mounting."""
        router = APIRouter()
        router.add_api_route("/v1/create", self.create, methods=["POST"], response_model=None)
        router.add_api_route("/v1/build/check", self.check, methods=["POST"], response_model=None)
        return router

    async def create(self, body: CreateBody) -> Response:
        """Build, sign, log and announce a model; leaving the stream stops the build and nothing of it stays."""

        async def produce(emit: Emit) -> None:
            order = Order(
                kind=body.kind,
                recipe=body.recipe,
                directory=Path(body.directory),
                name=body.name,
                created_s=body.created_s,
                quantization=body.quantization,
            )
            model, provenance = await self._node.catalog.create(read_order(order), emit)
            await emit(
                {
                    "status": "success",
                    "name": format_model_name(model.name),
                    "manifest": model.digest,
                    "size_bytes": model.size_bytes,
                    "layers": [layer_facts(layer) for layer in model.layers],
                    **provenance_facts(provenance, await self._names()),
                }
            )

        return EventStream(produce, self._node.stopping)

    async def check(self, body: CheckBody) -> Response:
        """Build a model again and say what came out different; nothing of it stays."""

        async def produce(emit: Emit) -> None:
            source = None if body.source is None else Path(body.source)
            report = await self._node.catalog.check_build(body.name, source, emit)
            await emit(
                {
                    "status": "success",
                    "name": format_model_name(report.name),
                    "same": report.same,
                    "manifest": report.expected,
                    "rebuilt": report.found,
                    "sources": list(report.sources),
                    "differences": [
                        {"where": found.where, "expected": found.expected, "found": found.found}
                        for found in report.differences
                    ],
                }
            )

        return EventStream(produce, self._node.stopping)

    async def _names(self) -> Callable[[DeviceId], str]:
        linked = await self._node.threads.database(self._node.peers.list)
        names = device_names(self._node.key.did, self._node.settings.nickname, linked)
        return lambda did: names.get(did, "")
