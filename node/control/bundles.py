"""Control routes for bundles: export, a look at one, import."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from identity.did import DeviceId
from node.control.models import Name
from node.control.responses import Emit, EventStream, facts
from node.errors import PeerUnreachable, RemoteRefused, StreamClosed
from node.health import device_names
from node.parts import Node
from protocol.checkpoint import open_checkpoint
from protocol.digest import Digest
from protocol.errors import ModelNameInvalid
from protocol.model_name import ModelName, format_model_name, parse_model_name
from store.bundle import ExportReport, export_bundle
from store.bundle_import import Bundle, CarriedModel
from store.bundle_take import take_bundle
from store.carried_logs import CarriedLogs, carried_proof
from store.errors import BundleOlder, BundleTakesName, BundleUntrusted, LogUnproven, ModelUnknown

Directory = Annotated[str, StringConstraints(min_length=1, max_length=4096, pattern="^/")]
Event = Mapping[str, object]


class ExportBody(BaseModel):
    """Models, the absolute path of the directory, and the model or version that the other side has already."""

    model_config = ConfigDict(extra="forbid")
    names: Annotated[list[Name], Field(min_length=1, max_length=256)]
    directory: Directory
    since: Name | None = None


class LookBody(BaseModel):
    """The absolute path of a bundle."""

    model_config = ConfigDict(extra="forbid")
    directory: Directory


class ImportBody(BaseModel):
    """A bundle, and what the person accepts: signers that are not known here, names that are moved back or away.

    `older` stands for both: a name goes back to an older model of its publisher, or to another publisher's.
    """

    model_config = ConfigDict(extra="forbid")
    directory: Directory
    trusted: Annotated[list[Annotated[str, StringConstraints(max_length=80)]], Field(max_length=300)] = []
    older: bool = False


class BundleRoutes:
    """The routes over `store.bundle` and `store.bundle_import`."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def router(self) -> APIRouter:
        """Return the routes for mounting."""
        router = APIRouter()
        router.add_api_route("/v1/bundle/export", self.export, methods=["POST"], response_model=None)
        router.add_api_route("/v1/bundle/look", self.look, methods=["POST"], response_model=None)
        router.add_api_route("/v1/bundle/import", self.take, methods=["POST"], response_model=None)
        return router

    async def export(self, body: ExportBody) -> Response:
        """Write models into a directory; leaving the stream stops it, and the next export goes on."""

        async def produce(emit: Emit) -> None:
            names = [(await self._node.catalog.stored(name)).name for name in body.names]
            report = await self._node.threads.reporting(partial(self._export, names, body), emit)
            await emit(
                {
                    "status": "success",
                    "directory": body.directory,
                    "exporter": self._node.key.did,
                    "models": [{"name": format_model_name(name), "manifest": digest} for name, digest in report.models],
                    "carried_bytes": report.carried_bytes,
                    "copied_bytes": report.copied_bytes,
                    "left_out_bytes": report.left_out_bytes,
                }
            )

        return EventStream(produce, self._node.stopping)

    def _export(self, names: Sequence[ModelName], body: ExportBody, report: Callable[[Event], None]) -> ExportReport:
        node = self._node
        bases = [self._base(names, body.since)] if body.since is not None else []
        return export_bundle(
            node.store,
            node.log,
            node.key,
            names,
            Path(body.directory),
            bases=bases,
            now_s=node.clock.now_s(),
            report=report,
        )

    def _base(self, names: Sequence[ModelName], since: str) -> Digest:
        """Return the manifest that the other side has: another model's, or a version of the one that is exported."""
        store = self._node.store
        try:
            return store.resolve(parse_model_name(since)).digest
        except (ModelUnknown, ModelNameInvalid):
            if len(names) != 1:
                raise
            return store.resolve_version(names[0], since).digest

    async def look(self, body: LookBody) -> Response:
        """Verify a bundle's signatures and proofs, and say what is in it, by whom, and what it would need here."""
        return facts(**await self._node.threads.store(self._look, Path(body.directory), await self._names()))

    def _look(self, directory: Path, names: Mapping[DeviceId, str]) -> dict[str, object]:
        with Bundle(directory) as bundle:
            missing, older = bundle.missing(self._node.store), bundle.older(self._node.store)
            taken = bundle.taken(self._node.store)
            return {
                "exporter": bundle.index.exporter,
                "exporter_name": names.get(bundle.index.exporter, ""),
                "created_s": bundle.index.created_s,
                "models": [
                    {
                        **self._model_facts(model, names),
                        "older": model.name in older,
                        "taken_from": taken.get(model.name, ""),
                    }
                    for model in bundle.models
                ],
                "signers": [
                    {"did": did, "name": names.get(did, ""), "known": self._is_known(did, names)}
                    for did in bundle.signers
                ],
                "carried_bytes": bundle.index.size_bytes,
                "left_out": len(bundle.index.absent),
                "missing": len(missing),
                "bases": list(bundle.index.bases),
            }

    def _model_facts(self, model: CarriedModel, names: Mapping[DeviceId, str]) -> dict[str, object]:
        publisher = model.provenance.publisher if model.provenance else ""
        return {
            "name": format_model_name(model.name),
            "manifest": model.digest,
            "size_bytes": model.manifest.size_bytes,
            "publisher": publisher,
            "publisher_name": names.get(DeviceId(publisher), ""),
            "here": self._node.store.blobs.has(model.digest),
        }

    async def take(self, body: ImportBody) -> Response:
        """Take a bundle in; leaving the stream stops it, what was verified stays for the next import."""

        async def produce(emit: Emit) -> None:
            names = await self._names()
            with await self._node.threads.store(Bundle, Path(body.directory)) as bundle:
                await self._require_trust(bundle, names, frozenset(body.trusted))
                await self._node.threads.store(bundle.require_bases, self._node.store)
                if not body.older:
                    await self._node.threads.store(self._require_own_names, bundle)
                await emit({"status": "checking logs"})
                await self._follow_logs(bundle, frozenset(body.trusted))
                source = f"bundle of {bundle.index.exporter}"
                now_s = self._node.clock.now_s()
                copied = await self._node.threads.reporting(
                    lambda report: take_bundle(self._node.store, bundle, source, now_s, report), emit
                )
                models = [self._model_facts(model, names) for model in bundle.models]
                await emit({"status": "success", "models": models, "copied_bytes": copied})

        return EventStream(produce, self._node.stopping)

    def _require_own_names(self, bundle: Bundle) -> None:
        """Accept a bundle that moves no name back or away. Raises BundleOlder, BundleTakesName."""
        for name, (here, found) in bundle.older(self._node.store).items():
            raise BundleOlder(format_model_name(name), here, found)
        for name, publisher in bundle.taken(self._node.store).items():
            raise BundleTakesName(format_model_name(name), publisher)

    async def _require_trust(self, bundle: Bundle, names: Mapping[DeviceId, str], trusted: frozenset[str]) -> None:
        """Accept a bundle whose signers are known here, or accepted by the person.

        Raises:
            BundleUntrusted: it names those that are not.
            OriginStopped: one of them signed two logs; no consent helps.
        """
        for signer in bundle.signers:
            await self._node.gossip.origins.require_honest(signer)
        unknown = [
            signer
            for signer in bundle.signers
            if signer not in trusted and not await self._node.threads.store(self._is_known, signer, names)
        ]
        if unknown:
            raise BundleUntrusted(tuple(unknown))

    async def _follow_logs(self, bundle: Bundle, trusted: frozenset[str]) -> None:
        """Compare every checkpoint with what was seen of its log: a fork or a log set back is found here.

        Raises:
            OriginStopped: a log forked; the evidence is kept.
            LogRolledBack: this device's own log was set back.
            LogUnproven: nothing at hand proves that two states are of one log, and the person did not accept that.
        """
        threads, kept = self._node.threads, CarriedLogs(self._node.home.evidence)
        for origin, note in bundle.checkpoints():
            carried = partial(carried_proof, [bundle.logs.get(origin), await threads.store(kept.find, origin)])
            try:
                await self._node.gossip.origins.follow(origin, note, carried)
            except (PeerUnreachable, RemoteRefused, StreamClosed) as error:
                if origin in trusted:
                    continue  # the next contact with that device compares the two
                latest = await threads.store(self._node.seen_logs.latest, origin)
                seen_size = latest.size if latest else 0
                raise LogUnproven(origin, seen_size, open_checkpoint(note, origin).size) from error
        for log in bundle.logs.values():
            await threads.store(kept.keep, log)

    def _is_known(self, did: DeviceId, names: Mapping[DeviceId, str]) -> bool:
        return did in names or self._node.seen_logs.latest(did) is not None

    async def _names(self) -> Mapping[DeviceId, str]:
        """Return the names of the linked devices and of this one."""
        linked = await self._node.threads.database(self._node.peers.list)
        return device_names(self._node.key.did, self._node.settings.nickname, linked)
