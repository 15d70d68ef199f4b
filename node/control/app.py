"""The control API's application: every route, the HTTP API beside them, and one way to answer errors."""

from fastapi import FastAPI

from node.control.adopt import AdoptRoutes
from node.control.ask import AskRoutes
from node.control.build import BuildRoutes
from node.control.bundles import BundleRoutes
from node.control.chats import ChatRoutes
from node.control.link import LinkRoutes
from node.control.models import ModelRoutes
from node.control.node import NodeRoutes
from node.control.registry import RegistryRoutes
from node.control.registry_server import RegistryServerRoutes
from node.control.repair import RepairRoutes
from node.control.responses import handle_errors
from node.control.versions import VersionRoutes
from node.parts import Node


def build_control(node: Node) -> FastAPI:
    """Return the application that the control socket serves."""
    # No generated documentation: its pages would load scripts from elsewhere.
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    handle_errors(app)
    for routes in (
        NodeRoutes(node),
        ModelRoutes(node),
        BuildRoutes(node),
        AskRoutes(node),
        LinkRoutes(node),
        ChatRoutes(node),
        RegistryServerRoutes(node),
        RegistryRoutes(node),
        RepairRoutes(node),
        BundleRoutes(node),
        VersionRoutes(node),
        AdoptRoutes(node),
    ):
        app.include_router(routes.router())
    return app
