"""A registry that means harm, as a process of its own: the repository's name says which harm. Prints its port.

It has one honest model (repository `honest/model`), and knows what it was shown (`GET /seen`).
"""

import gzip
import hashlib
import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
WEIGHTS = bytes(range(256)) * 4096
CONFIG = json.dumps(
    {
        "descriptor": {"createdAt": "1970-01-01T00:00:00Z", "family": ""},
        "config": {"architecture": "transformer", "format": "safetensors", "paramSize": "", "precision": ""},
        "modelfs": {"type": "layers", "diffIds": []},
    }
).encode()
BOMB = gzip.compress(b" " * (64 << 20), 1)
SEEN: list[dict[str, str]] = []
# Ranges of this blob are answered with the whole of it, and broken off after this many bytes each time.
BROKEN_AFTER = 300_000


def digest(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def layer(content: bytes, path: str, **changed: Any) -> dict[str, Any]:
    return {
        "mediaType": "application/vnd.cncf.model.weight.v1.raw",
        "digest": digest(content),
        "size": len(content),
        "annotations": {"org.cncf.model.filepath": path},
        **changed,
    }


def manifest(layers: list[dict[str, Any]], **changed: Any) -> bytes:
    document = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "artifactType": "application/vnd.cncf.model.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.cncf.model.config.v1+json",
            "digest": digest(CONFIG),
            "size": len(CONFIG),
        },
        "layers": layers,
        **changed,
    }
    return json.dumps(document).encode()


HONEST = manifest([layer(WEIGHTS, "model.bin")])
MANIFESTS = {
    "honest/model": HONEST,
    "says/much": HONEST,
    "no/ranges": HONEST,
    "breaks/off": HONEST,
    "short/body": HONEST,
    "other/bytes": HONEST,
    "other/range": HONEST,
    "leads/loopback": HONEST,
    "leads/http": HONEST,
    "leads/metadata": HONEST,
    "leads/private": HONEST,
    "leads/around": HONEST,
    "slow/blob": HONEST,
    "lies/size": manifest([layer(WEIGHTS, "model.bin", size=len(WEIGHTS) + 1)]),
    "lies/small": manifest([layer(WEIGHTS, "model.bin", size=1000)]),
    "huge/size": manifest([layer(WEIGHTS, "model.bin", size=1 << 49)]),
    "bad/path": manifest([layer(WEIGHTS, "../../.ssh/authorized_keys")]),
    "absolute/path": manifest([layer(WEIGHTS, "/etc/passwd")]),
    "case/paths": manifest([layer(WEIGHTS, "a"), layer(WEIGHTS, "A")]),
    "many/layers": b"",
    "deep/json": b"[" * 1_500_000,
    "tar/layer": manifest([layer(WEIGHTS, "model", mediaType="application/vnd.cncf.model.weight.v1.tar")]),
    "docker/image": json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "layers": []}).encode(),
    "two/models": b"",
    "one/model": b"",
}
small = [layer(b"", f"{number}", digest=f"sha256:{number:064x}") for number in range(100_000)]
MANIFESTS["many/layers"] = manifest(small)[: 4 << 20] if len(manifest(small)) <= 4 << 20 else manifest(small)
SHORT = [{"mediaType": "a", "digest": "b", "size": 0}] * 60_000
MANIFESTS["short/layers"] = manifest(SHORT)


def entry(content: bytes, **more: Any) -> dict[str, Any]:
    return {"mediaType": MANIFEST, "digest": digest(content), "size": len(content), **more}


MODEL_TYPE = "application/vnd.cncf.model.manifest.v1+json"
OTHER = manifest([layer(WEIGHTS, "other.bin")])
INDEXES = {
    "two/models": {"manifests": [entry(HONEST, artifactType=MODEL_TYPE), entry(OTHER, artifactType=MODEL_TYPE)]},
    "one/model": {"manifests": [entry(HONEST, artifactType=MODEL_TYPE), entry(OTHER, artifactType="something/else")]},
}
BLOBS = {digest(WEIGHTS): WEIGHTS, digest(CONFIG): CONFIG, digest(HONEST): HONEST}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        return

    def give(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        SEEN.append({"path": self.path, "authorization": self.headers.get("Authorization", "")})
        try:
            self.answer()
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def answer(self) -> None:
        if self.path == "/seen":
            self.give(200, json.dumps(SEEN).encode())
            return
        parts = self.path.partition("?")[0].split("/")
        repository, kind, key = "/".join(parts[2:4]), parts[4], parts[5]
        if self.path.startswith("/elsewhere"):
            repository, kind, key = "honest/model", "blobs", digest(WEIGHTS)
        harm = getattr(self, f"{kind}_{repository.replace('/', '_')}", None)
        if kind == "referrers":
            getattr(self, f"referrers_{repository.replace('/', '_')}", lambda: self.give(404))()
        elif harm is not None and key != digest(CONFIG):
            harm()
        elif kind == "manifests":
            self.give_manifest(repository, key)
        else:
            self.give_blob(BLOBS.get(key, b""))

    def give_manifest(self, repository: str, key: str) -> None:
        if key.startswith("sha256-"):
            self.give(404)
        elif repository in INDEXES and not key.startswith("sha256:"):
            self.give(200, json.dumps({"schemaVersion": 2, **INDEXES[repository]}).encode(), Content_Type=INDEX)
        else:
            body = HONEST if repository in INDEXES else MANIFESTS[repository]
            self.give(200, body, Content_Type=MANIFEST)

    def give_blob(self, content: bytes) -> None:
        asked = self.headers.get("Range")
        if asked is None:
            self.give(200, content)
            return
        first, last = (int(part) for part in asked.removeprefix("bytes=").split("-"))
        self.give(206, content[first : last + 1], Content_Range=f"bytes {first}-{last}/{len(content)}")

    # One function for each harm: what is asked for, and the repository.

    def manifests_endless_body(self) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.send_header("Content-Type", MANIFEST)
        self.end_headers()
        while True:
            self.wfile.write(b"10000\r\n" + b" " * 0x10000 + b"\r\n")

    def manifests_claims_length(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(1 << 40))
        self.end_headers()

    def manifests_gzip_bomb(self) -> None:
        self.give(200, BOMB, Content_Type=MANIFEST, Content_Encoding="gzip")

    def manifests_endless_headers(self) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\n")
        while True:
            self.wfile.write(b"X-More: " + b"x" * 8000 + b"\r\n")

    def manifests_slow_headers(self) -> None:
        for byte in b"HTTP/1.1 200 OK\r\nX-Slow: " + b"x" * 10_000:
            self.wfile.write(bytes([byte]))
            time.sleep(0.05)

    def manifests_slow_body(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "10000")
        self.end_headers()
        for _ in range(10_000):
            self.wfile.write(b" ")
            time.sleep(0.05)

    def manifests_silent_server(self) -> None:
        time.sleep(60)

    def manifests_always_busy(self) -> None:
        self.give(503, Retry_After="0")

    def manifests_odd_challenge(self) -> None:
        self.give(401, WWW_Authenticate='Bearer realm="' + "x" * 5000)

    def manifests_realm_http(self) -> None:
        self.give(401, WWW_Authenticate='Bearer realm="http://token.example/token",service="x"')

    def manifests_realm_private(self) -> None:
        self.give(401, WWW_Authenticate='Bearer realm="https://10.1.2.3/token",service="x"')

    def manifests_big_token(self) -> None:
        port = self.server.server_address[1]  # type: ignore[index]  # an address of TCP
        self.give(401, WWW_Authenticate=f'Bearer realm="http://127.0.0.1:{port}/v2/tokens/big/manifests/x",service="x"')

    def manifests_tokens_big(self) -> None:
        self.give(200, json.dumps({"token": "a" * 200_000}).encode())

    def manifests_says_error(self) -> None:
        said = {"errors": [{"code": "DENIED", "message": "no \x1b[31m\u202ered" + "x" * 5000}]}
        self.give(418, json.dumps(said).encode())

    def referrers_says_much(self) -> None:
        self.give(200, b"[" * 1_000_000, Content_Type=INDEX)

    def blobs_no_ranges(self) -> None:
        self.give(200, WEIGHTS)

    def blobs_breaks_off(self) -> None:
        first = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
        rest = WEIGHTS[first:]
        self.send_response(206 if first else 200)
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(WEIGHTS) - 1}/{len(WEIGHTS)}")
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        self.wfile.write(rest[:BROKEN_AFTER])
        self.close_connection = True

    def blobs_short_body(self) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.write(b"3\r\nabc\r\n0\r\n\r\n")

    def blobs_other_bytes(self) -> None:
        self.give_blob(bytes(len(WEIGHTS)))

    def blobs_other_range(self) -> None:
        self.give(206, WEIGHTS[:10], Content_Range=f"bytes 0-9/{len(WEIGHTS)}")

    def blobs_leads_loopback(self) -> None:
        self.give(307, Location=f"http://127.0.0.1:{OTHER_PORT}/elsewhere/a/b/c/d/e")

    def blobs_leads_http(self) -> None:
        self.give(307, Location="http://example.com/blob")

    def blobs_leads_metadata(self) -> None:
        self.give(307, Location="https://169.254.169.254/latest/meta-data/")

    def blobs_leads_private(self) -> None:
        self.give(307, Location="https://10.1.2.3/blob")

    def blobs_leads_around(self) -> None:
        self.give(307, Location=self.path)

    def blobs_slow_blob(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(WEIGHTS)))
        self.end_headers()
        for byte in WEIGHTS:
            self.wfile.write(bytes([byte]))
            time.sleep(0.05)


OTHER_PORT = 0


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        return  # clients leave in the middle: that is what is tested


def main() -> None:
    global OTHER_PORT
    servers = [Server(("127.0.0.1", 0), Handler) for _ in range(2)]
    OTHER_PORT = servers[1].server_address[1]
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    print(servers[0].server_address[1], flush=True)
    sys.stdin.read()


main()
