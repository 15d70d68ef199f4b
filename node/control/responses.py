"""Answers of the control API: facts as JSON, longer work as a stream of JSON lines, errors with hint and exit code."""

import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import trio
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.types import Message, Receive, Scope, Send

from identity.errors import IdentityError
from node.cli.exit_codes import ExitCode
from node.cli.render import describe_error
from node.errors import ControlRequestInvalid, NodeError, NodeStopping
from node.failures import first_cause
from protocol.errors import ProtocolError
from store.errors import StoreError

SCHEMA: Final = 1
NAMED_ERRORS: Final = (NodeError, StoreError, ProtocolError, IdentityError, OSError)
_log = logging.getLogger("tilenode.control")

Event = Mapping[str, object]
Emit = Callable[[Event], Awaitable[None]]
Produce = Callable[[Emit], Awaitable[None]]

_STATUS_OF: Final = {
    ExitCode.INTERNAL: 500,
    ExitCode.USAGE: 400,
    ExitCode.MODEL_NOT_FOUND: 404,
    ExitCode.CHAT_NOT_FOUND: 404,
    ExitCode.PEER_UNKNOWN: 404,
    ExitCode.NOT_ALLOWED: 403,
    ExitCode.BUSY: 503,
    ExitCode.DISK_FULL: 507,
}


def facts(**fields: object) -> JSONResponse:
    """Return an answer that carries `fields` and its schema number."""
    return JSONResponse({"schema": SCHEMA, **fields})


def error_response(error: Exception) -> JSONResponse:
    """Return the answer for a failure before anything was sent."""
    told = describe_error(error)
    status = _STATUS_OF.get(ExitCode(int(str(told["exit_code"]))), 409)
    return JSONResponse({"schema": SCHEMA, "error": told}, status_code=status)


def handle_errors(app: FastAPI) -> None:
    """Answer the named errors of `app`'s handlers with kind, message, hint and exit code; any other is a defect."""

    async def named(_: Request, error: Exception) -> Response:
        _log.info("request_failed", extra={"error": type(error).__name__})
        return error_response(error)

    async def invalid(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        return error_response(ControlRequestInvalid(f"{'.'.join(map(str, first['loc']))}: {first['msg']}"))

    async def defect(_: Request, error: Exception) -> Response:
        _log.error("request_crashed", exc_info=error)
        return error_response(error)

    for kind in NAMED_ERRORS:
        app.add_exception_handler(kind, named)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(Exception, defect)


class EventStream(Response):
    """A response of JSON lines, produced while the caller reads; when the caller leaves, the work is cancelled.

    An error before the first event is an ordinary error answer; a later one is the last line, `{"error": …}`.
    """

    media_type = "application/x-ndjson"

    def __init__(self, produce: Produce, stopping: trio.Event | None = None) -> None:
        """`stopping` ends the work when the node stops, which the caller is told; None where it ends by itself."""
        super().__init__()
        self._produce = produce
        self._stopping = stopping
        self._begun = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the producer beside a watch for the caller's departure (ASGI)."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_at_departure, receive, nursery.cancel_scope)
            await self._run(scope, receive, send)
            nursery.cancel_scope.cancel()

    async def _run(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def emit(event: Event) -> None:
            await self._begin(send)
            line = json.dumps({"schema": SCHEMA, **event}, ensure_ascii=False).encode() + b"\n"
            await send({"type": "http.response.body", "body": line, "more_body": True})

        try:
            await self._named(emit)
        except NAMED_ERRORS as error:
            _log.info("stream_failed", extra={"error": type(error).__name__})
            if not self._begun:
                await error_response(error)(scope, receive, send)
                return
            await emit({"error": describe_error(error)})
        await self._begin(send)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _named(self, emit: Emit) -> None:
        """Run the producer until the node stops; a named error that a nursery wrapped comes out plain."""
        try:
            async with trio.open_nursery() as nursery:
                if self._stopping is not None:
                    nursery.start_soon(_cancel_at_stop, self._stopping, nursery.cancel_scope)
                await self._produce(emit)
                nursery.cancel_scope.cancel()
                return
        except BaseExceptionGroup as group:
            cause = first_cause(group)
            if isinstance(cause, NAMED_ERRORS):
                raise cause from group
            raise
        raise NodeStopping

    async def _begin(self, send: Send) -> None:
        if not self._begun:
            self._begun = True
            headers = [(b"content-type", b"application/x-ndjson"), (b"cache-control", b"no-store")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})


async def _cancel_at_stop(stopping: trio.Event, scope: trio.CancelScope) -> None:
    await stopping.wait()
    scope.cancel()


async def _cancel_at_departure(receive: Receive, scope: trio.CancelScope) -> None:
    message: Message = await receive()
    while message["type"] != "http.disconnect":
        message = await receive()
    scope.cancel()
