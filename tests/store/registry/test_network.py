"""Connections: TLS as it is on the wire, and addresses that a name must not lead to."""

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpcore
import pytest

from store.errors import StoreError
from store.registry.errors import RedirectRefused, RegistryAbandoned, RegistryStalled
from store.registry.network import Caller, Network
from tests.store.registry import docker_registry


class Left(StoreError):
    """The caller has gone."""


def nothing() -> None:
    return


@contextmanager
def tls_server(tmp_path: Path) -> Iterator[tuple[int, ssl.SSLContext]]:
    """Give the port of a server that answers one request over TLS, and a context that trusts it."""
    docker_registry.make_certificate(tmp_path / "own.pem", "127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "own.pem")
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with suppress(OSError), connection, context.wrap_socket(connection, server_side=True) as secured:
                    secured.recv(65536)
                    secured.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n" + b"x" * 200_000)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    trusting = ssl.create_default_context(cafile=str(tmp_path / "own.pem"))
    yield listener.getsockname()[1], trusting
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()


def test_a_registry_is_read_over_tls(tmp_path: Path) -> None:
    caller = Caller("registry", nothing)
    with tls_server(tmp_path) as (port, trusting):
        backend = Network("127.0.0.1", caller)
        with httpcore.ConnectionPool(ssl_context=trusting, network_backend=backend) as pool:
            assert pool.request("GET", f"https://127.0.0.1:{port}/").content == b"x" * 200_000


def test_a_certificate_that_nobody_vouches_for_is_no_registry(tmp_path: Path) -> None:
    with tls_server(tmp_path) as (port, _):
        backend = Network("127.0.0.1", Caller("registry", nothing))
        refused = pytest.raises(httpcore.ConnectError, match=r"no https there \(self.signed certificate\)")
        with httpcore.ConnectionPool(network_backend=backend) as pool, refused:
            pool.request("GET", f"https://127.0.0.1:{port}/")


def test_a_name_that_moves_into_this_network_is_not_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter(["8.8.8.8", "10.0.0.7"])

    def resolve(host: str, port: int, **_: object) -> list[object]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (next(answers), port))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    backend = Network("registry.example", Caller("registry.example", nothing))
    assert backend._addresses("registry.example", 443) == [(socket.AF_INET, ("8.8.8.8", 443))]
    with pytest.raises(RedirectRefused, match="a private network"):
        backend._addresses("registry.example", 443)


def test_where_nobody_listens_is_said_in_words() -> None:
    backend = Network("127.0.0.1", Caller("registry", nothing))
    with pytest.raises(httpcore.ConnectError, match="Connection refused"):
        backend.connect_tcp("127.0.0.1", 9, timeout=5)


def test_waits_end_when_the_caller_leaves() -> None:
    gone = threading.Event()

    def check() -> None:
        if gone.is_set():
            raise Left

    caller = Caller("registry", check)
    caller.still_wanted()
    gone.set()
    with pytest.raises(Left):
        caller.pause(60)

    found: list[BaseException] = []

    def helper() -> None:
        try:
            caller.pause(60)
        except RegistryAbandoned as error:
            found.append(error)

    thread = threading.Thread(target=helper)
    thread.start()
    caller.leave()
    thread.join(10)
    assert len(found) == 1


def test_what_must_come_within_a_time_is_stalled_after_it() -> None:
    caller = Caller("registry", nothing)
    caller.expect_within(0.0)
    with pytest.raises(RegistryStalled):
        caller.pause(1)
    caller.expect_within(None)
    caller.pause(0)
