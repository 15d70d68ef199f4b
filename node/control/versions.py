"""Control routes for versions: history, diff, rollback, copy, tag, pin, remove, usage, collect."""

from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from identity.did import DeviceId
from node.control.models import Name
from node.control.responses import facts
from node.health import device_names
from node.parts import Node
from node.versions import Moved
from protocol.model_name import format_model_name
from store.diff import ConfigChange, FileChange, ModelDiff, TensorChange
from store.gc import MIN_AGE_S, GcReport
from store.history import PastVersion
from store.refs import Version
from store.usage import Usage

VersionText = Annotated[str, StringConstraints(min_length=1, max_length=100)]
MAX_AGE_S = 2**33


class VersionBody(BaseModel):
    """A model by name, and one of its versions: a number, a release, or the beginning of its digest."""

    model_config = ConfigDict(extra="forbid")
    name: Name
    version: VersionText | None = None


class RemoveBody(VersionBody):
    """What is forgotten: a name or one version of it; `force` also where a version is pinned."""

    force: bool = False


class MoveBody(BaseModel):
    """A model by name, and the name that it is to have as well."""

    model_config = ConfigDict(extra="forbid")
    source: Name
    target: Name


class CollectBody(BaseModel):
    """How to collect: `keep` versions of each name, blobs from `min_age_s` on, quarantine from `quarantine_s` on."""

    model_config = ConfigDict(extra="forbid")
    dry_run: bool = False
    keep: Annotated[int, Field(ge=1, le=256)] | None = None
    min_age_s: Annotated[int, Field(ge=0, le=MAX_AGE_S)] = MIN_AGE_S
    quarantine_s: Annotated[int, Field(ge=0, le=MAX_AGE_S)] | None = None


class VersionRoutes:
    """The routes, each a few lines over the node's `Versions`."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._versions = node.versions

    def router(self) -> APIRouter:
        """Return the routes for mounting."""
        router = APIRouter()
        router.add_api_route("/v1/history", self.history, methods=["GET"], response_model=None)
        router.add_api_route("/v1/diff", self.diff, methods=["GET"], response_model=None)
        router.add_api_route("/v1/rollback", self.rollback, methods=["POST"], response_model=None)
        router.add_api_route("/v1/copy", self.copy, methods=["POST"], response_model=None)
        router.add_api_route("/v1/tag", self.tag, methods=["POST"], response_model=None)
        router.add_api_route("/v1/pin", self.pin, methods=["POST"], response_model=None)
        router.add_api_route("/v1/unpin", self.unpin, methods=["POST"], response_model=None)
        router.add_api_route("/v1/remove", self.remove, methods=["POST"], response_model=None)
        router.add_api_route("/v1/usage", self.usage, methods=["GET"], response_model=None)
        router.add_api_route("/v1/gc", self.collect, methods=["POST"], response_model=None)
        return router

    async def history(self, name: Name) -> Response:
        """List every version of a name, the oldest first."""
        found, versions = await self._versions.history(name)
        return facts(name=format_model_name(found), versions=[_past_facts(past) for past in versions])

    async def diff(self, before: Name, after: Name | None = None) -> Response:
        """Compare two models, or a version with the one before it."""
        first, second, found = await self._versions.diff(before, after)
        return facts(before=format_model_name(first), after=format_model_name(second), **_diff_facts(found))

    async def rollback(self, body: VersionBody) -> Response:
        """Let a name stand for an earlier version again."""
        return await self._moved(await self._versions.rollback(body.name, body.version))

    async def copy(self, body: MoveBody) -> Response:
        """Copy a model to a name under which this device signs it."""
        return await self._moved(await self._versions.copy(body.source, body.target))

    async def tag(self, body: MoveBody) -> Response:
        """Give a model another name."""
        return await self._moved(await self._versions.tag(body.source, body.target))

    async def pin(self, body: VersionBody) -> Response:
        """Keep a version whatever happens."""
        name, version = await self._versions.pin(body.name, body.version, True)
        return facts(name=format_model_name(name), **_version_facts(version))

    async def unpin(self, body: VersionBody) -> Response:
        """Keep a version no more than the others."""
        name, version = await self._versions.pin(body.name, body.version, False)
        return facts(name=format_model_name(name), **_version_facts(version))

    async def remove(self, body: RemoveBody) -> Response:
        """Forget a model or one version of it."""
        removed = await self._versions.remove(body.name, body.version, body.force)
        report = removed.report
        return facts(
            name=format_model_name(report.name),
            manifest=report.digest,
            version=removed.version or None,
            versions=report.versions,
            freed_blobs=report.freed_blobs,
            freed_bytes=report.freed_bytes,
            releases=[f"{format_model_name(report.name.moving)}@{release}" for release in removed.releases],
        )

    async def usage(self) -> Response:
        """Say where the store's bytes are, and what was read of prompts."""
        usage = await self._versions.usage()
        return facts(**_usage_facts(usage, await self._node.threads.store(self._node.prefixes.used_bytes)))

    async def collect(self, body: CollectBody) -> Response:
        """Remove what nothing needs, or say what would go."""
        report = await self._versions.collect(body.dry_run, body.keep, body.min_age_s, body.quarantine_s)
        root = self._node.store.layout.root
        return facts(
            dry_run=report.dry_run,
            versions=[{"name": format_model_name(name), **_version_facts(each)} for name, each in report.versions],
            blobs=[{"digest": blob.digest, "size_bytes": blob.size_bytes, "what": blob.what} for blob in report.blobs],
            leftovers=[
                {"path": str(left.path.relative_to(root)), "size_bytes": left.size_bytes, "what": left.what}
                for left in report.leftovers
            ],
            freed_bytes=report.freed_bytes,
            young_blobs=report.young,
            young_bytes=report.young_bytes,
        )

    async def _moved(self, moved: Moved) -> Response:
        publisher = moved.provenance.publisher if moved.provenance else ""
        return facts(
            name=format_model_name(moved.name),
            **_version_facts(moved.version),
            changed=moved.changed,
            published=moved.published,
            publisher=publisher,
            publisher_name=(await self._names())(DeviceId(publisher)),
        )

    async def _names(self) -> Callable[[DeviceId], str]:
        linked = await self._node.threads.database(self._node.peers.list)
        names = device_names(self._node.key.did, self._node.settings.nickname, linked)
        return lambda did: names.get(did, "")


def _version_facts(version: Version) -> dict[str, object]:
    return {
        "version": version.number,
        "manifest": version.digest,
        "time_s": version.time_s,
        "event": str(version.event),
        "source": version.source,
        "pinned": version.pinned,
    }


def _past_facts(past: PastVersion) -> dict[str, object]:
    return {
        **_version_facts(past.version),
        "releases": list(past.releases),
        "size_bytes": past.size_bytes,
        "what": past.what,
        "current": past.current,
    }


def _diff_facts(found: ModelDiff) -> dict[str, object]:
    return {
        "before_manifest": found.before,
        "after_manifest": found.after,
        "differs": found.differs,
        "tensors": [_tensor_facts(change) for change in found.tensors],
        "same_tensors": found.same_tensors,
        "same_bytes": found.same_bytes,
        "new_bytes": found.new_bytes,
        "files": [_file_facts(change) for change in found.files],
        "config": [_config_facts(change) for change in found.config],
        "recipe": found.recipe,
    }


def _tensor_facts(change: TensorChange) -> dict[str, object]:
    return {
        "name": change.name,
        "change": str(change.change),
        "before_bytes": change.before_bytes,
        "after_bytes": change.after_bytes,
        "before": change.before,
        "after": change.after,
    }


def _file_facts(change: FileChange) -> dict[str, object]:
    return {
        "file": change.file,
        "change": str(change.change),
        "before_bytes": change.before_bytes,
        "after_bytes": change.after_bytes,
    }


def _config_facts(change: ConfigChange) -> dict[str, object]:
    return {"key": change.key, "before": change.before, "after": change.after}


def _usage_facts(usage: Usage, prefix_bytes: int) -> dict[str, object]:
    return {
        "models": [
            {
                "name": format_model_name(model.name),
                "versions": model.versions,
                "unique_bytes": model.unique_bytes,
                "shared_bytes": model.shared_bytes,
            }
            for model in usage.models
        ],
        "blob_bytes": usage.blob_bytes,
        "chunk_map_bytes": usage.chunk_map_bytes,
        "partial_bytes": usage.partial_bytes,
        "quarantine_bytes": usage.quarantine_bytes,
        "copy_bytes": usage.copy_bytes,
        "provenance_bytes": usage.provenance_bytes,
        "index_bytes": usage.index_bytes,
        "prefix_bytes": prefix_bytes,
        "total_bytes": usage.total_bytes + prefix_bytes,
        "garbage": _garbage_facts(usage.garbage) if usage.garbage else None,
    }


def _garbage_facts(report: GcReport) -> dict[str, object]:
    return {
        "blobs": len(report.blobs),
        "leftovers": len(report.leftovers),
        "freed_bytes": report.freed_bytes,
        "young_blobs": report.young,
        "young_bytes": report.young_bytes,
    }
