"""A real registry for tests: Debian's docker-registry as a process on loopback, open, by login or by token."""

import base64
import json
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO, Any, Final
from urllib.parse import parse_qs, urlsplit

from protocol.digest import Digest

PROGRAM: Final = "docker-registry"
NEEDED: Final = f"apt install {PROGRAM}"
START_S: Final = 20.0
USER: Final = "ann"
WORD: Final = "correct horse"
# bcrypt of WORD, cost 4: what `htpasswd -B` would write.
_LOGIN_LINE: Final = f"{USER}:$2y$04$3.l9dxDKh3BH1c7v99jC1ek5cjG0YFuycVMC9d00gu7kmyr5oAhhm\n"
_LISTENING: Final = re.compile(r"listening on (127\.0\.0\.1:[0-9]+)")
_ISSUER: Final = "tests"
_SERVICE: Final = "registry"


@dataclass
class RunningRegistry:
    """A docker-registry that answers at `host`; `requests` are the request lines that it has logged so far."""

    host: str
    root: Path
    process: subprocess.Popen[str]
    lines: list[str]

    def remove_blob(self, digest: Digest) -> None:
        """Let every repository lack a blob, as when a program copied a model without it."""
        for link in self.root.glob(f"docker/registry/v2/repositories/**/_layers/sha256/{digest}/link"):
            link.unlink()

    def forget(self) -> None:
        """Forget what was logged so far."""
        self.lines.clear()

    def requests(self, method: str, part: str) -> list[str]:
        """Return the logged requests with this method whose path holds `part`."""
        return [line for line in self.lines if f'"{method} ' in line and part in line]


def is_installed() -> bool:
    """Return whether docker-registry is on this machine."""
    return shutil.which(PROGRAM) is not None


@contextmanager
def open_registry(directory: Path) -> Iterator[RunningRegistry]:
    """Give a registry that lets everybody do everything, with its storage in `directory`."""
    with _running(directory, {}) as registry:
        yield registry


@contextmanager
def login_registry(directory: Path) -> Iterator[RunningRegistry]:
    """Give a registry that wants the login USER, WORD for everything (Basic)."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "htpasswd").write_text(_LOGIN_LINE)
    with _running(directory, {"auth": {"htpasswd": {"realm": "tests", "path": str(directory / "htpasswd")}}}) as found:
        yield found


@contextmanager
def token_registry(directory: Path, *, life_s: int = 300) -> Iterator[tuple[RunningRegistry, "TokenServer"]]:
    """Give a registry that wants tokens, and the token server that signs them for USER, WORD; others may only pull."""
    directory.mkdir(parents=True, exist_ok=True)
    with TokenServer.running(directory, life_s) as tokens:
        token = {"realm": tokens.url, "service": _SERVICE, "issuer": _ISSUER, "rootcertbundle": str(tokens.certificate)}
        with _running(directory, {"auth": {"token": token}}) as registry:
            yield registry, tokens


@contextmanager
def _running(directory: Path, more: dict[str, object]) -> Iterator[RunningRegistry]:
    directory.mkdir(parents=True, exist_ok=True)
    config = directory / "config.yml"
    document = {
        "version": "0.1",
        "log": {"level": "info", "accesslog": {"disabled": False}},
        "storage": {"filesystem": {"rootdirectory": str(directory / "storage")}, "delete": {"enabled": True}},
        "http": {"addr": "127.0.0.1:0", "secret": "of tests"},
        **more,
    }
    config.write_text(json.dumps(document))  # JSON is YAML
    process = subprocess.Popen(
        [PROGRAM, "serve", str(config)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    lines: list[str] = []
    known = threading.Event()
    assert process.stdout is not None
    reader = threading.Thread(target=_read, args=(process.stdout, lines, known))
    reader.start()
    try:
        assert known.wait(START_S), "docker-registry does not listen"
        host = next(found[1] for line in lines if (found := _LISTENING.search(line)))
        yield RunningRegistry(host, directory / "storage", process, lines)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(START_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        reader.join()
        process.stdout.close()


def _read(stream: IO[str], lines: list[str], known: threading.Event) -> None:
    for line in stream:
        lines.append(line)
        if _LISTENING.search(line):
            known.set()


class TokenServer:
    """A token server as the distribution project describes it: signs what the login may do; counts what it was asked.

    Longer words than these are not needed: `asked` holds the scopes, `seen_logins` the Authorization headers.
    """

    def __init__(self, directory: Path, life_s: int) -> None:
        """Make the key and its certificate."""
        self.certificate = directory / "token.pem"
        self.asked: list[list[str]] = []
        self.seen_logins: list[str | None] = []
        self._life_s = life_s
        self._key, self._chain = make_certificate(self.certificate)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())

    @classmethod
    @contextmanager
    def running(cls, directory: Path, life_s: int) -> Iterator["TokenServer"]:
        """Give a server that answers until the block's end."""
        server = cls(directory, life_s)
        thread = threading.Thread(target=server._server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server._server.shutdown()
            thread.join()
            server._server.server_close()

    @property
    def url(self) -> str:
        """Where tokens are asked for."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/token"

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        answer = self._answer

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = answer(self.path, self.headers.get("Authorization"))
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                return

        return Handler

    def _answer(self, path: str, login: str | None) -> bytes:
        scopes = parse_qs(urlsplit(path).query).get("scope", [])
        self.asked.append(scopes)
        self.seen_logins.append(login)
        known = login == "Basic " + base64.b64encode(f"{USER}:{WORD}".encode()).decode()
        access = [_grant(scope, known) for scope in scopes]
        return json.dumps({"token": self._sign(access), "expires_in": self._life_s}).encode()

    def _sign(self, access: list[dict[str, object]]) -> str:
        from cryptography.hazmat.primitives.asymmetric import ec, utils
        from cryptography.hazmat.primitives.hashes import SHA256

        now_s = int(time.time())
        claims = {"iss": _ISSUER, "sub": USER, "aud": _SERVICE, "iat": now_s, "nbf": now_s - 60, "jti": str(now_s)}
        claims |= {"exp": now_s + self._life_s}
        header = {"typ": "JWT", "alg": "ES256", "x5c": [self._chain]}
        signed = b".".join(_base64url(json.dumps(part).encode()) for part in (header, {**claims, "access": access}))
        first, second = utils.decode_dss_signature(self._key.sign(signed, ec.ECDSA(SHA256())))
        signature = first.to_bytes(32, "big") + second.to_bytes(32, "big")
        return b".".join([signed, _base64url(signature)]).decode()


def _grant(scope: str, known: bool) -> dict[str, object]:
    kind, name, actions = scope.split(":")
    allowed = [action for action in actions.split(",") if known or action == "pull"]
    return {"type": kind, "name": name, "actions": allowed}


def _base64url(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def make_certificate(path: Path, address: str = "127.0.0.1") -> tuple[Any, str]:
    """Return a fresh key and its certificate for `address` in base64; `path` gets the certificate and then the key."""
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tests")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]), critical=False)
        .sign(key, SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(certificate.public_bytes(Encoding.PEM) + private)
    return key, base64.b64encode(certificate.public_bytes(Encoding.DER)).decode()
