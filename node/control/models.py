"""Control routes for models: list, show, pull, verify."""

from collections.abc import Callable
from typing import Annotated, Final

from fastapi import APIRouter
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, StringConstraints

from identity.did import DeviceId
from node.catalog import build_facts, foreign_facts, layer_facts, model_facts, provenance_facts, with_mir
from node.control.responses import Emit, EventStream, facts
from node.health import device_names
from node.parts import Node
from protocol.digest import parse_digest
from protocol.manifest import MIR
from protocol.mir import read_mir
from protocol.model_name import format_model_name
from protocol.modelfile import format_modelfile
from store.base_parts import read_build_record
from store.foreign import foreign_models

# What stands in the place of a provenance's facts where nobody signed a model.
UNSIGNED: Final[dict[str, object]] = {"publisher": "", "publisher_name": "", "signed_name": "", "entries": []}
MirPattern = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=420)]


class NameBody(BaseModel):
    """A model by name."""

    model_config = ConfigDict(extra="forbid")
    name: Name


class PullBody(BaseModel):
    """A model on linked devices; `source` names one of them."""

    model_config = ConfigDict(extra="forbid")
    name: Name
    source: str | None = None


class ModelRoutes:
    """The routes, each a few lines over the catalog and the fetch service."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def router(self) -> APIRouter:
        """Return the routes for mounting."""
        router = APIRouter()
        router.add_api_route("/v1/models", self.list_models, methods=["GET"], response_model=None)
        router.add_api_route("/v1/offers", self.list_offers, methods=["GET"], response_model=None)
        router.add_api_route("/v1/show", self.show, methods=["GET"], response_model=None)
        router.add_api_route("/v1/pull", self.pull, methods=["POST"], response_model=None)
        router.add_api_route("/v1/verify", self.verify, methods=["POST"], response_model=None)
        return router

    async def list_models(self, mir: MirPattern | None = None) -> Response:
        """List the models here, the embedded one included; with `mir` only those that the pattern finds."""
        name_of = await self._names()
        models = with_mir(await self._node.catalog.list(), mir)
        foreign = [foreign_facts(model) for model in await self._node.threads.store(foreign_models, self._node.store)]
        return facts(models=[model_facts(model, name_of) for model in models], foreign=foreign)

    async def list_offers(self) -> Response:
        """List what linked devices offer."""
        name_of = await self._names()
        offers = await self._node.threads.database(self._node.fetch.offers)
        return facts(
            offers=[
                {
                    "name": format_model_name(offer.name),
                    "manifest": offer.manifest,
                    "size_bytes": offer.size_bytes,
                    "peer": offer.peer,
                    "peer_name": name_of(offer.peer),
                    "publisher": offer.publisher,
                    "publisher_name": name_of(offer.publisher),
                }
                for offer in offers
            ]
        )

    async def show(self, name: Name) -> Response:
        """Describe one model."""
        model = await self._node.catalog.stored(name)
        provenance = await self._node.threads.store(self._node.catalog.provenance, model.digest)
        record = await self._node.threads.store(read_build_record, self._node.store, model)
        return facts(
            name=format_model_name(model.name),
            manifest=model.digest,
            size_bytes=model.size_bytes,
            modified_s=model.modified_s,
            layers=[layer_facts(layer) for layer in model.layers],
            modelfile=format_modelfile(model.modelfile),
            mir=str(read_mir(model.manifest.annotations.get(MIR)) or ""),
            licenses=list(model.modelfile.licenses),
            provenance=provenance_facts(provenance, await self._names()) if provenance else None,
            build=build_facts(record) if record else None,
        )

    async def pull(self, body: PullBody) -> Response:
        """Fetch a model from linked devices; leaving the stream stops the fetch, what came stays for the next one."""

        async def produce(emit: Emit) -> None:
            peer = None
            if body.source is not None:
                peer = await self._node.threads.database(self._node.peers.find, body.source)
            async with self._node.fetch.pull(body.name, peer) as events:
                async for event in events:
                    # Digests are bare everywhere in this API; the fetch's own events spell them as Ollama does.
                    bare = {
                        key: parse_digest(str(value)) if key in ("digest", "manifest") else value
                        for key, value in event.items()
                    }
                    if "publisher" in event:
                        bare["publisher_name"] = (await self._names())(DeviceId(str(event["publisher"])))
                    await emit(bare)

        return EventStream(produce, self._node.stopping)

    async def verify(self, body: NameBody) -> Response:
        """Hash everything again."""
        checked = await self._node.catalog.verify(body.name)
        return facts(
            name=format_model_name(checked.model.name),
            manifest=checked.model.digest,
            size_bytes=checked.size_bytes,
            chunks=checked.chunks,
            layers=[layer_facts(layer) for layer in checked.model.layers],
            **(provenance_facts(checked.provenance, await self._names()) if checked.provenance else UNSIGNED),
        )

    async def _names(self) -> Callable[[DeviceId], str]:
        """Return what calls a device by its name, this one's own included; empty for one that is not linked."""
        linked = await self._node.threads.database(self._node.peers.list)
        names = device_names(self._node.key.did, self._node.settings.nickname, linked)
        return lambda did: names.get(did, "")
