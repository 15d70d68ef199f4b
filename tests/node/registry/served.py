"""A registry over a real store, answering on a real loopback port as it does in the node."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import trio
from fastapi import FastAPI

from node.api.registry import RegistryApp, RegistryDoor
from node.api.registry_shelf import RegistryShelf
from node.control.server import api_url, bind_api_socket, serve_http
from node.peer.testing import ModelNode
from protocol.digest import Digest
from protocol.manifest import Layer
from protocol.model_name import parse_model_name


class Registry:
    """One node's registry and a client of it."""

    def __init__(self, node: ModelNode, app: RegistryApp, http: httpx.AsyncClient, port: int) -> None:
        self.node = node
        self.app = app
        self.http = http
        self.port = port
        self.open = True

    async def get(self, path: str, **headers: str) -> httpx.Response:
        """Return the answer to GET."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.http.get(path, headers=named)

    def manifest(self, name: str) -> Digest:
        """Return the digest that `name` stands for."""
        digest = self.node.store.refs.get(parse_model_name(name))
        assert digest is not None
        return digest

    def weights(self, name: str) -> Layer:
        """Return the layer of `name` that has a chunk map."""
        model = self.node.store.resolve(parse_model_name(name))
        return next(layer for layer in model.layers if layer.chunk_map)


@asynccontextmanager
async def serving(home: Path) -> AsyncIterator[Registry]:
    """Give a registry over a store of its own at `home`; the node's network does not run."""
    node = ModelNode(home, 1)
    app = RegistryApp(node.store, RegistryShelf(node.store, node.gossip.origins.stopped), node.threads)
    listener = bind_api_socket("127.0.0.1", 0, or_any_port=False)
    outside = FastAPI(openapi_url=None)
    stop = trio.Event()
    async with trio.open_nursery() as nursery, httpx.AsyncClient(base_url=api_url(listener)) as http:
        registry = Registry(node, app, http, listener.getsockname()[1])
        outside.add_middleware(RegistryDoor, registry=app, is_open=lambda: registry.open)
        await nursery.start(serve_http, outside, listener, 0.0, stop)
        try:
            yield registry
        finally:
            nursery.cancel_scope.cancel()
            listener.close()
            node.close()
