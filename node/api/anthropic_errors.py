"""Errors in Anthropic's shape, with the status by which its stock clients choose the exception to raise."""

from typing import Final

from starlette.responses import JSONResponse, Response

from node.api.errors import ApiRefused
from node.api.retry import retry_after
from node.models.errors import ModelNotFound, RequestRefused, ServerBusy, WorkerStopped
from protocol.errors import ModelNameInvalid

OVERLOADED: Final = 529
_KINDS: Final = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    500: "api_error",
    529: "overloaded_error",
}


def anthropic_error(error: Exception) -> Response:
    """Return `error` as this API says it. A full queue is 529, for which its clients wait and ask again."""
    headers: dict[str, str] = {}
    match error:
        case ModelNotFound():
            status = 404
        case ApiRefused():
            status = error.status
        case RequestRefused() | ModelNameInvalid():
            status = 400
        case ServerBusy() | WorkerStopped():
            status = OVERLOADED
            headers = retry_after(error)
        case _:
            status = 500
    return anthropic_words(str(error), status, getattr(error, "hint", ""), headers)


def anthropic_words(message: str, status: int, hint: str = "", headers: dict[str, str] | None = None) -> Response:
    """Return an error of this API with `message`."""
    told = {"type": _KINDS.get(status, "invalid_request_error"), "message": message, **({"hint": hint} if hint else {})}
    return JSONResponse({"type": "error", "error": told, "request_id": None}, status_code=status, headers=headers)
