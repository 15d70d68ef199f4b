"""Named errors of `node.api`: requests that are refused before any model hears of them.

node.errors.NodeError
└── ApiRefused              with the HTTP status that says so
    ├── HostNotAllowed      403
    ├── OriginNotAllowed    403
    ├── CallerNotOwn        403
    ├── ContentTypeRefused  415
    ├── BodyTooLarge        413
    ├── BodyInvalid         400
    ├── AnswerNotKept       400 where an answer is to follow on it, 404 where it is asked for
    ├── RegistryRefused     as it says: 401, 404, 405, 429, 503
    └── ApiDefect           500, our own bug
"""

from collections.abc import Mapping

from node.errors import NodeError


class ApiRefused(NodeError):
    """A request is refused for its form."""

    status: int = 400


class HostNotAllowed(ApiRefused):
    """The Host header names another place than this API: what a rebound name in a browser looks like."""

    status = 403
    hint = "use the address that `tilenode status` shows, such as http://127.0.0.1:PORT"

    def __init__(self, host: str) -> None:
        super().__init__(f"host {host[:80]!r} is not allowed")
        self.host = host


class OriginNotAllowed(ApiRefused):
    """A web page asks; no page may."""

    status = 403
    hint = "web pages may not use this API; programs on this machine may, without an Origin header"

    def __init__(self, origin: str) -> None:
        super().__init__(f"origin {origin[:80]!r} is not allowed")
        self.origin = origin


class CallerNotOwn(ApiRefused):
    """A program of another account of this machine asks for what changes models or uses this person's logins."""

    status = 403
    hint = "run it under the account that the node runs under"

    def __init__(self) -> None:
        super().__init__("only programs of the account that this node runs under may do this")


class ContentTypeRefused(ApiRefused):
    """A body that is not declared as JSON could come from any web page."""

    status = 415

    def __init__(self, found: str, expected: str = "application/json") -> None:
        super().__init__(f"content type {found[:80]!r}: expected {expected}")
        self.found = found
        self.hint = f"send the header Content-Type: {expected}"


class BodyTooLarge(ApiRefused):
    """The body is larger than any request needs to be."""

    status = 413

    def __init__(self, max_bytes: int) -> None:
        super().__init__(f"request body of more than {max_bytes} bytes")
        self.max_bytes = max_bytes


class BodyInvalid(ApiRefused):
    """The body is not what the route expects; `param` names the field where one is to blame."""

    def __init__(self, reason: str, param: str | None = None) -> None:
        super().__init__(reason)
        self.param = param


class AnswerNotKept(ApiRefused):
    """An earlier response is not kept (any more): never kept, deleted, too old, or gone to make room for others."""

    hint = "send the conversation in input; responses are kept for 30 days where store is not false, newest first"

    def __init__(self, name: str, param: str | None = None) -> None:
        super().__init__(f"response {name[:80]!r} not found")
        self.status = 400 if param else 404
        self.name = name
        self.param = param


class RegistryRefused(ApiRefused):
    """A request to the registry has no answer; `code` is one of the OCI distribution specification's words."""

    def __init__(self, status: int, code: str, reason: str, detail: Mapping[str, str] | None = None) -> None:
        super().__init__(reason)
        self.status = status
        self.code = code
        self.detail = dict(detail or {})


class ApiDefect(ApiRefused):
    """Our own bug: the log has its type and place, the client learns nothing of it."""

    status = 500

    def __init__(self) -> None:
        super().__init__("internal error")
