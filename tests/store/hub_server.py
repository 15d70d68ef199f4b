"""A simulated model hub: no real hub is reachable where these tests run, so this one plays its part.

It is a process of its own on loopback and answers what `huggingface_hub` 2.x asks of a hub: model info with files and
LFS metadata, the tree, the commits, files by HEAD and GET with ranges, the redirect of large files to another origin
(a "CDN", here another port), Xet headers and tokens, error codes in headers. What it sends was read in the library's
source; the real hub may differ. The library that speaks to it is the real one.

    python hub_server.py CONFIG.json    prints "HUB_URL CDN_URL", then serves until it is killed

CONFIG: {"log": path of a request log, "repos": {"owner/name": {"commits": [{"directory", "date", "refs"}], …}}}.
Faults of a repository: "gated", "private" (the token that opens it), "status" and "error_bytes" (of every answer),
"listing" (merged into the answer), "siblings" (appended), "no_commits", "wrong_bytes", "extra_bytes", "stop_after"
(bytes of a body, then silence), "no_range", "redirect" (where a large file leads), "xet" (path -> {"hash"}) with "cas"
(where the Xet storage is).
"""

import hashlib
import json
import sys
import threading
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

LFS_FROM_BYTES = 64 << 10


class Repository:
    """One repository: commits that are directories, and its faults."""

    def __init__(self, name: str, config: dict[str, Any]) -> None:
        self.name = name
        self.faults = config
        self.commits: dict[str, Commit] = {}
        self.refs: dict[str, str] = {}
        for entry in config["commits"]:
            commit = Commit(name, entry)
            self.commits[commit.id] = commit
            self.refs.update(dict.fromkeys(entry.get("refs", ["main"]), commit.id))

    def find(self, revision: str) -> "Commit | None":
        return self.commits.get(self.refs.get(revision, revision))


class Commit:
    """Files at one time; its id depends on all of them."""

    def __init__(self, name: str, entry: dict[str, Any]) -> None:
        self.directory = Path(entry["directory"])
        self.date = entry.get("date", "2024-05-06T07:08:09.000Z")
        self.paths = sorted(p.relative_to(self.directory).as_posix() for p in self.directory.rglob("*") if p.is_file())
        self.files = {path: File(self.directory / path, path in entry.get("lfs", [])) for path in self.paths}
        state = hashlib.sha1(f"{name} {self.date}".encode())
        for path, file in self.files.items():
            state.update(f"{path} {file.sha256}".encode())
        self.id = state.hexdigest()


class File:
    """A file with the names that git and LFS have for it."""

    def __init__(self, path: Path, lfs: bool) -> None:
        content = path.read_bytes()
        self.path = path
        self.size = len(content)
        self.sha256 = hashlib.sha256(content).hexdigest()
        self.git_oid = hashlib.sha1(b"blob %d\0" % self.size + content).hexdigest()
        self.is_lfs = lfs or path.suffix == ".safetensors" or self.size >= LFS_FROM_BYTES

    @property
    def etag(self) -> str:
        return self.sha256 if self.is_lfs else self.git_oid


class Simulation:
    """Everything that both servers know."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.repos = {name: Repository(name, repo) for name, repo in config["repos"].items()}
        self.log = Path(config["log"])
        self.lock = threading.Lock()
        self.hub_url = ""
        self.cdn_url = ""

    def record(self, **facts: object) -> None:
        with self.lock, self.log.open("a") as log:
            log.write(json.dumps(facts) + "\n")

    def blob(self, sha256: str) -> tuple[File, Repository] | None:
        for repo in self.repos.values():
            for commit in repo.commits.values():
                for file in commit.files.values():
                    if file.sha256 == sha256:
                        return file, repo
        return None


class Handler(BaseHTTPRequestHandler):
    """What the hub and its CDN have in common."""

    protocol_version = "HTTP/1.1"
    simulation: Simulation
    place = "hub"

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing; requests are in the log file."""

    def do_HEAD(self) -> None:
        self.handle_request()

    def do_GET(self) -> None:
        self.handle_request()

    def handle_request(self) -> None:
        self.simulation.record(
            place=self.place,
            method=self.command,
            path=self.path,
            range=self.headers.get("Range"),
            token=self.headers.get("Authorization"),
            agent=self.headers.get("User-Agent"),
        )
        try:
            self.answer(urlsplit(self.path))
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def answer(self, url: Any) -> None:
        raise NotImplementedError

    def send(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def send_json(self, document: object, status: int = HTTPStatus.OK, **headers: str) -> None:
        self.send(status, {"Content-Type": "application/json", **headers}, json.dumps(document).encode())

    def refuse(self, status: int, code: str, message: str) -> None:
        self.send_json({"error": message}, status, **{"X-Error-Code": code, "X-Error-Message": message})

    def send_file(self, file: File, faults: dict[str, Any], headers: dict[str, str]) -> None:
        """Send a file or the rest of it, with what is wrong about it."""
        content = file.path.read_bytes()
        if faults.get("wrong_bytes"):
            content = content[:-1] + bytes([content[-1] ^ 1])
        content += b"\0" * faults.get("extra_bytes", 0)
        start, status = 0, HTTPStatus.OK
        wanted = self.headers.get("Range")
        if wanted and not faults.get("no_range"):
            start, status = int(wanted.removeprefix("bytes=").partition("-")[0]), HTTPStatus.PARTIAL_CONTENT
            headers = {**headers, "Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
        body = content[start:]
        self.send_response(status)
        for key, value in {**headers, "ETag": f'"{file.etag}"', "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.send_body(body, faults)

    def send_body(self, body: bytes, faults: dict[str, Any]) -> None:
        limit = faults.get("stop_after")
        if limit is None or len(body) <= limit:
            self.wfile.write(body)
            return
        self.wfile.write(body[:limit])
        self.wfile.flush()
        self.simulation.record(place=self.place, stopped=limit)
        while True:  # the silence that a killed client leaves behind; the process is ended by the test
            time.sleep(60)


class HubHandler(Handler):
    """The hub itself."""

    def answer(self, url: Any) -> None:
        parts = [unquote(part) for part in url.path.strip("/").split("/")]
        is_api = parts[:2] == ["api", "models"]
        name = "/".join(parts[2:4] if is_api else parts[:2])
        repo = self.simulation.repos[name]
        if is_api:
            self.api(repo, parts[4:], parse_qs(url.query))
        elif parts[2:3] == ["resolve"]:
            self.resolve(repo, parts[3], "/".join(parts[4:]))
        else:
            self.refuse(HTTPStatus.NOT_FOUND, "RepoNotFound", "Repository not found")

    def handle_request(self) -> None:
        parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        name = "/".join(parts[2:4] if parts[:2] == ["api", "models"] else parts[:2])
        repo = self.simulation.repos.get(name)
        if repo is None:
            self.simulation.record(place="hub", method=self.command, path=self.path)
            # Whoever has no token is not told whether a repository is private or not there.
            self.refuse(HTTPStatus.UNAUTHORIZED, "RepoNotFound", "Repository not found")
            return
        faults, token = repo.faults, self.headers.get("Authorization")
        if faults.get("status"):
            self.simulation.record(place="hub", method=self.command, path=self.path)
            self.send(faults["status"], {}, b"x" * faults.get("error_bytes", 0))
        elif faults.get("private") and token != f"Bearer {faults['private']}":
            self.simulation.record(place="hub", method=self.command, path=self.path)
            self.refuse(HTTPStatus.UNAUTHORIZED, "RepoNotFound", "Repository not found")
        elif faults.get("gated") and token != f"Bearer {faults['gated']}" and "resolve" in parts:
            self.simulation.record(place="hub", method=self.command, path=self.path)
            status = HTTPStatus.FORBIDDEN if token else HTTPStatus.UNAUTHORIZED
            self.refuse(status, "GatedRepo", f"Access to model {name} is restricted")
        else:
            super().handle_request()

    def api(self, repo: Repository, rest: list[str], query: dict[str, list[str]]) -> None:
        what, revision = (rest[0], rest[1]) if len(rest) > 1 else ("revision", rest[0] if rest else "main")
        commit = repo.find(revision)
        if commit is None:
            self.refuse(HTTPStatus.NOT_FOUND, "RevisionNotFound", f"Invalid rev id: {revision}")
        elif what == "revision":
            self.model_info(repo, commit, "blobs" in query)
        elif what == "commits":
            self.commits(repo, commit)
        elif what == "tree":
            self.send_json([self.tree_entry(repo, path, file) for path, file in commit.files.items()])
        elif what == "xet-read-token":
            cas = {"X-Xet-Cas-Url": repo.faults["cas"], "X-Xet-Access-Token": "storage"}
            expires = {"X-Xet-Token-Expiration": str(int(time.time()) + 3600)}
            self.send(HTTPStatus.OK, {**cas, **expires}, b"{}")
        else:
            self.refuse(HTTPStatus.NOT_FOUND, "EntryNotFound", "no such thing")

    def model_info(self, repo: Repository, commit: Commit, blobs: bool) -> None:
        siblings = [self.sibling(path, file, blobs) for path, file in commit.files.items()]
        answer = {
            "_id": "0",
            "id": repo.name,
            "modelId": repo.name,
            "sha": commit.id,
            "lastModified": "2026-01-01T00:00:00.000Z",
            "private": False,
            "gated": False,
            "disabled": False,
            "tags": [],
            "downloads": 1,
            "likes": 1,
            "siblings": siblings + repo.faults.get("siblings", []),
            **repo.faults.get("listing", {}),
        }
        self.send_json(answer)

    def sibling(self, path: str, file: File, blobs: bool) -> dict[str, object]:
        if not blobs:
            return {"rfilename": path}
        plain: dict[str, object] = {"rfilename": path, "size": file.size, "blobId": file.git_oid}
        lfs = {"sha256": file.sha256, "size": file.size, "pointerSize": 134}
        return {**plain, "lfs": lfs} if file.is_lfs else plain

    def commits(self, repo: Repository, commit: Commit) -> None:
        if repo.faults.get("no_commits"):
            self.send(HTTPStatus.NOT_FOUND, {})
            return
        entry = {"id": commit.id, "title": "upload", "message": "", "authors": [], "date": commit.date}
        self.send_json([entry])

    def tree_entry(self, repo: Repository, path: str, file: File) -> dict[str, object]:
        entry: dict[str, object] = {"type": "file", "path": path, "size": file.size, "oid": file.git_oid}
        if file.is_lfs:
            entry["lfs"] = {"oid": file.sha256, "size": file.size, "pointerSize": 134}
        if xet := repo.faults.get("xet", {}).get(path):
            entry["xetHash"] = xet["hash"]
        return entry

    def resolve(self, repo: Repository, revision: str, path: str) -> None:
        commit = repo.find(revision)
        file = commit.files.get(path) if commit else None
        if commit is None:
            self.refuse(HTTPStatus.NOT_FOUND, "RevisionNotFound", f"Invalid rev id: {revision}")
            return
        headers = {"X-Repo-Commit": commit.id, "Accept-Ranges": "bytes"}
        if file is None:
            self.refuse(HTTPStatus.NOT_FOUND, "EntryNotFound", "Entry not found")
        elif not file.is_lfs:
            self.send_file(file, repo.faults, headers)
        else:
            headers |= {"X-Linked-Size": str(file.size), "X-Linked-ETag": f'"{file.sha256}"', "ETag": f'"{file.etag}"'}
            if xet := repo.faults.get("xet", {}).get(path):
                own = f"{self.simulation.hub_url}/api/models/{repo.name}/xet-read-token/{commit.id}"
                headers |= {"X-Xet-Hash": xet["hash"], "X-Xet-Refresh-Route": xet.get("refresh", own)}
            cdn = f"{self.simulation.cdn_url}/{file.sha256}"
            self.send(HTTPStatus.FOUND, {**headers, "Location": repo.faults.get("redirect", cdn)})


class CdnHandler(Handler):
    """Where large files really are: another origin, which must never see the token."""

    place = "cdn"

    def answer(self, url: Any) -> None:
        found = self.simulation.blob(url.path.strip("/"))
        if found is None:
            self.send(HTTPStatus.NOT_FOUND, {})
            return
        file, repo = found
        self.send_file(file, repo.faults, {"Accept-Ranges": "bytes"})


def serve(config: dict[str, Any]) -> None:
    """Serve for ever on two free ports; print where."""
    Handler.simulation = simulation = Simulation(config)
    hub = ThreadingHTTPServer(("127.0.0.1", config.get("port", 0)), HubHandler)
    cdn = ThreadingHTTPServer(("127.0.0.1", 0), CdnHandler)
    simulation.hub_url = f"http://127.0.0.1:{hub.server_address[1]}"
    simulation.cdn_url = f"http://127.0.0.1:{cdn.server_address[1]}"
    threading.Thread(target=cdn.serve_forever, daemon=True).start()
    print(simulation.hub_url, simulation.cdn_url, flush=True)
    hub.serve_forever()


if __name__ == "__main__":
    serve(json.loads(Path(sys.argv[1]).read_text()))
