"""The store as an OCI registry, pull side only: manifests, blobs, tags, referrers (specs/0024).

One ASGI application for both ways in: the HTTP API on loopback, when that is switched on, and the streams of linked
peers. It reads no request body and changes nothing.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Final
from urllib.parse import parse_qs, quote

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from node.api.errors import RegistryRefused
from node.api.registry_answers import answer_error, answer_json, answer_manifest
from node.api.registry_blob import BlobAnswer, Conditions, Downloads
from node.api.registry_shelf import RegistryShelf, Repository
from node.threads import Threads
from protocol.digest import Digest, format_oci_digest
from protocol.errors import ProtocolError
from protocol.referrer import INDEX_MEDIA_TYPE, encode_index
from protocol.registry_route import (
    PREFIX,
    Blob,
    Catalog,
    ManifestByDigest,
    ManifestByTag,
    Page,
    Referrers,
    Root,
    Tags,
    is_registry_path,
    parse_page,
    parse_route,
)
from store.errors import StoreError
from store.models import ModelStore

MAX_QUERY_CHARS: Final = 2048
_READS: Final = ("GET", "HEAD")

_log = logging.getLogger("tilenode.registry")


class RegistryApp:
    """Answers `/v2/…`; every other path, every other method and whatever is not offered is refused in OCI's words."""

    def __init__(self, store: ModelStore, shelf: RegistryShelf, threads: Threads) -> None:
        self._store: Final = store
        self._shelf = shelf
        self._threads = threads
        self._downloads = Downloads(store, threads)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request (ASGI)."""
        try:
            response = await self._respond(scope)
        except (StoreError, ProtocolError, RegistryRefused) as error:
            response = answer_error(error)
            _log.info("refused", extra={"status": response.status_code, "error": type(error).__name__})
        await response(scope, receive, send)

    async def _respond(self, scope: Scope) -> Response:
        if scope["method"] not in _READS:
            raise RegistryRefused(405, "UNSUPPORTED", "this registry can only be read")
        request = Request(scope)
        route = parse_route(str(scope["path"]))
        match route:
            case Root():
                return answer_json({})
            case Catalog():
                names = await self._threads.store(self._shelf.repositories)
                return _listing({}, "repositories", names, request.page(), f"{PREFIX}/_catalog")
            case Tags(name):
                tags = sorted((await self._repository(name)).tags)
                return _listing({"name": name}, "tags", tags, request.page(), f"{PREFIX}/{name}/tags/list")
            case _:
                return await self._respond_content(route, await self._repository(route.repository), request)

    async def _respond_content(
        self,
        route: ManifestByTag | ManifestByDigest | Blob | Referrers,
        repository: Repository,
        request: "Request",
    ) -> Response:
        match route:
            case ManifestByTag(_, tag):
                digest = repository.tags.get(tag)
                if digest is None:
                    raise RegistryRefused(404, "MANIFEST_UNKNOWN", "no such tag", {"tag": tag})
                return await self._manifest(repository, digest, request)
            case ManifestByDigest(_, digest):
                return await self._manifest(repository, digest, request)
            case Referrers(_, digest):
                return await self._referrers(repository, digest, request.query("artifactType"))
            case Blob(_, digest):
                return await self._blob(repository, digest, request)

    async def _repository(self, name: str) -> Repository:
        found = await self._threads.store(self._shelf.repository, name)
        if found is None:
            raise RegistryRefused(404, "NAME_UNKNOWN", "nothing is offered under this name", {"name": name})
        return found

    async def _manifest(self, repository: Repository, digest: Digest, request: "Request") -> Response:
        content = await self._threads.store(self._shelf.manifest, repository, digest)
        if content is None:
            raise RegistryRefused(404, "MANIFEST_UNKNOWN", "no such manifest", {"digest": format_oci_digest(digest)})
        return answer_manifest(digest, content, request.header("if-none-match"))

    async def _referrers(self, repository: Repository, digest: Digest, artifact_type: str | None) -> Response:
        found = await self._threads.store(self._shelf.referrers, repository, digest)
        chosen = [part for part in found if artifact_type in (None, part.artifact_type)]
        headers = {"oci-filters-applied": "artifactType"} if artifact_type is not None else {}
        return answer_json(encode_index(chosen), headers, media_type=INDEX_MEDIA_TYPE)

    async def _blob(self, repository: Repository, digest: Digest, request: "Request") -> Response:
        found = await self._threads.store(self._shelf.blob, repository, digest)
        if found is None:
            raise RegistryRefused(404, "BLOB_UNKNOWN", "no such blob", {"digest": format_oci_digest(digest)})
        return BlobAnswer(self._downloads, digest, found, request.conditions())


class RegistryDoor:
    """Middleware that lets `/v2/…` through to the registry while it is switched on; else there is no such route."""

    def __init__(self, app: ASGIApp, registry: ASGIApp, is_open: Callable[[], bool]) -> None:
        self._app = app
        self._registry = registry
        self._is_open = is_open

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request (ASGI)."""
        if scope["type"] == "http" and is_registry_path(str(scope["path"])) and self._is_open():
            await self._registry(scope, receive, send)
        else:
            await self._app(scope, receive, send)


class Request:
    """The few headers and parameters of a request that mean something here."""

    def __init__(self, scope: Scope) -> None:
        self.method: Final = str(scope["method"])
        self._headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        query = bytes(scope["query_string"])[:MAX_QUERY_CHARS].decode("latin-1")
        self._query = parse_qs(query, keep_blank_values=True)

    def header(self, name: str) -> str | None:
        """Return a header, None where it is not there."""
        return self._headers.get(name)

    def query(self, name: str) -> str | None:
        """Return the first value of a parameter, None where it is not there."""
        return self._query.get(name, [None])[0]

    def page(self) -> Page:
        """Return the page of a listing. Raises as `parse_page`."""
        return parse_page(self.query("n"), self.query("last"))

    def conditions(self) -> Conditions:
        """Return what decides how much of a blob is sent."""
        return Conditions(self.method, self.header("range"), self.header("if-range"), self.header("if-none-match"))


def _listing(head: dict[str, str], key: str, names: Sequence[str], page: Page, path: str) -> Response:
    """Answer a page of `names`, which are in order, with a link to the next one where there is more."""
    after = [name for name in names if name > page.last]
    shown = after[: page.count]
    headers = {}
    if shown and len(after) > len(shown):
        headers["link"] = f'<{path}?n={page.count}&last={quote(shown[-1], safe="")}>; rel="next"'
    return answer_json({**head, key: shown}, headers)
