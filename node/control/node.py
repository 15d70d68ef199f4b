"""Control routes for the node itself: status, account, log, events, stop."""

import os
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, StringConstraints

from node.control.registry_server import registry_facts
from node.control.responses import Emit, EventStream, facts
from node.health import complaints, peer_facts
from node.parts import Node
from protocol.log_entry import decode_log_entry
from protocol.provenance import decode_and_verify_provenance
from protocol.tlog import leaf_hash

# A log of this length still fits a screen and an answer; the rest is in the export.
MAX_SHOWN_ENTRIES = 1000


class AccountBody(BaseModel):
    """What this device is called from now on."""

    model_config = ConfigDict(extra="forbid")
    nickname: Annotated[str, StringConstraints(min_length=1, max_length=64)]


class ExportBody(BaseModel):
    """Where to write the log: an absolute path."""

    model_config = ConfigDict(extra="forbid")
    directory: Annotated[str, StringConstraints(min_length=1, max_length=4096, pattern="^/")]


class NodeRoutes:
    """The routes, each a few lines over the node."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def router(self) -> APIRouter:
        """Return the routes for mounting."""
        router = APIRouter()
        router.add_api_route("/v1/ping", self.ping, methods=["GET"], response_model=None)
        router.add_api_route("/v1/status", self.status, methods=["GET"], response_model=None)
        router.add_api_route("/v1/account", self.rename, methods=["POST"], response_model=None)
        router.add_api_route("/v1/events", self.events, methods=["GET"], response_model=None)
        router.add_api_route("/v1/stop", self.stop, methods=["POST"], response_model=None)
        router.add_api_route("/v1/log", self.log, methods=["GET"], response_model=None)
        router.add_api_route("/v1/log/export", self.export, methods=["POST"], response_model=None)
        router.add_api_route("/v1/log/verify", self.verify, methods=["POST"], response_model=None)
        return router

    async def ping(self) -> Response:
        """Say that the node is there."""
        return facts(pid=os.getpid(), did=self._node.key.did)

    async def status(self) -> Response:
        """Say how the node and every linked device are."""
        node = self._node
        peers = await node.threads.database(node.peers.list)
        return facts(
            running=True,
            **node.identity_facts(),
            uptime_s=int(node.clock.monotonic_s() - node.started_at_s),
            log={"size": node.log.size, "root": node.log.root.hex()},
            models=len(await node.catalog.list()),
            offers=len(await node.threads.database(node.fetch.offers)),
            registry=registry_facts(node),
            loaded=[model.name for model in node.models.loaded()],
            peers=[peer_facts(node, peer) for peer in peers],
            requests=node.link.requests(),
            health=[complaint.facts() for complaint in await node.threads.store(complaints, node, peers)],
        )

    async def rename(self, body: AccountBody) -> Response:
        """Change the nickname; linked devices learn it at the next contact."""
        named = self._node.settings.named(body.nickname)
        await self._node.threads.store(self._node.profile.change, named)
        return facts(did=named.did, nickname=named.nickname)

    async def events(self) -> Response:
        """Stream what happens from now on; the first event says that the stream listens."""

        async def produce(emit: Emit) -> None:
            async with self._node.events.listen() as events:
                await emit({"event": "listening"})
                async for event in events:
                    await emit(event)

        return EventStream(produce)

    async def stop(self) -> Response:
        """Begin the graceful stop and answer before it ends."""
        self._node.stop()
        return facts(stopping=True, pid=os.getpid())

    async def log(self) -> Response:
        """Show the entries and the checkpoint of this device's log."""
        return facts(**await self._node.threads.store(self._log_facts))

    def _log_facts(self) -> dict[str, object]:
        log = self._node.log
        models = self._models_by_index()
        size = log.size
        entries = []
        for index in range(max(0, size - MAX_SHOWN_ENTRIES), size):
            entry = log.entry(index)
            kind = decode_log_entry(entry).kind
            entries.append(
                {"index": index, "kind": kind, "model": models.get(index, "-"), "leaf": leaf_hash(entry).hex()}
            )
        return {
            "origin": log.origin,
            "size": size,
            "root": log.root.hex(),
            "checkpoint": log.checkpoint().decode(),
            "verifier_key": log.verifier_key,
            "entries": entries,
        }

    def _models_by_index(self) -> dict[int, str]:
        """Return which of this device's log entries are about which model, as far as their bundles are kept."""
        files = self._node.store.provenance
        names: dict[int, str] = {}
        for manifest in files.list():
            bundle = files.load(manifest, publisher=self._node.key.did)
            if bundle is not None:
                provenance = decode_and_verify_provenance(bundle)
                names |= dict.fromkeys((provenance.build.index, provenance.sign.index), provenance.name)
        return names

    async def export(self, body: ExportBody) -> Response:
        """Write the log for an independent verifier."""
        log = self._node.log
        await self._node.threads.store(log.export, Path(body.directory))
        return facts(directory=body.directory, size=log.size, root=log.root.hex(), verifier_key=log.verifier_key)

    async def verify(self) -> Response:
        """Recompute every hash of the log."""
        summary = await self._node.threads.store(self._node.log.verify)
        return facts(origin=summary.origin, size=summary.size, root=summary.root.hex())
