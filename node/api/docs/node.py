"""The description of the routes that tell how the node is, and of this description."""

from typing import Any, Final

from node.api.docs.native_answers import Healthy, Stopped, Told
from node.api.docs.operation import HTML, JSON, TEXT, Answer, Operation, Operations, answered, in_query
from node.api.health import StopBody

_WORDS: Final[dict[str, Any]] = {"type": "string"}
_SWITCH: Final[dict[str, Any]] = {"enum": ["0", "1"]}
_DOCUMENT: Final[dict[str, Any]] = {"type": "object"}


NODE: Final[Operations] = {
    ("/", "GET"): Operation("say that somebody is there", {200: Answer("yes", {TEXT: _WORDS})}, Told),
    ("/api/health", "GET"): Operation(
        "say how the node is; with deep=1 only after a model has written a token",
        {200: Answer("it is well", {JSON: Healthy}), 503: Answer("it cannot answer", {JSON: Healthy})},
        Told,
        parameters=(
            in_query("deep", "1: have a model in memory, else the demo model, write a token", {"enum": ["0", "1"]}),
        ),
    ),
    ("/api/stop", "POST"): Operation(
        "let a model go from memory now", answered(Stopped), Told, body=StopBody, example={"model": "demo"}
    ),
    ("/metrics", "GET"): Operation(
        "tell every metric in Prometheus' text format", {200: Answer("metrics", {TEXT: _WORDS})}, Told
    ),
    ("/openapi.json", "GET"): Operation("this description, for programs", answered(_DOCUMENT), Told),
    ("/docs", "GET"): Operation("this description, for people", {200: Answer("a page", {HTML: _WORDS})}, Told),
}
