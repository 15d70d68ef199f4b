"""Control routes for links: tickets, requests, answers, devices."""

from typing import Annotated

from fastapi import APIRouter
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, StringConstraints

from node.control.responses import Emit, EventStream, facts
from node.health import peer_facts
from node.parts import Node
from protocol.scope import Scope

Text = Annotated[str, StringConstraints(min_length=1, max_length=4096)]


class EnableBody(BaseModel):
    """Show a ticket."""

    model_config = ConfigDict(extra="forbid")
    scope: Scope = Scope.OWN


class JoinBody(BaseModel):
    """Use a ticket; `accept` is this side's consent, given before the request is seen."""

    model_config = ConfigDict(extra="forbid")
    ticket: Text
    scope: Scope = Scope.OWN
    accept: bool = False


class AnswerBody(BaseModel):
    """Say yes or no to one request."""

    model_config = ConfigDict(extra="forbid")
    id: Text


class PeerBody(BaseModel):
    """Name a linked device: nickname, DID, or the beginning of one."""

    model_config = ConfigDict(extra="forbid")
    peer: Text


class LinkRoutes:
    """The routes, each a few lines over the link service."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def router(self) -> APIRouter:
        """Return the routes for mounting."""
        router = APIRouter()
        router.add_api_route("/v1/link/enable", self.enable, methods=["POST"], response_model=None)
        router.add_api_route("/v1/link/join", self.join, methods=["POST"], response_model=None)
        router.add_api_route("/v1/link/approve", self.approve, methods=["POST"], response_model=None)
        router.add_api_route("/v1/link/reject", self.reject, methods=["POST"], response_model=None)
        router.add_api_route("/v1/link/disable", self.disable, methods=["POST"], response_model=None)
        router.add_api_route("/v1/peers", self.peers, methods=["GET"], response_model=None)
        return router

    async def enable(self, body: EnableBody) -> Response:
        """Show a ticket and stream what comes of it; leaving the stream withdraws the ticket."""

        async def produce(emit: Emit) -> None:
            async with self._node.link.enable(body.scope) as events:
                async for event in events:
                    await emit(event)

        return EventStream(produce, self._node.stopping)

    async def join(self, body: JoinBody) -> Response:
        """Dial the ticket's device and stream what comes of it."""

        async def produce(emit: Emit) -> None:
            async with self._node.link.join(body.ticket, body.scope, body.accept) as events:
                async for event in events:
                    await emit(event)

        return EventStream(produce, self._node.stopping)

    async def approve(self, body: AnswerBody) -> Response:
        """Say yes."""
        await self._node.link.approve(body.id)
        return facts(id=body.id, answer="approved")

    async def reject(self, body: AnswerBody) -> Response:
        """Say no."""
        await self._node.link.reject(body.id)
        return facts(id=body.id, answer="rejected")

    async def disable(self, body: PeerBody) -> Response:
        """End a link: connections are cut before this answers."""
        peer = await self._node.threads.database(self._node.peers.find, body.peer)
        await self._node.link.disable(peer)
        return facts(did=peer.did, nickname=peer.nickname)

    async def peers(self) -> Response:
        """List the linked devices and the requests that wait."""
        linked = await self._node.threads.database(self._node.peers.list)
        return facts(peers=[peer_facts(self._node, peer) for peer in linked], requests=self._node.link.requests())
