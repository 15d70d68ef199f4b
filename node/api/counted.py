"""How many requests of which route ended how: counted around everything else, and told by `/metrics`. Pure ASGI."""

from collections import Counter
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

# What no route answered: a path is what the client made up, and must not make metrics.
NO_ROUTE: Final = "none"
# How a request is counted whose client left before it had an answer.
LEFT: Final = 499


class Counted:
    """Counts the requests that pass through, by method, route and status."""

    def __init__(self, app: ASGIApp, counts: Counter[tuple[str, str, int]]) -> None:
        self._app = app
        self._counts = counts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = LEFT

        async def counting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, counting)
        finally:
            route = getattr(scope.get("route"), "path", NO_ROUTE)
            self._counts[_method(scope), route, status] += 1


def _method(scope: Scope) -> str:
    method = str(scope["method"])
    return method if method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS") else "other"
