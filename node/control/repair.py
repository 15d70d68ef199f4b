"""Control route for repairs: a model verified, and what is damaged of it put right."""

from collections.abc import Sequence
from contextlib import AbstractContextManager

from fastapi import APIRouter
from fastapi.responses import Response

from node.control.models import NameBody
from node.control.responses import Emit, EventStream
from node.parts import Node
from node.peer.repair_sources import Remote
from protocol.digest import parse_digest
from protocol.model_name import ModelName, parse_model_name
from protocol.registry import Reference
from store.lookup import find_entry
from store.registry.credentials import Login
from store.repair_registry import open_registry, registries_of

Registries = list[tuple[Reference, Login | None]]


class RepairRoutes:
    """The route, a few lines over the fetch service."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def router(self) -> APIRouter:
        """Return the route for mounting."""
        router = APIRouter()
        router.add_api_route("/v1/repair", self.repair, methods=["POST"], response_model=None)
        return router

    async def repair(self, body: NameBody) -> Response:
        """Hash everything again and put right what is damaged; leaving the stream stops it, what was found stays."""

        async def produce(emit: Emit) -> None:
            registries = await self._registries(parse_model_name(body.name))
            async with self._node.fetch.repair(body.name, lambda _: _closed(registries)) as events:
                async for event in events:
                    # Digests are bare everywhere in this API.
                    await emit({k: parse_digest(str(v)) if k == "digest" else v for k, v in event.items()})

        return EventStream(produce, self._node.stopping)

    async def _registries(self, name: ModelName) -> Registries:
        """Return the registries in which the model lies or from which it came, each with the login that is kept."""
        entry = await self._node.threads.store(find_entry, self._node.store.refs, name)
        known = await self._node.registries.places_of(entry.digest)
        came_from = await self._node.threads.store(registries_of, self._node.store, name)
        references = dict.fromkeys([*known, *came_from])
        return [(reference, await self._node.registries.login_for(reference.host)) for reference in references]


def _closed(registries: Registries) -> Sequence[AbstractContextManager[Remote]]:
    """Return the registries, each to be used inside one block."""
    return [open_registry(reference, login, lambda: None) for reference, login in registries]
