"""What the description says of one route: words, the body it takes, and the answers it gives."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

# A schema is a Python type (a pydantic body, a TypedDict) or, where no type says it, JSON schema itself.
Schema = Any

JSON: Final = "application/json"
NDJSON: Final = "application/x-ndjson"
EVENTS: Final = "text/event-stream"
TEXT: Final = "text/plain"
HTML: Final = "text/html"


@dataclass(frozen=True)
class Answer:
    """One answer: what it means, and its schema under each media type; none for an answer without a body."""

    meaning: str
    content: Mapping[str, Schema] = field(default_factory=dict)


@dataclass(frozen=True)
class Operation:
    """One route's description.

    `required` names fields that the route asks for although its schema has a default for them. `error` is the schema
    of every other answer. `own` routes answer only programs of the account that the node runs under.
    """

    summary: str
    answers: Mapping[int, Answer]
    error: Schema
    body: Schema = None
    body_type: str = JSON
    required: tuple[str, ...] = ()
    parameters: tuple[Mapping[str, Any], ...] = ()
    example: Mapping[str, Any] | None = None
    own: bool = False


# Routes by path and method.
Operations = Mapping[tuple[str, str], Operation]


def answered(schema: Schema, *, lines: Schema = None, events: Schema = None, meaning: str = "answered") -> Any:
    """Return the answers of a route that says `schema`, and streams `lines` or `events` where it is asked to."""
    streams = {NDJSON: lines, EVENTS: events}
    return {200: Answer(meaning, {JSON: schema, **{kind: each for kind, each in streams.items() if each is not None}})}


def in_path(name: str, meaning: str, schema: Mapping[str, Any] | None = None) -> Mapping[str, Any]:
    """Return the description of a parameter in the path."""
    told = {"type": "string", **(schema or {})}
    return {"name": name, "in": "path", "required": True, "description": meaning, "schema": told}


def in_query(name: str, meaning: str, schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the description of a parameter in the query."""
    return {"name": name, "in": "query", "required": False, "description": meaning, "schema": dict(schema)}
