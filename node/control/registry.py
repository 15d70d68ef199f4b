"""Control routes for registries: push, pack, pull from one, log in and out."""

from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, SecretStr, StringConstraints

from identity.did import DeviceId
from node.control.models import Name
from node.control.responses import Emit, EventStream, facts
from node.health import device_names
from node.parts import Node
from node.registries import pull_facts, push_facts
from protocol.digest import parse_digest
from protocol.model_name import format_model_name
from store.registry.credentials import Login

Host = Annotated[str, StringConstraints(min_length=1, max_length=260)]
Place = Annotated[str, StringConstraints(max_length=600)]


class RegistryPullBody(BaseModel):
    """A model in a registry, the name it gets here, and whether deltas may be used."""

    model_config = ConfigDict(extra="forbid")
    reference: Place
    own_name: Name | None = None
    deltas: bool = True


class PushBody(BaseModel):
    """A stored model and where it goes; "" where its own name says it."""

    model_config = ConfigDict(extra="forbid")
    name: Name
    target: Place = ""
    deltas: bool = True


class PackBody(BaseModel):
    """A stored model and the directory that it is written into."""

    model_config = ConfigDict(extra="forbid")
    name: Name
    directory: Annotated[str, StringConstraints(max_length=4096, pattern="^/")]


class LoginBody(BaseModel):
    """A login for a registry; the password formats as asterisks."""

    model_config = ConfigDict(extra="forbid")
    host: Host
    username: str
    password: SecretStr


class HostBody(BaseModel):
    """A registry by its host."""

    model_config = ConfigDict(extra="forbid")
    host: Host


class RegistryRoutes:
    """The routes, each a few lines over the node's registries."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def router(self) -> APIRouter:
        """Return the routes for mounting."""
        router = APIRouter()
        router.add_api_route("/v1/registry/pull", self.pull, methods=["POST"], response_model=None)
        router.add_api_route("/v1/registry/push", self.push, methods=["POST"], response_model=None)
        router.add_api_route("/v1/registry/pack", self.pack, methods=["POST"], response_model=None)
        router.add_api_route("/v1/registry/login", self.log_in, methods=["POST"], response_model=None)
        router.add_api_route("/v1/registry/logout", self.log_out, methods=["POST"], response_model=None)
        router.add_api_route("/v1/registry/logins", self.logins, methods=["GET"], response_model=None)
        return router

    async def pull(self, body: RegistryPullBody) -> Response:
        """Fetch a model from a registry; leaving the stream stops the fetch, what came stays for the next one."""

        async def produce(emit: Emit) -> None:
            async def tell(event: dict[str, Any]) -> None:
                await emit(_bare(event))

            done = await self._node.registries.pull(body.reference, body.own_name, tell, deltas=body.deltas)
            linked = await self._node.threads.database(self._node.peers.list)
            names = device_names(self._node.key.did, self._node.settings.nickname, linked)
            publisher_name = names.get(DeviceId(done.publisher), "") if done.publisher else ""
            await emit({**_bare(pull_facts(done)), "publisher_name": publisher_name})

        return EventStream(produce, self._node.stopping)

    async def push(self, body: PushBody) -> Response:
        """Put a model into a registry; leaving the stream stops it, what the registry has by then stays there."""

        async def produce(emit: Emit) -> None:
            async def tell(event: dict[str, Any]) -> None:
                await emit(_bare(event))

            done = await self._node.registries.push(body.name, body.target, tell, deltas=body.deltas)
            await emit(_bare(push_facts(done)))

        return EventStream(produce, self._node.stopping)

    async def pack(self, body: PackBody) -> Response:
        """Write a model into a directory as an OCI image layout."""
        name, packed = await self._node.registries.pack(body.name, Path(body.directory))
        return facts(
            name=format_model_name(name),
            manifest=packed.manifest,
            directory=str(packed.directory),
            tags=list(packed.tags),
            blobs=packed.blob_count,
            size_bytes=packed.size_bytes,
            referrers=packed.referrers,
        )

    async def log_in(self, body: LoginBody) -> Response:
        """Keep a login, once the registry has accepted it."""
        login = Login(body.username, body.password.get_secret_value())
        host, asked = await self._node.registries.log_in(body.host, login)
        return facts(host=host, username=body.username, asked=asked)

    async def log_out(self, body: HostBody) -> Response:
        """Forget a login."""
        return facts(host=body.host.lower(), forgotten=await self._node.registries.log_out(body.host))

    async def logins(self) -> Response:
        """List the logins, without passwords."""
        known = await self._node.registries.logins()
        return facts(
            logins=[{"host": login.host, "username": login.username, "added_s": login.added_s} for login in known]
        )


def _bare(event: dict[str, Any]) -> dict[str, Any]:
    """Return an event with bare digests, as everywhere in this API; the work itself spells them as Ollama does."""
    return {key: parse_digest(str(value)) if key in ("digest", "manifest") else value for key, value in event.items()}
