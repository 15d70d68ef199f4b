"""Connections to registries: no address that a stranger must not lead to, no wait that nobody wants any more."""

import os
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Final, TypeVar

import httpcore

from protocol.address_class import AddressClass, address_class, may_lead
from store.registry.errors import RedirectRefused, RegistryAbandoned, RegistryStalled

T = TypeVar("T")

LOOK_UP_S: Final = 0.25


class Caller:
    """Who asked for the work: waits end within a moment when that thread's owner has left, or time is up."""

    def __init__(self, host: str, check: Callable[[], None]) -> None:
        """Take the registry's host for errors, and `check`, which raises in this thread once the work is not wanted."""
        self._host = host
        self._check = check
        self._thread = threading.get_ident()
        self._left = threading.Event()
        self._local = threading.local()

    def leave(self) -> None:
        """Make every wait of the helping threads end."""
        self._left.set()

    def stay(self) -> None:
        """Let new helping threads wait again, once the others have ended."""
        self._left.clear()

    def pause(self, seconds: float) -> None:
        """Wait `seconds`, as long as the work is wanted. Raises as `still_wanted`."""
        until_s = time.monotonic() + seconds
        self.still_wanted()
        while (rest_s := until_s - time.monotonic()) > 0:
            self._left.wait(min(rest_s, LOOK_UP_S))
            self.still_wanted()

    def expect_within(self, seconds: float | None) -> None:
        """Let what this thread waits for come within `seconds` as a whole; None: as long as it flows."""
        self._local.allowed_s = seconds
        self._local.until_s = None if seconds is None else time.monotonic() + seconds

    def still_wanted(self) -> None:
        """Return when the work is wanted.

        Raises:
            RegistryAbandoned: in a helping thread, once `leave` was called. In the caller's own: what `check` raises.
            RegistryStalled: what `expect_within` allowed is over.
        """
        if threading.get_ident() == self._thread:
            self._check()
        elif self._left.is_set():
            raise RegistryAbandoned
        until_s = getattr(self._local, "until_s", None)
        if until_s is not None and time.monotonic() > until_s:
            raise RegistryStalled(self._host, self._local.allowed_s)


class Network(httpcore.NetworkBackend):
    """Connects to the registry, and from there only to where its answers may lead."""

    def __init__(self, host: str, caller: Caller) -> None:
        """Take the registry's host, without its port, as the person named it."""
        self._host = host.strip("[]")
        self._caller = caller
        self._class: AddressClass | None = None

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        """Return a connection to the first address of `host` that answers.

        Raises:
            RedirectRefused: another host than the registry's, at an address of a network that it must not lead to.
            httpcore.ConnectError, httpcore.ConnectTimeout: nobody answers.
        """
        failure: OSError | None = None
        for family, address in self._addresses(host.strip("[]"), port):
            try:
                return _Stream(self._connect(family, address, timeout), self._caller)
            except OSError as error:
                failure = error
        if isinstance(failure, TimeoutError):
            raise httpcore.ConnectTimeout("no answer") from failure
        raise httpcore.ConnectError(failure.strerror if failure and failure.strerror else str(failure)) from failure

    def _addresses(self, host: str, port: int) -> list[tuple[int, Any]]:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise httpcore.ConnectError(f"{host} is not known: {error.strerror}") from error
        addresses: list[tuple[int, Any]] = [(family, address) for family, _, _, _, address in found]
        if host.lower() == self._host and self._class is None:
            self._class = address_class(str(addresses[0][1][0]))
            return addresses
        # The registry was asked before it could lead elsewhere; were it not, only the internet would be allowed. Its
        # own name is looked at as well, because a name can be given another address from one moment to the next.
        own = self._class or AddressClass.GLOBAL
        for _, address in addresses:
            if not may_lead(own, kind := address_class(str(address[0]))):
                raise RedirectRefused(self._host, host, f"an address of {kind}")
        return addresses

    def _connect(self, family: int, address: Any, timeout: float | None) -> socket.socket:
        connection = socket.socket(family, socket.SOCK_STREAM)
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.setblocking(False)
            with suppress(BlockingIOError):
                connection.connect(address)
            _in_slices(self._caller, timeout, lambda wait_s: _is_ready(connection, select.POLLOUT, wait_s) or None)
            if code := connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                raise OSError(code, os.strerror(code))
        except BaseException:
            connection.close()
            raise
        return connection


class _Stream(httpcore.NetworkStream):
    """A connection whose waits are cut into slices, between which the caller may leave."""

    def __init__(self, connection: socket.socket, caller: Caller) -> None:
        self._socket = connection
        self._caller = caller

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        def receive(wait_s: float) -> bytes | None:
            self._socket.settimeout(wait_s)
            with suppress(TimeoutError):
                return self._socket.recv(max_bytes)
            return None

        try:
            return _in_slices(self._caller, timeout, receive)
        except TimeoutError as error:
            raise httpcore.ReadTimeout("nothing was sent") from error
        except OSError as error:
            raise httpcore.ReadError(str(error)) from error

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        rest = memoryview(buffer)

        def send(wait_s: float) -> int | None:
            self._socket.settimeout(wait_s)
            with suppress(TimeoutError):
                return self._socket.send(rest)
            return None

        try:
            while rest:
                rest = rest[_in_slices(self._caller, timeout, send) :]
        except TimeoutError as error:
            raise httpcore.WriteTimeout("nothing was taken") from error
        except OSError as error:
            raise httpcore.WriteError(str(error)) from error

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        try:
            secured = ssl_context.wrap_socket(
                self._socket, server_hostname=server_hostname, do_handshake_on_connect=False
            )  # which has the connection from now on
        except OSError as error:
            self.close()
            raise httpcore.ConnectError(str(error)) from error
        try:
            _in_slices(self._caller, timeout, lambda wait_s: _shake_hands(secured, wait_s))
        except TimeoutError as error:
            secured.close()
            raise httpcore.ConnectTimeout("no TLS") from error
        except OSError as error:
            secured.close()
            reason = str(getattr(error, "verify_message", "") or getattr(error, "reason", "") or error)
            words = reason.replace("_", " ").lower()
            raise httpcore.ConnectError(f"no https there ({words}); http is spoken on this machine only") from error
        except BaseException:
            secured.close()
            raise
        return _Stream(secured, self._caller)

    def close(self) -> None:
        self._socket.close()

    def get_extra_info(self, info: str) -> Any:
        if info == "is_readable":
            return self._socket.fileno() < 0 or _is_ready(self._socket, select.POLLIN, 0)
        return None


def _in_slices(caller: Caller, timeout: float | None, attempt: Callable[[float], T | None]) -> T:
    """Return the first result of `attempt(wait_s)` that is not None, asked again and again until `timeout` seconds."""
    until_s = None if timeout is None else time.monotonic() + timeout
    while True:
        caller.still_wanted()
        if (result := attempt(LOOK_UP_S)) is not None:
            return result
        if until_s is not None and time.monotonic() >= until_s:
            raise TimeoutError


def _is_ready(connection: socket.socket, event: int, wait_s: float) -> bool:
    # Not select(): a node has more than 1,024 descriptors when it serves many.
    poll = select.poll()
    poll.register(connection, event)
    return bool(poll.poll(wait_s * 1000))


def _shake_hands(secured: ssl.SSLSocket, wait_s: float) -> bool | None:
    secured.settimeout(wait_s)
    with suppress(TimeoutError):
        secured.do_handshake()
        return True
    return None
