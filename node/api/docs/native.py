"""The native API's description."""

from typing import Any, Final

from node.api.copies import CopyBody, DeleteBody
from node.api.create_request import CreateBody
from node.api.docs.native_answers import (
    ChatAnswer,
    GenerateAnswer,
    Loaded,
    Progress,
    Shown,
    Tags,
    Told,
    Version,
)
from node.api.docs.operation import Answer, Operation, Operations, answered, in_path
from node.api.guard import FILE_ROUTE
from node.api.schemas import ChatBody, GenerateBody, ShowBody
from node.api.transfers import TransferBody

_DIGEST: Final = in_path("digest", "`sha256:` and 64 hex characters", {"pattern": "^sha256[:-][0-9a-f]{64}$"})
_DONE: Final = {200: Answer("done")}


def _get(summary: str, schema: Any) -> Operation:
    return Operation(summary, answered(schema), Told)


NATIVE: Final[Operations] = {
    ("/api/version", "GET"): _get("this program's version", Version),
    ("/api/tags", "GET"): _get("list the models here", Tags),
    ("/api/ps", "GET"): _get("list the models in memory", Loaded),
    ("/api/chat", "POST"): Operation(
        "answer a conversation; without messages load the model, or with keep_alive 0 let it go",
        answered(ChatAnswer, lines=ChatAnswer),
        Told,
        body=ChatBody,
        required=("model",),
        example={"model": "demo", "messages": [{"role": "user", "content": "Hello!"}], "stream": False},
    ),
    ("/api/generate", "POST"): Operation(
        "continue a prompt; without one load the model, or with keep_alive 0 let it go",
        answered(GenerateAnswer, lines=GenerateAnswer),
        Told,
        body=GenerateBody,
        required=("model",),
        example={"model": "demo", "prompt": "What is 7 + 5?", "options": {"temperature": 0}, "stream": False},
    ),
    ("/api/show", "POST"): Operation(
        "describe a model", answered(Shown), Told, body=ShowBody, required=("model",), example={"model": "demo"}
    ),
    ("/api/create", "POST"): Operation(
        "build a model from another one, or from files that were sent as blobs",
        answered(Progress, lines=Progress),
        Told,
        body=CreateBody,
        required=("model",),
        example={"model": "mine", "from": "demo", "system": "Always answer in upper case.", "stream": False},
        own=True,
    ),
    (f"{FILE_ROUTE}{{digest}}", "HEAD"): Operation(
        "ask whether a file is here", {**_DONE, 404: Answer("it is not")}, Told, parameters=(_DIGEST,), own=True
    ),
    (f"{FILE_ROUTE}{{digest}}", "POST"): Operation(
        "send a file, which is kept if its SHA-256 is the one in the path",
        {200: Answer("it was here already"), 201: Answer("it is here now")},
        Told,
        body={"type": "string", "format": "binary"},
        body_type="application/octet-stream",
        parameters=(_DIGEST,),
        own=True,
    ),
    ("/api/pull", "POST"): Operation(
        "fetch a model from a registry or a linked device",
        answered(Progress, lines=Progress),
        Told,
        body=TransferBody,
        required=("model",),
        own=True,
    ),
    ("/api/push", "POST"): Operation(
        "put a model into the registry that its name begins with",
        answered(Progress, lines=Progress),
        Told,
        body=TransferBody,
        required=("model",),
        own=True,
    ),
    ("/api/copy", "POST"): Operation(
        "give a model a second name", _DONE, Told, body=CopyBody, required=("source", "destination"), own=True
    ),
    ("/api/delete", "DELETE"): Operation(
        "forget a model with all its versions", _DONE, Told, body=DeleteBody, required=("model",), own=True
    ),
}
