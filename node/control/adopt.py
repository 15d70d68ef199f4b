"""The control route for models that other programs copied into the store."""

from typing import Annotated

from fastapi import APIRouter
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, StringConstraints

from node.catalog import DEMO, foreign_facts
from node.control.responses import Emit, EventStream
from node.parts import Node
from protocol.errors import ModelNameInvalid
from protocol.model_name import ModelName, format_model_name, parse_model_name
from store.foreign import Report, adopt, find_foreign

Name = Annotated[str, StringConstraints(min_length=1, max_length=330)]
Source = Annotated[str, StringConstraints(min_length=1, max_length=128)]


class AdoptBody(BaseModel):
    """What another program calls the model, or its digest; and the name that it is to have, by default that."""

    model_config = ConfigDict(extra="forbid")
    source: Source
    name: Name | None = None


class AdoptRoutes:
    """The route, a few lines over `store.foreign`."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def router(self) -> APIRouter:
        """Return the route for mounting."""
        router = APIRouter()
        router.add_api_route("/v1/adopt", self.adopt, methods=["POST"], response_model=None)
        return router

    async def adopt(self, body: AdoptBody) -> Response:
        """Hash a model that another program copied into the store, and name it."""
        node = self._node

        async def produce(emit: Emit) -> None:
            model = await node.threads.store(find_foreign, node.store, body.source)
            name = _name(body.name or model.reference)

            def work(report: Report) -> None:
                adopt(node.store, model, name, node.clock.now_s(), report)

            await node.threads.reporting(work, emit)
            node.events.publish({"event": "adopted", "name": str(name), "manifest": model.digest})
            await emit({"status": "success", **foreign_facts(model), "name": format_model_name(name)})

        return EventStream(produce, node.stopping)


def _name(text: str) -> ModelName:
    name = parse_model_name(text)
    if name.moving == DEMO:
        raise ModelNameInvalid(text, "the name of the embedded model; give another one: tilenode adopt MODEL NAME")
    return name
