"""Control routes for serving the store as a registry, and for reading a linked device's (specs/0024)."""

import base64
import json
import socket
from dataclasses import replace
from typing import Annotated, Any, Final

import trio
from fastapi import APIRouter
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from starlette.types import ASGIApp, Scope

from node.api.errors import ApiRefused
from node.api.guard import Guard, loopback_hosts
from node.api.registry_answers import answer_error
from node.control.registry_login import login_file
from node.control.responses import Emit, EventStream, facts
from node.control.server import api_url, bind_api_socket, serve_http
from node.errors import PeerListingInvalid, PortInUse
from node.parts import Node
from node.peer.registry_tunnel import USER, Tunnel, ask, open_registry
from protocol.oci_name import check_repository, check_tag
from store.peers import LinkedPeer

PASSWORD_BYTES: Final = 24
MAX_LISTING_BYTES: Final = 4 * 1024 * 1024
MAX_SHOWN: Final = 20
LOOPBACK: Final = "127.0.0.1"


class ServeBody(BaseModel):
    """Whether programs on this machine may read the models as a registry."""

    model_config = ConfigDict(extra="forbid")
    on: bool


class ConnectBody(BaseModel):
    """A linked device, and the port to open here; 0 takes any."""

    model_config = ConfigDict(extra="forbid")
    peer: Annotated[str, StringConstraints(min_length=1, max_length=4096)]
    port: Annotated[int, Field(ge=0, le=65535)] = 0


class RegistryServerRoutes:
    """The routes, each a few lines over the node."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def router(self) -> APIRouter:
        """Return the routes for mounting."""
        router = APIRouter()
        router.add_api_route("/v1/registry/serve", self.state, methods=["GET"], response_model=None)
        router.add_api_route("/v1/registry/serve", self.serve, methods=["POST"], response_model=None)
        router.add_api_route("/v1/registry/connect", self.connect, methods=["POST"], response_model=None)
        return router

    async def state(self) -> Response:
        """Say whether programs on this machine may read the models."""
        return facts(**registry_facts(self._node))

    async def serve(self, body: ServeBody) -> Response:
        """Switch it on or off; in force with the next request."""
        settings = replace(self._node.settings, serve_registry=body.on)
        await self._node.threads.store(self._node.profile.change, settings)
        return facts(**registry_facts(self._node))

    async def connect(self, body: ConnectBody) -> Response:
        """Open a port for a linked device's registry, for as long as the caller stays."""
        peer = await self._node.threads.database(self._node.peers.find, body.peer)

        async def produce(emit: Emit) -> None:
            models = await _offered(self._node, peer)
            with _bind(body.port) as listener:
                server = api_url(listener).removeprefix("http://")
                password = base64.urlsafe_b64encode(self._node.entropy.random_bytes(PASSWORD_BYTES)).decode()
                with login_file(self._node.home.registry_logins, server, USER, password) as file:
                    app = _guarded(self._node, peer, password, listener.getsockname()[1])
                    async with trio.open_nursery() as nursery:
                        await nursery.start(serve_http, app, listener, 0.0, self._node.stopping)
                        await emit(
                            {
                                "event": "connected",
                                "did": peer.did,
                                "nickname": peer.nickname,
                                "server": server,
                                "user": USER,
                                "password": password,
                                "login_file": str(file),
                                "models": models,
                            }
                        )

        return EventStream(produce, self._node.stopping)


def registry_facts(node: Node) -> dict[str, Any]:
    """Return whether programs on this machine may read the models as a registry, and where."""
    return {"serving": node.settings.serve_registry, "url": f"{node.api}/v2/"}


def _bind(port: int) -> socket.socket:
    try:
        return bind_api_socket(LOOPBACK, port, or_any_port=False)
    except PortInUse as error:
        raise PortInUse("registry", error.address) from error


def _guarded(node: Node, peer: LinkedPeer, password: str, port: int) -> ASGIApp:
    hosts = loopback_hosts(port)
    return Guard(
        Tunnel(lambda: open_registry(node.transport, peer.did, peer.addresses), password), lambda: hosts, _refuse
    )


def _refuse(_: Scope, refusal: ApiRefused) -> ASGIApp:
    return answer_error(refusal)


async def _offered(node: Node, peer: LinkedPeer) -> list[str]:
    """Return the references `repository:tag` that the peer offers, of the first 20 repositories."""
    found = []
    for repository in (await _listing(node, peer, f"/v2/_catalog?n={MAX_SHOWN}", "repositories"))[:MAX_SHOWN]:
        # What the peer says goes into the next request: only names that are ones.
        tags = await _listing(node, peer, f"/v2/{check_repository(repository)}/tags/list?n={MAX_SHOWN}", "tags")
        found += [f"{repository}:{check_tag(tag)}" for tag in tags[:MAX_SHOWN]]
    return found


async def _listing(node: Node, peer: LinkedPeer, path: str, key: str) -> list[str]:
    content = bytearray()
    async with (
        open_registry(node.transport, peer.did, peer.addresses) as stream,
        ask(stream, "GET", path.encode(), []) as answer,
    ):
        async for piece in answer.pieces:
            content += piece
            if len(content) > MAX_LISTING_BYTES:
                raise PeerListingInvalid(peer.did, path)
    try:
        names = json.loads(content)[key]
    except (ValueError, RecursionError, KeyError, TypeError):
        raise PeerListingInvalid(peer.did, path) from None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise PeerListingInvalid(peer.did, path)
    return names
