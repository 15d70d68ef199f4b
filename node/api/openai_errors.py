"""Errors in OpenAI's shape, with the status by which its stock clients choose the exception to raise."""

from typing import Final

from starlette.responses import JSONResponse, Response

from node.api.errors import AnswerNotKept, ApiRefused, BodyInvalid
from node.api.retry import retry_after
from node.models.errors import (
    FormatInvalid,
    InputInvalid,
    InputTooLong,
    ModelNotFound,
    ModelResting,
    OptionInvalid,
    PromptTooLong,
    RequestRefused,
    ServerBusy,
    ToolsInvalid,
    WorkerStopped,
)
from protocol.errors import ModelNameInvalid

# What this API calls otherwise than the options of a model.
_FIELDS: Final = {"context": "prompt"}


def openai_error(error: Exception) -> Response:
    """Return `error` as this API says it. A full queue is 429, for which its clients wait and ask again."""
    kind, code, param = "invalid_request_error", None, None
    headers: dict[str, str] = {}
    match error:
        case ModelNotFound():
            status, code, param = 404, "model_not_found", "model"
        case AnswerNotKept():
            status, code, param = error.status, "previous_response_not_found", error.param
        case BodyInvalid():
            status, param = error.status, error.param
        case ApiRefused():
            status = error.status
        case PromptTooLong():
            status, code, param = 400, "context_length_exceeded", "messages"
        case InputTooLong():
            status, code, param = 400, "context_length_exceeded", "input"
        case InputInvalid():
            status, param = 400, "input"
        case OptionInvalid():
            status, param = 400, _FIELDS.get(error.option, error.option)
        case FormatInvalid():
            status, param = 400, "response_format"
        case ToolsInvalid():
            status, param = 400, "tools"
        case RequestRefused():
            status = 400
        case ModelNameInvalid():
            status, param = 400, "model"
        case ModelResting():
            status, kind, code = 503, "server_error", "model_resting"
            headers = retry_after(error)
        case ServerBusy():
            status, kind, code = 429, "rate_limit_error", "rate_limit_exceeded"
            headers = retry_after(error)
        case WorkerStopped():
            status, kind, code = 503, "server_error", "model_stopped"
            headers = retry_after(error)
        case _:
            status, kind = 500, "server_error"
    hint = getattr(error, "hint", "")
    told = {"message": str(error), "type": kind, "param": param, "code": code, **({"hint": hint} if hint else {})}
    return JSONResponse({"error": told}, status_code=status, headers=headers)
