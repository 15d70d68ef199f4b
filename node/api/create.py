"""`/api/create` of the native API: a model is built, signed and logged, from another one or from blobs."""

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final

import trio
from fastapi import APIRouter, Request
from starlette.responses import Response

from node.api.body import parse_body
from node.api.create_request import CreateBody, Wanted, read_wanted
from node.api.errors import ApiRefused, BodyInvalid
from node.api.native import NDJSON, native_error
from node.api.own_programs import IsOwn, is_own_program, require_own
from node.api.streams import Emit, Streamed, Whole, to_json
from node.catalog import Catalog
from node.models.errors import ModelNotFound
from node.threads import Threads
from protocol.build_record import SourceKind
from protocol.digest import Digest, format_oci_digest
from protocol.errors import ModelfileInvalid
from protocol.model_name import parse_model_name
from protocol.quantization import Quantization
from store.bases import Located
from store.build import BuildRequest
from store.errors import (
    BaseUnknown,
    BuildRefused,
    CacheModelUnknown,
    DiskFull,
    HubError,
    RepositoryClosed,
    RepositoryNameInvalid,
    RepositoryUnknown,
    RevisionUnknown,
    SafetensorsInvalid,
    VersionTaken,
)
from store.models import ModelStore
from store.sources import FileAt, Origin

Event = dict[str, Any]
Tell = Callable[[Event], Awaitable[None]]

# Below it lies nothing: names in `from` are models, never directories.
_NOWHERE: Final = Path("/dev/null")
_STATUS: Final[tuple[tuple[tuple[type[Exception], ...], int], ...]] = (
    ((RepositoryUnknown, RevisionUnknown, CacheModelUnknown), 404),
    ((RepositoryNameInvalid, BuildRefused, SafetensorsInvalid, ModelfileInvalid, VersionTaken), 400),
    ((RepositoryClosed,), 403),
    ((HubError,), 502),
    ((DiskFull,), 507),
)


class CreateRoutes:
    """The route, over the catalog; for this account's own programs only."""

    def __init__(self, catalog: Catalog, store: ModelStore, threads: Threads, is_own: IsOwn = is_own_program) -> None:
        self._catalog = catalog
        self._store = store
        self._threads = threads
        self._is_own = is_own

    def router(self) -> APIRouter:
        """Return the route for mounting."""
        router = APIRouter()
        router.add_api_route("/api/create", self.create, methods=["POST"], response_model=None)
        return router

    async def create(self, request: Request) -> Response:
        """Build a model; a client that leaves stops the build, and nothing of it stays."""
        await require_own(request, self._is_own)
        body = parse_body(await request.body(), CreateBody)
        wanted = read_wanted(body)

        async def produce(emit: Emit) -> None:
            async def tell(event: Event) -> None:
                await emit(to_json(event) + b"\n")

            await self._build(wanted, tell)

        async def compute() -> dict[str, Any]:
            await self._build(wanted, _silent)
            return {"status": "success"}

        if body.stream is False:
            return Whole(compute, _error)
        return Streamed(produce, NDJSON, _error, lambda error: error + b"\n")

    async def _build(self, wanted: Wanted, tell: Tell) -> None:
        order = BuildRequest(wanted.recipe, parse_model_name(wanted.name), _NOWHERE, quantization=wanted.quantization)
        digests = [digest for files in wanted.blobs.values() for digest in files.values()]

        async def report(event: Event) -> None:
            await tell(_told(event))

        # What was sent stays for another try when this one fails.
        lease = await self._threads.store(self._store.lease, digests)
        try:
            known = await self._threads.store(self._locate, wanted.blobs)
            if wanted.quantization is not Quantization.NONE:
                await tell({"status": f"quantizing to {wanted.quantization}"})
            model, _ = await self._catalog.create(order, report, known)
        except BaseUnknown as error:
            raise ModelNotFound(error.base) from error
        finally:
            with trio.CancelScope(shield=True):
                await self._threads.store(lease.release)
        for layer in model.layers:
            await tell({"status": f"using layer {format_oci_digest(layer.digest)}"})
        await tell({"status": "writing manifest"})
        await tell({"status": "success"})

    def _locate(self, blobs: Mapping[str, Mapping[str, Digest]]) -> dict[str, Located]:
        """Return where the files of each of the recipe's own names lie; blocking.

        Raises:
            BodyInvalid: one of them was never sent.
        """
        return {name: self._located(name, files) for name, files in blobs.items() if files}

    def _located(self, name: str, files: Mapping[str, Digest]) -> Located:
        for path, digest in files.items():
            if not self._store.blobs.has(digest):
                told = f"{path}: blob {format_oci_digest(digest)} is not here: send it to /api/blobs first"
                raise BodyInvalid(told, name.removeprefix("./"))
        at = {path: FileAt(self._store.layout.blob_path(digest), digest) for path, digest in files.items()}
        return Located(Origin(SourceKind.DIRECTORY, name), at, Path(name))


def _told(event: Event) -> Event:
    """Return a build's event as this API says it: what is being done, and to which file."""
    said = {"status": " ".join(filter(None, (str(event.get("status", "")), str(event.get("source", "")))))}
    return {**said, **{key: event[key] for key in ("total", "completed") if key in event}}


async def _silent(_: Event) -> None:
    return


def _error(error: Exception) -> Response:
    """Return `error` as the native API says it, with the status that fits a build."""
    told = native_error(error)
    if not isinstance(error, ApiRefused):
        told.status_code = next((status for kinds, status in _STATUS if isinstance(error, kinds)), told.status_code)
    return told
