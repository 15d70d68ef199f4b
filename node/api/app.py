"""The HTTP API as one ASGI application: both APIs, one guard, errors in each API's own words."""

import logging
from collections import Counter
from collections.abc import Callable, Collection

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Scope

from node.api.anthropic import AnthropicRoutes
from node.api.anthropic_errors import anthropic_error, anthropic_words
from node.api.blobs import BlobRoutes
from node.api.copies import CopyRoutes
from node.api.counted import Counted
from node.api.create import CreateRoutes
from node.api.docs.routes import DocsRoutes
from node.api.embeddings import EmbeddingRoutes
from node.api.errors import ApiDefect, ApiRefused
from node.api.guard import Guard
from node.api.health import HealthRoutes
from node.api.metrics import MetricsRoutes
from node.api.native import NativeRoutes, native_error
from node.api.native_lists import ListRoutes
from node.api.openai import OpenAIRoutes
from node.api.openai_errors import openai_error
from node.api.registry import RegistryDoor
from node.api.registry_answers import answer_error
from node.api.responses import ResponsesRoutes
from node.api.responses_kept import KeepsNothing, Kept
from node.api.show import ShowRoutes
from node.api.streams import NAMED_ERRORS, WordError
from node.api.transfers import TransferRoutes
from node.models.service import Models
from node.ports import Clock, Entropy
from protocol.registry_route import is_registry_path

_log = logging.getLogger("tilenode.api")


def build_api(
    models: Models,
    clock: Clock,
    entropy: Entropy,
    *,
    version: str,
    hosts: Callable[[], Collection[str]] | None,
    registry: ASGIApp | None = None,
    registry_is_open: Callable[[], bool] = lambda: False,
    transfers: TransferRoutes | None = None,
    copies: CopyRoutes | None = None,
    blobs: BlobRoutes | None = None,
    creation: CreateRoutes | None = None,
    kept: Kept | None = None,
) -> FastAPI:
    """Return the application that serves `models`, and under `/v2/` the `registry` while it is open.

    `hosts` tells the Host headers that are allowed, asked at each request because the port is known only once it is
    bound (`loopback_hosts`); None allows any, for a private socket. `kept` is where responses are kept that later
    requests follow on; None keeps none.
    """
    app = FastAPI(title="tilenode", version=version, docs_url=None, redoc_url=None, openapi_url=None)
    requests: Counter[tuple[str, str, int]] = Counter()
    routers = [
        routes.router()
        for routes in (
            ListRoutes(models, clock, version),
            NativeRoutes(models, clock, entropy),
            ShowRoutes(models),
            OpenAIRoutes(models, clock, entropy),
            ResponsesRoutes(models, clock, entropy, kept or KeepsNothing()),
            AnthropicRoutes(models, entropy),
            EmbeddingRoutes(models),
            HealthRoutes(models, version),
            MetricsRoutes(models, requests),
            *(routes for routes in (transfers, copies, blobs, creation) if routes is not None),
        )
    ]
    docs = DocsRoutes(routers, version, with_registry=registry is not None)
    for router in (*routers, docs.router()):
        app.include_router(router)
    if registry is not None:
        app.add_middleware(RegistryDoor, registry=registry, is_open=registry_is_open)
    app.add_middleware(Guard, hosts=hosts, refuse=_refuse)
    app.add_middleware(Counted, counts=requests)
    for kind in NAMED_ERRORS:
        app.add_exception_handler(kind, _named)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _defect)
    return app


def _refuse(scope: Scope, refusal: ApiRefused) -> ASGIApp:
    return _words(scope)(refusal)


async def _named(request: Request, error: Exception) -> Response:
    return _words(request.scope)(error)


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    text = {404: "404 page not found", 405: "405 method not allowed"}.get(error.status_code, error.detail)
    if _is_anthropic(request.scope):
        return anthropic_words(text, error.status_code, headers=dict(error.headers or {}))
    told: object = {"error": text}
    if _is_openai(request.scope):
        told = {"error": {"message": text, "type": "invalid_request_error", "param": None, "code": None}}
    return JSONResponse(told, status_code=error.status_code, headers=error.headers)


async def _defect(request: Request, error: Exception) -> Response:
    # Only the types: a message may quote what was asked.
    _log.error("request_crashed", extra={"path": request.url.path, "error": _types(error)})
    return _words(request.scope)(ApiDefect())


def _types(error: BaseException) -> str:
    if isinstance(error, BaseExceptionGroup):
        return "+".join(_types(inner) for inner in error.exceptions)
    return type(error).__name__


def _words(scope: Scope) -> WordError:
    if is_registry_path(str(scope["path"])):
        return answer_error
    if _is_anthropic(scope):
        return anthropic_error
    return openai_error if _is_openai(scope) else native_error


def _is_openai(scope: Scope) -> bool:
    return str(scope["path"]).startswith("/v1/")


def _is_anthropic(scope: Scope) -> bool:
    # Its clients list models where OpenAI's do, and say who they are.
    said = any(name == b"anthropic-version" for name, _ in scope["headers"])
    return str(scope["path"]).startswith("/v1/messages") or (said and _is_openai(scope))
