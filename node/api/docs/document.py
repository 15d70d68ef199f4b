"""The OpenAPI document, made from the routes that an application has and what is said of each."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal

from fastapi import APIRouter
from fastapi.routing import APIRoute
from pydantic import TypeAdapter

from node.api.docs.compatible import COMPATIBLE
from node.api.docs.embeddings import EMBEDDINGS
from node.api.docs.fields import explain
from node.api.docs.native import NATIVE
from node.api.docs.node import NODE
from node.api.docs.operation import JSON, Operation, Operations

_COMPONENTS: Final = "#/components/schemas/{model}"
_TAGS: Final = (
    ("/api/", "native", "Ollama's API, as its clients speak it"),
    ("/v1/", "compatible", "OpenAI's API and Anthropic's, as their clients speak them"),
    ("/v2/", "registry", "An OCI registry of the models here, while it is switched on"),
    ("/", "node", "The node itself"),
)

OPERATIONS: Final[Operations] = {**NATIVE, **EMBEDDINGS, **COMPATIBLE, **NODE}

_NOTHING: Final[Operations] = {}

Found = tuple[str, str, Operation]


def describe(routers: Sequence[APIRouter], version: str, more: Operations = _NOTHING) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of the routes of `routers`, and of `more` that no router knows.

    A route that nobody described is left out.
    """
    there = routes(routers)
    found = [(path, method, OPERATIONS[path, method]) for path, method in there if (path, method) in OPERATIONS]
    found += [(path, method, operation) for (path, method), operation in more.items()]
    schemas, components = _schemas(found)
    paths: dict[str, dict[str, Any]] = {}
    for path, method, operation in found:
        paths.setdefault(path, {})[method.lower()] = _operation(path, method, operation, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "tilenode",
            "version": version,
            "description": "A node of your own: models that answer on this machine.",
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": name, "description": meaning} for _, name, meaning in _TAGS],
        "paths": paths,
        "components": {"schemas": components},
    }


def routes(routers: Sequence[APIRouter]) -> list[tuple[str, str]]:
    """Return path and method of every route, HEAD only where there is no GET beside it."""
    found: dict[str, set[str]] = {}
    for route in (route for router in routers for route in router.routes):
        if isinstance(route, APIRoute):
            found.setdefault(route.path_format, set()).update(route.methods or ())
    return [
        (path, method)
        for path, methods in found.items()
        for method in sorted(methods - ({"HEAD"} if "GET" in methods else set()))
    ]


def _operation(path: str, method: str, told: Operation, schemas: Mapping[int, Any]) -> dict[str, Any]:
    tag = next(name for start, name, _ in _TAGS if path.startswith(start))
    operation: dict[str, Any] = {
        "tags": [tag],
        "summary": told.summary,
        "operationId": "_".join(filter(None, (method.lower(), *_words(path)))),
        "parameters": [dict(parameter) for parameter in told.parameters],
        "responses": {
            **{
                str(status): _response(answer.meaning, answer.content, schemas)
                for status, answer in told.answers.items()
            },
            "default": _response("refused or failed, in words", {JSON: told.error}, schemas),
        },
    }
    if told.own:
        operation["description"] = "Only for programs of the account that this node runs under."
    if told.body is not None:
        content: dict[str, Any] = {"schema": schemas[id(told.body)]}
        if told.example is not None:
            content["example"] = dict(told.example)
        operation["requestBody"] = {"required": True, "content": {told.body_type: content}}
    return operation


def _words(path: str) -> Iterable[str]:
    return ("".join(letter if letter.isalnum() else "_" for letter in part).strip("_") for part in path.split("/"))


def _response(meaning: str, content: Mapping[str, Any], schemas: Mapping[int, Any]) -> dict[str, Any]:
    told: dict[str, Any] = {"description": meaning}
    if content:
        told["content"] = {kind: {"schema": schemas[id(schema)]} for kind, schema in content.items()}
    return told


def _schemas(found: Iterable[Found]) -> tuple[dict[int, Any], dict[str, Any]]:
    """Return the JSON schema of each type and mapping that is spoken of, by its identity, and the parts they share."""
    spoken: dict[int, Any] = {}
    required: dict[int, tuple[str, ...]] = {}
    for _, _, operation in found:
        answers = [schema for answer in operation.answers.values() for schema in answer.content.values()]
        for schema in (operation.body, operation.error, *answers):
            if schema is not None:
                spoken[id(schema)] = schema
        required[id(operation.body)] = operation.required
    plain = {key: schema for key, schema in spoken.items() if isinstance(schema, Mapping)}
    typed = {key: schema for key, schema in spoken.items() if key not in plain}
    adapters: list[tuple[int, Literal["validation"], TypeAdapter[Any]]] = [
        (key, "validation", TypeAdapter(schema)) for key, schema in typed.items()
    ]
    made, shared = TypeAdapter.json_schemas(adapters, ref_template=_COMPONENTS)
    components = dict(shared.get("$defs", {}))
    by_type = {key: made[key, "validation"] for key in typed}
    for key, names in required.items():
        if key in by_type:
            body = _resolved(by_type[key], components)
            _require(body, names)
            explain(body)
    return {**plain, **by_type}, components


def _resolved(schema: dict[str, Any], components: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = components[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
    return found


def _require(body: dict[str, Any], names: tuple[str, ...]) -> None:
    """Let a body require fields that have a default only so that their absence can be told in this API's words."""
    if names:
        body["required"] = sorted({*body.get("required", ()), *names})
    for name in names:
        body["properties"][name].pop("default", None)
