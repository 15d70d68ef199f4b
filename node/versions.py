"""What people do with the versions of models: look back, compare, go back, keep, copy, tag, remove and clear up."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version as version_of

import trio

from identity.keys import DeviceKey
from node.catalog import DEMO, Catalog
from node.ports import Clock, Entropy
from node.threads import Threads
from protocol.attestation import Artifact
from protocol.canonical_json import Json
from protocol.digest import Digest
from protocol.errors import ModelNameInvalid
from protocol.model_name import ModelName, format_model_name, parse_model_name
from protocol.provenance import Provenance
from store.diff import ModelDiff, diff_models
from store.errors import ModelUnknown, VersionTaken, VersionUnknown
from store.gc import GcReport, collect
from store.history import PastVersion, past_versions
from store.log import Log
from store.lookup import find_entry, find_version, numbered_version
from store.models import ModelStore, RemoveReport
from store.provenance import publish_model
from store.reach import closure
from store.refs import RefEntry, RefEvent, Version
from store.usage import Usage, measure


@dataclass(frozen=True)
class Moved:
    """A name and the version that it stands for now; `changed` is False where it stood there already.

    `published` says whether this device signed that and told its linked devices; if not, only the name here moved.
    """

    name: ModelName
    version: Version
    changed: bool
    published: bool
    provenance: Provenance | None


@dataclass(frozen=True)
class Removed:
    """What was forgotten: a name, or the one `version` of it that is named here; and the releases of it that stay."""

    report: RemoveReport
    version: str
    releases: tuple[str, ...]


@dataclass(frozen=True)
class _Record:
    """What is attested of a name that this device moved without building anything: from where."""

    sources: tuple[Artifact, ...]
    external_parameters: Mapping[str, Json]
    tool_versions: Mapping[str, str]


class Versions:
    """The verbs of version control on one node's store."""

    def __init__(
        self,
        catalog: Catalog,
        store: ModelStore,
        log: Log,
        key: DeviceKey,
        threads: Threads,
        clock: Clock,
        entropy: Entropy,
        published: Callable[[bytes], Awaitable[None]],
        publish: Callable[[Mapping[str, object]], None],
    ) -> None:
        """`published(bundle)` is awaited after every publication; `publish(event)` tells the rest of the node."""
        self._catalog = catalog
        self._store = store
        self._log = log
        self._key = key
        self._threads = threads
        self._clock = clock
        self._entropy = entropy
        self._published = published
        self._publish = publish

    async def history(self, name: str) -> tuple[ModelName, tuple[PastVersion, ...]]:
        """Return every version of a name, the oldest first.

        Raises:
            ModelNotFound, ModelUnknown, RefCorrupt: there is no such name, or it cannot be read.
        """
        entry = await self._entry(name)
        return entry.name.moving, await self._threads.store(past_versions, self._store, entry.name)

    async def diff(self, before: str, after: str | None) -> tuple[ModelName, ModelName, ModelDiff]:
        """Return what differs between two models; without the second, between the version before `before` and it.

        Raises:
            ModelNotFound, VersionUnknown, VersionAmbiguous: one of them is not here.
            BlobMissing, LayerCorrupt, ManifestInvalid: one of them cannot be read.
        """
        first = await self._entry(before)
        if after is None:
            found = await self._threads.store(self._before, first.name)
            first, second = RefEntry(_numbered(first.name, found), found.digest, found.time_s), first
        else:
            second = await self._entry(after)
        return first.name, second.name, await self._threads.store(diff_models, self._store, first.digest, second.digest)

    async def rollback(self, name: str, text: str | None) -> Moved:
        """Let a name stand for an earlier version again, the one before where `text` names none.

        Raises:
            ModelNotFound, VersionUnknown, VersionAmbiguous: there is no such version.
            HistoryFull, LogRolledBack, BlobMissing, DiskFull, DiskFailed: the name was not moved.
        """
        target, wanted = await self._target(name, text)
        version = await self._threads.store(self._wanted, target, wanted)
        source = f"version {version.number}"
        return await self._move(target, version.digest, RefEvent.ROLLBACK, source, sign=False)

    async def copy(self, source: str, target: str) -> Moved:
        """Let `target` stand for what `source` stands for, as a model of this device: signed, logged and told.

        Raises:
            ModelNotFound, ModelNameInvalid: there is no such model; the target is the embedded model's name.
            VersionTaken, HistoryFull, LogRolledBack, DiskFull, DiskFailed: the target was not moved.
        """
        model = await self._entry(source)
        return await self._move(parse_model_name(target), model.digest, RefEvent.COPY, str(model.name), sign=True)

    async def tag(self, source: str, target: str) -> Moved:
        """Give a model another name here: a whole one, `:tag` or `@version` of the same model.

        It stays whose it is. Where that is this device, the new name is signed and told as well. Raises as `copy`.
        """
        model = await self._entry(source)
        name = _beside(model.name, target)
        return await self._move(name, model.digest, RefEvent.TAG, str(model.name), sign=False)

    async def pin(self, name: str, text: str | None, pinned: bool) -> tuple[ModelName, Version]:
        """Pin or unpin a version, the one that the name stands for where `text` names none.

        Raises:
            ModelNotFound, VersionUnknown, VersionAmbiguous: there is no such version.
        """
        target, wanted = await self._target(name, text)
        return target, await self._threads.store(self._pin, target, wanted, pinned)

    async def remove(self, name: str, text: str | None, force: bool) -> Removed:
        """Forget a name, or one version of it, and free what only that needed.

        Raises:
            ModelUnknown, ModelNameInvalid, VersionUnknown, VersionAmbiguous: there is none.
            VersionPinned, VersionCurrent: it is kept; nothing was removed.
        """
        removed = await self._threads.store(self._remove, parse_model_name(name), text, force)
        report = removed.report
        self._publish({"event": "removed", "name": format_model_name(report.name), "bytes": report.freed_bytes})
        return removed

    async def usage(self) -> Usage:
        """Return where the store's bytes are. Raises as `store.usage.measure`."""
        return await self._threads.store(measure, self._store)

    async def collect(self, dry_run: bool, keep: int | None, min_age_s: int, quarantine_age_s: int | None) -> GcReport:
        """Remove what nothing needs, or say what would go. Raises as `store.gc.collect`."""
        report = await self._threads.store(
            collect,
            self._store,
            dry_run=dry_run,
            keep=keep,
            min_age_s=min_age_s,
            quarantine_age_s=quarantine_age_s,
        )
        if not dry_run:
            self._publish({"event": "collected", "blobs": len(report.blobs), "bytes": report.freed_bytes})
        return report

    async def _entry(self, name: str) -> RefEntry:
        """Return what a name stands for, whether it can be read or not; the embedded model is built at once."""
        parsed = parse_model_name(name)
        if parsed.moving == DEMO:
            await self._catalog.stored(str(DEMO))
        return await self._threads.store(find_entry, self._store.refs, parsed)

    async def _target(self, name: str, text: str | None) -> tuple[ModelName, str | None]:
        """Return the tag and the version that `NAME [VERSION]` and `NAME@VERSION` mean."""
        entry = await self._entry(name)
        return entry.name.moving, text if text is not None or not entry.name.version else entry.name.version

    async def _move(self, name: ModelName, manifest: Digest, event: RefEvent, source: str, *, sign: bool) -> Moved:
        if name == DEMO and event is not RefEvent.ROLLBACK:
            raise ModelNameInvalid(str(name), "the name of the embedded model; take another one or another tag")
        before = await self._threads.store(self._store.refs.history, name)
        with trio.CancelScope(shield=True):  # what is signed and logged is also told
            bundle = await self._threads.store(self._move_name, name, manifest, event, source, sign)
            after = await self._threads.store(self._store.refs.history, name)
            if bundle is not None:
                await self._published(bundle)
        if not after:  # somebody else has removed the name in this very moment
            raise ModelUnknown(str(name))
        changed = before != after
        if changed:
            number = after[-1].number
            self._publish({"event": str(event), "name": str(name), "manifest": manifest, "version": number})
        provenance = await self._threads.store(self._catalog.provenance, manifest)
        return Moved(name, after[-1], changed, bundle is not None, provenance)

    def _move_name(self, name: ModelName, manifest: Digest, event: RefEvent, source: str, sign: bool) -> bytes | None:
        """Move the name; return the new bundle where this device signed it."""
        refs = self._store.refs
        held = refs.get(name)
        if name.version and held not in (None, manifest):
            raise VersionTaken(str(name), held or manifest, manifest)  # before the log hears of it
        own = self._store.provenance.load(manifest, publisher=self._key.did)
        if held == manifest and self._store.provenance.load(manifest, self._key.did, str(name)) is not None:
            return None
        with self._store.lease(closure(self._store.blobs, manifest)):
            if own is None and not sign:
                refs.set(name, manifest, event=event, source=source, now_s=self._clock.now_s())
                return None
            return publish_model(
                blobs=self._store.blobs,
                refs=refs,
                log=self._log,
                key=self._key,
                name=name,
                manifest=manifest,
                build=_Record(
                    (Artifact(source, manifest),),
                    {"name": str(name), "event": str(event), "source": source},
                    {"tilenode": version_of("tilenode")},
                ),
                now_s=self._clock.now_s(),
                entropy=self._entropy.random_bytes,
                event=event,
                source=source,
            )

    def _wanted(self, name: ModelName, text: str | None) -> Version:
        return self._before(name) if text is None else find_version(self._store.refs, name, text)

    def _before(self, name: ModelName) -> Version:
        """Return the version before the one that a name stands for; before a release, that of its tag."""
        history = self._store.refs.history(name.moving)
        current = find_entry(self._store.refs, name).digest
        places = [place for place, version in enumerate(history) if version.digest == current]
        if not places or places[-1] == 0:
            raise VersionUnknown(format_model_name(name), f"before {history[0].number}")
        return history[places[-1] - 1]

    def _pin(self, name: ModelName, text: str | None, pinned: bool) -> Version:
        number = None if text is None else numbered_version(self._store.refs, name, text).number
        return self._store.refs.pin(name, number, pinned)

    def _remove(self, name: ModelName, text: str | None, force: bool) -> Removed:
        if text is None and name.version and not self._store.refs.has(name):
            name, text = name.moving, name.version
        if text is not None:
            return Removed(self._store.remove_version(name.moving, text), text, ())
        report = self._store.remove(name, force=force)
        return Removed(report, "", () if name.version else tuple(sorted(self._store.refs.releases(name))))


def _numbered(name: ModelName, version: Version) -> ModelName:
    return ModelName(name.host, name.namespace, name.name, name.tag, str(version.number))


def _beside(name: ModelName, text: str) -> ModelName:
    """Return the name that `text` means: a whole one, or `:tag` or `@version` beside `name`."""
    if text.startswith(":"):
        plain = ModelName(name.host, name.namespace, name.name, "latest")
        return parse_model_name(format_model_name(plain).rpartition(":")[0] + text)
    return parse_model_name(format_model_name(name.moving) + text) if text.startswith("@") else parse_model_name(text)
