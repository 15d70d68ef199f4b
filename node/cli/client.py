"""The control API as a caller sees it: requests and event streams over the node's Unix socket."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

from node.cli.exit_codes import ExitCode
from node.config import Home, require_own_directory
from node.errors import ControlFailed, ControlRequestInvalid, NodeNotRunning

if TYPE_CHECKING:
    # It takes a sixth of a second to import, in which a node that is not there yet can start already.
    import httpx

CONNECT_TIMEOUT_S: Final = 5.0
MAX_EVENT_BYTES: Final = 4 * 1024 * 1024
Facts = dict[str, Any]


class ControlClient:
    """One connection's worth of requests to the node of one home.

    Answers take as long as the work takes: a verify of a large model is minutes. A node that dies closes the socket.
    """

    def __init__(self, home: Home) -> None:
        import httpx

        require_own_directory(home.control_socket.parent)  # what is said here is for this user's own node alone
        self._home = home
        transport = httpx.HTTPTransport(uds=str(home.control_socket))
        timeout = httpx.Timeout(None, connect=CONNECT_TIMEOUT_S)
        self._http = httpx.Client(transport=transport, base_url="http://localhost", timeout=timeout, trust_env=False)

    def __enter__(self) -> "ControlClient":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def get(self, path: str, **parameters: str) -> Facts:
        """Return the facts at `path`.

        Raises:
            NodeNotRunning: nobody answers on the socket.
            ControlFailed: the node answered with an error.
        """
        return self._request("GET", path, parameters, None)

    def post(self, path: str, **body: object) -> Facts:
        """Return what came of the action at `path`. Raises as `get`."""
        return self._request("POST", path, {}, body)

    def _request(self, method: str, path: str, parameters: Mapping[str, str], body: object) -> Facts:
        with self._errors_named():
            response = self._http.request(method, path, params=parameters, json=body)
        facts = _object(response.content)
        _raise_error(facts)
        return facts

    @contextmanager
    def stream(self, method: str, path: str, **body: object) -> Iterator[Iterator[Facts]]:
        """Give the events of `path` as they come; leaving the block ends the work on the node. Raises as `get`."""
        content = None if method == "GET" else body
        with self._errors_named(), self._http.stream(method, path, json=content) as response:
            yield self._events(response)

    def _events(self, response: "httpx.Response") -> Iterator[Facts]:
        for line in response.iter_lines():
            if line.strip():
                event = _object(line.encode())
                _raise_error(event)
                yield event

    @contextmanager
    def _errors_named(self) -> Iterator[None]:
        import httpx

        try:
            yield
        except httpx.ConnectError as error:
            raise NodeNotRunning(self._home.root) from error
        except httpx.TransportError as error:
            raise ControlFailed(
                "NodeGone",
                "the node ended while it worked on this",
                "see how it is: tilenode status",
                ExitCode.NOT_RUNNING,
            ) from error


def _object(content: bytes) -> Facts:
    try:
        facts = json.loads(content)
    except ValueError as error:
        raise ControlRequestInvalid("the answer is not JSON") from error
    if not isinstance(facts, dict):
        raise ControlRequestInvalid("the answer is not an object")
    return facts


def _raise_error(facts: Facts) -> None:
    error = facts.get("error")
    if isinstance(error, dict):
        raise ControlFailed(
            str(error.get("kind", "")),
            str(error.get("message", "")),
            str(error.get("hint", "")),
            int(error.get("exit_code", ExitCode.INTERNAL)),
        )
