"""Connections that break off in the middle, in front of a real registry: what was carried over is not carried again."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from protocol.digest import digest_of
from protocol.model_name import parse_model_name
from protocol.registry import parse_reference
from store.models import ModelStore, StoredModel
from store.registry import upload
from store.registry.client import RegistryClient
from store.registry.errors import AnswerMismatch
from store.registry.layers import Event
from store.registry.pull import pull_model
from store.registry.push import push_model
from store.registry.session import Pace
from store.registry.upload import Content, Way, push_blob
from tests.store.registry.docker_registry import RunningRegistry

QUICK = Pace(first_pause_s=0.01)
MIB = 1 << 20


class Cutter:
    """A way to a registry on which the first `cuts` connections end after `after` bytes in one direction."""

    def __init__(self, target: str, cuts: int, after: int, upwards: bool) -> None:
        host, _, port = target.partition(":")
        self._target = (host, int(port))
        self.cuts = cuts
        self._after = after
        self._upwards = upwards
        self.carried_up = self.carried_down = 0
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()
        for connection in list(self._open):
            connection.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._target)
                self._open |= {client, server}
                for source, sink, up in ((client, server, True), (server, client, False)):
                    threading.Thread(target=self._carry, args=(source, sink, up), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket, up: bool) -> None:
        carried = 0
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
                carried += len(data)
                with self._lock:
                    self.carried_up += len(data) if up else 0
                    self.carried_down += 0 if up else len(data)
                    cut = up is self._upwards and self.cuts > 0 and carried > self._after
                    self.cuts -= cut
                if cut:
                    break
        for connection in (source, sink):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


@contextmanager
def cutting(registry: RunningRegistry, cuts: int, after: int, *, upwards: bool) -> Iterator[Cutter]:
    cutter = Cutter(registry.host, cuts, after, upwards)
    try:
        yield cutter
    finally:
        cutter.close()


def silent(_: Event) -> None:
    return


def test_an_upload_to_docker_registry_comes_through_lost_lines(
    registry: RunningRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    # This registry gives an upload up as soon as it is asked about one that broke off in the middle of a piece.
    monkeypatch.setattr(upload, "PIECE_BYTES", MIB)
    content = bytes(range(256)) * (8 * MIB // 256)
    with cutting(registry, 3, 2 * MIB + MIB // 2, upwards=True) as cutter:
        with RegistryClient(parse_reference(f"{cutter.host}/ann/blob"), pace=QUICK) as client:
            way = push_blob(client, Content(digest_of(content), len(content), content))
            assert way is Way.SENT
            assert client.read_blob(digest_of(content), len(content)) == content
        assert cutter.cuts == 0


class Uploads(BaseHTTPRequestHandler):
    """A registry that keeps what of an upload it has, as the specification says, and breaks off three times."""

    protocol_version = "HTTP/1.1"
    kept = bytearray()
    received = 0
    breaks = 3
    done = b""

    def log_message(self, format: str, *args: Any) -> None:
        return

    def give(self, status: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_HEAD(self) -> None:
        self.give(404)

    def do_POST(self) -> None:
        self.kept.clear()
        self.give(202, Location="/v2/ann/blob/blobs/uploads/one?state=0")

    def do_GET(self) -> None:
        self.give(204, Location=f"/v2/ann/blob/blobs/uploads/one?state={len(self.kept)}", Range=self.reached())

    def do_PATCH(self) -> None:
        first, last = (int(part) for part in self.headers["Content-Range"].split("-"))
        if first != len(self.kept):
            self.rfile.read(last + 1 - first)
            self.give(416, Location=self.path, Range=self.reached())
            return
        wanted = (last + 1 - first) // 2 if type(self).breaks and first else last + 1 - first
        self.kept += self.rfile.read(wanted)
        type(self).received += wanted
        if len(self.kept) <= last:
            type(self).breaks -= 1
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return
        self.give(202, Location=f"/v2/ann/blob/blobs/uploads/one?state={len(self.kept)}", Range=self.reached())

    def do_PUT(self) -> None:
        type(self).done = bytes(self.kept)
        self.give(201)

    def reached(self) -> str:
        return f"0-{max(len(self.kept) - 1, 0)}"


def test_an_upload_goes_on_where_the_line_was_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload, "PIECE_BYTES", MIB)
    content = bytes(range(256)) * (8 * MIB // 256)
    reached: list[int] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Uploads)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        with RegistryClient(parse_reference(f"127.0.0.1:{server.server_address[1]}/ann/blob"), pace=QUICK) as client:
            push_blob(client, Content(digest_of(content), len(content), content), progress=reached.append)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert Uploads.done == content
    # No byte that had arrived was sent again.
    assert (Uploads.received, Uploads.breaks, reached[-1]) == (len(content), 0, len(content))


class Forgetful(Uploads):
    """A registry that takes every piece and says each time that it has none."""

    def do_PATCH(self) -> None:
        first, last = (int(part) for part in self.headers["Content-Range"].split("-"))
        self.rfile.read(last + 1 - first)
        type(self).received += last + 1 - first
        self.give(202, Location=self.path, Range="0-0")


def test_an_upload_that_never_gets_on_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload, "PIECE_BYTES", MIB)
    content = bytes(4 * MIB)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Forgetful)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()

    def enough() -> None:
        assert Forgetful.received < 40 * MIB, "it would go on for ever"

    try:
        reference = parse_reference(f"127.0.0.1:{server.server_address[1]}/ann/blob")
        with RegistryClient(reference, pace=QUICK, check=enough) as client, pytest.raises(AnswerMismatch):
            push_blob(client, Content(digest_of(content), len(content), content))
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_an_upload_that_the_registry_forgets_begins_anew(
    registry: RunningRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload, "PIECE_BYTES", MIB)
    content = bytes(range(255)) * 20_000
    forgotten: list[int] = []

    def forget(reached: int) -> None:
        if reached >= 2 * MIB and not forgotten:
            forgotten.append(reached)
            for data in registry.root.glob("docker/registry/v2/repositories/ann/blob/_uploads/*/*"):
                data.unlink(missing_ok=True) if data.is_file() else None

    with RegistryClient(parse_reference(f"{registry.host}/ann/blob"), pace=QUICK) as client:
        assert push_blob(client, Content(digest_of(content), len(content), content), progress=forget) is Way.SENT
        assert client.read_blob(digest_of(content), len(content)) == content
    assert forgotten


@pytest.mark.parametrize("mapped", [True, False])
def test_a_pull_goes_on_where_the_line_was_lost(
    registry: RunningRegistry, here: ModelStore, there: ModelStore, model: StoredModel, mapped: bool
) -> None:
    push_model(here, model, parse_reference(f"{registry.host}/ann/demo"), report=silent)
    if not mapped:
        for layer in model.layers:
            if layer.chunk_map is not None:
                registry.remove_blob(layer.chunk_map.digest)
    name = parse_model_name("demo")
    with cutting(registry, 3, MIB, upwards=False) as cutter:
        done = pull_model(there, parse_reference(f"{cutter.host}/ann/demo"), name, report=silent, pace=QUICK)
        assert cutter.cuts == 0
        assert cutter.carried_down < model.size_bytes + 4 * (128 << 10) + 200_000
    assert done.manifest == model.digest
    there.verify(name)
