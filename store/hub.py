"""Models of a model hub: a name resolved to a commit, and the files of that commit taken into the store.

Of each file the first that holds is done: it is stored (its SHA-256 is in the listing), it lies in the cache of the
hub's own library, it is downloaded. Source: specs/0021-builds.md §Hub.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final

from protocol.build_record import SourceKind
from protocol.digest import Digest
from store.disk import disk_errors, open_regular
from store.errors import (
    BlobMissing,
    HubAnswerInvalid,
    HubFileCorrupt,
    HubUnreachable,
    LayerCorrupt,
    RepositoryNameInvalid,
    RepositoryUnknown,
)
from store.fetched import Fetched, Moved, Report, Wanted, fetched_event
from store.hub_cache import HubCache
from store.hub_download import Download
from store.hub_listing import (
    MAX_LISTING_BYTES,
    PREFIX,
    HubFile,
    Snapshot,
    api_path,
    choose,
    git_oid,
    is_commit,
    parse_commit_time,
    parse_listing,
    parse_repository,
    with_index,
)
from store.hub_memory import HubMemory
from store.hub_settings import HubSettings
from store.leases import Lease
from store.models import ModelStore
from store.sources import INDEX, MAX_INDEX_BYTES, FileAt, Origin
from store.take import Way, take_file

if TYPE_CHECKING:
    from store.huggingface import HubSession

# What a hub may ask of the memory of whoever downloads a file that it lists without a SHA-256.
MAX_PLAIN_BYTES: Final = 64 << 20
# Below this the question where a file lies in the Xet storage costs more than the storage saves.
XET_FROM_BYTES: Final = 1 << 20
REPORT_EVERY_S: Final = 0.25
MAX_COMMITS_BYTES: Final = 4 << 20


class Hub:
    """One model hub, and the caches on this machine that may have its files already."""

    def __init__(self, settings: HubSettings, caches: Sequence[HubCache] = ()) -> None:
        self._settings = settings
        self._caches = caches

    @cached_property
    def _session(self) -> "HubSession":
        # Imported here: the hub's library costs 10 MB and 100 ms that a node without a hub saves.
        from store.huggingface import HubSession

        return HubSession(self._settings)

    def owns(self, base: str) -> bool:
        """Return whether `base` begins with `hf:`."""
        return base.startswith(PREFIX)

    def may_have(self, base: str) -> bool:
        """Return whether `base` is spelled like a repository, `owner/name[@revision]`."""
        try:
            parse_repository(base)
        except RepositoryNameInvalid:
            return False
        return True

    def fetch_base(
        self, store: ModelStore, base: str, lease: Lease, report: Report, wanted: Wanted = Wanted.MODEL
    ) -> Fetched:
        """Return the wanted files of the repository `base`; see `Remote`."""
        name = parse_repository(base)
        report({"status": f"resolving {name}"})
        memory = HubMemory(store.layout)
        snapshot = memory.recall(name.repo, name.revision)
        if snapshot is None:
            try:
                asked = self.resolve(name.repo, name.revision)
            except RepositoryUnknown:
                if self.owns(base):
                    raise
                raise self._unknown(name.repo, looked_here=True) from None
            snapshot = memory.recall(asked.repo, asked.commit) or asked
        return self.fetch(store, snapshot, lease, report, wanted)

    def resolve(self, repo: str, revision: str | None) -> Snapshot:
        """Return what `repo` is at `revision`, or at its newest commit: the commit, its time, its files.

        A commit that a cache on this machine has whole is not asked for where the hub does not answer.

        Raises:
            RepositoryUnknown, RepositoryClosed, RevisionUnknown: what the hub says.
            HubUnreachable: nobody answers, and no cache has it.
            HubAnswerInvalid: what it lists cannot be.
        """
        try:
            return self._ask(repo, revision)
        except HubUnreachable:
            if is_commit(revision) or self._settings.offline:
                for cache in self._caches:
                    if snapshot := cache.snapshot(repo, revision):
                        return snapshot
            raise

    def fetch(
        self, store: ModelStore, snapshot: Snapshot, lease: Lease, report: Report, wanted: Wanted = Wanted.MODEL
    ) -> Fetched:
        """Return the wanted files of `snapshot`, every one in the store, verified, kept by `lease`.

        Raises:
            HubError, FormatUnsupported, DiskFull, DiskFailed, PartialBusy: see `Remote.fetch_base`.
        """
        fetching = _Fetching(self._session, self._caches, store, snapshot, lease, report)
        return fetching.run(wanted)

    def _unknown(self, repo: str, *, looked_here: bool = False) -> RepositoryUnknown:
        token_given = self._settings.token is not None
        return RepositoryUnknown(repo, self._session.endpoint, token_given, looked_here=looked_here)

    def _ask(self, repo: str, revision: str | None) -> Snapshot:
        asked = revision or "main"
        path = api_path(repo, "revision", revision) if revision else api_path(repo)
        listing = self._session.read(path, repo, asked, MAX_LISTING_BYTES, blobs="true")
        if listing is None:
            raise self._unknown(repo)
        commit, files = parse_listing(repo, revision, listing)
        # The listing's own date is the newest of the repository's, which moves; the commit's date never does.
        commits = self._session.read(api_path(repo, "commits", commit), repo, commit, MAX_COMMITS_BYTES, limit="1")
        return Snapshot(repo, commit, parse_commit_time(repo, commit, commits) if commits is not None else 0, files)


class _Fetching:
    """One snapshot on its way into the store."""

    def __init__(
        self,
        session: "HubSession",
        caches: Sequence[HubCache],
        store: ModelStore,
        snapshot: Snapshot,
        lease: Lease,
        report: Report,
    ) -> None:
        self._session = session
        self._caches = caches
        self._store = store
        self._snapshot = snapshot
        self._lease = lease
        self._report = report
        self._moved = Moved()
        self._used_cache = ""
        self._digests: dict[str, Digest] = {}

    def run(self, wanted: Wanted) -> Fetched:
        snapshot = self._snapshot
        chosen = choose(snapshot, wanted)
        if index := next((file for file in chosen if file.path == INDEX), None):
            self._store.require_space(0 if self._stored(index) else index.size)
            self._take(index)
            chosen = with_index(snapshot, chosen, self._store.blobs.read(self._digests[INDEX], MAX_INDEX_BYTES))
        self._require_space(chosen)
        for file in chosen:
            if file.path not in self._digests:
                self._take(file)
        if snapshot.commit_time_s:  # a cache does not know it, and a later build must have the time that others have
            HubMemory(self._store.layout).remember(_with_digests(snapshot, chosen, self._digests))
        origin = Origin(SourceKind.HUB, self._name, snapshot.commit, snapshot.commit_time_s or None)
        self._report(fetched_event(origin, self._moved, self._used_cache))
        names = {file.path for file in chosen}
        return Fetched(
            files={
                path: FileAt(self._store.layout.blob_path(digest), digest) for path, digest in self._digests.items()
            },
            origin=origin,
            moved=self._moved,
            skipped=tuple(sorted(file.path for file in snapshot.files if file.path not in names)),
        )

    @property
    def _name(self) -> str:
        return PREFIX + self._snapshot.repo

    def _require_space(self, chosen: tuple[HubFile, ...]) -> None:
        self._store.require_space(sum(file.size for file in chosen if not self._stored(file)))

    def _stored(self, file: HubFile) -> bool:
        """Return whether the file is a blob of the store already; the lease is on it from before that was looked at."""
        if file.sha256 is None:
            return False
        self._lease.add(file.sha256)
        try:
            return self._store.blobs.size(file.sha256) == file.size
        except BlobMissing:
            return False

    def _take(self, file: HubFile) -> None:
        if file.sha256 is not None and self._stored(file):
            self._done(file, file.sha256, Moved(stored_bytes=file.size))
        elif not self._take_from_cache(file):
            self._download(file)

    def _take_from_cache(self, file: HubFile) -> bool:
        for cache in self._caches:
            place = cache.find(self._snapshot, file)
            if place is None:
                continue
            try:
                digest, moved = self._link(file, place) if file.sha256 else self._read(file, place)
            except (LayerCorrupt, HubFileCorrupt):  # somebody wrote into the cache: the hub has the right bytes
                self._report({"status": f"{file.path} in {cache.title} is damaged", "source": cache.title})
                continue
            self._used_cache = cache.title
            self._report({"status": f"taking {file.path}", "source": cache.title})
            self._done(file, digest, moved)
            return True
        return False

    def _link(self, file: HubFile, place: Path) -> tuple[Digest, Moved]:
        digest = _required(file.sha256)
        way = take_file(self._store.blobs, place, digest)
        return digest, Moved(copied_bytes=file.size) if way is Way.COPY else Moved(linked_bytes=file.size)

    def _read(self, file: HubFile, place: Path) -> tuple[Digest, Moved]:
        with disk_errors(place), open_regular(place) as opened:
            content = opened.read(file.size + 1)
        return self._publish(file, content, "the cache"), Moved(copied_bytes=file.size)

    def _publish(self, file: HubFile, content: bytes, place: str) -> Digest:
        if len(content) != file.size or (file.git_oid is not None and git_oid(content) != file.git_oid):
            raise HubFileCorrupt(self._name, file.path, place)
        with self._store.blobs.writer(len(content)) as writer:
            writer.write(content)
            self._lease.add(writer.digest)
            return writer.commit()

    def _done(self, file: HubFile, digest: Digest, moved: Moved) -> None:
        self._digests[file.path] = digest
        self._moved += moved

    def _download(self, file: HubFile) -> None:
        if file.sha256 is not None:
            self._download_large(file, file.sha256)
        else:
            self._download_small(file)

    def _download_large(self, file: HubFile, digest: Digest) -> None:
        """Go on with what a killed download left; where that was damaged, begin once more."""
        for attempt in (1, 2):
            with _Reported(self._store, digest, file, self._session.endpoint, self._report) as download:
                resumed = download.resumed_bytes
                self._transfer(file, download)
                try:
                    download.finish()
                except LayerCorrupt:
                    if resumed and attempt == 1:
                        continue
                    raise HubFileCorrupt(self._name, file.path, self._session.endpoint) from None
            self._done(file, digest, Moved(downloaded_bytes=file.size - resumed, stored_bytes=resumed))
            return

    def _transfer(self, file: HubFile, download: Download) -> None:
        repo, commit = self._snapshot.repo, self._snapshot.commit
        if download.position == file.size:
            return
        try:
            if file.size >= XET_FROM_BYTES and (xet := self._session.find_xet(repo, commit, file.path)):
                try:
                    self._session.download_xet(xet, download)
                except HubUnreachable:
                    self._report({"status": f"{file.path}: no Xet storage, going on over plain HTTP"})
            self._session.download(repo, commit, file.path, download)
        except LayerCorrupt:  # more bytes than were listed
            raise HubFileCorrupt(self._name, file.path, self._session.endpoint) from None

    def _download_small(self, file: HubFile) -> None:
        """Fetch a file of which the hub says no SHA-256: its git object id is checked, and memory holds it."""
        if file.size > MAX_PLAIN_BYTES:
            raise HubAnswerInvalid(self._snapshot.repo, f"lists {file.path} of {file.size} bytes without a SHA-256")
        self._report({"status": f"downloading {file.path}", "source": self._session.endpoint})
        content = self._session.read_file(self._snapshot.repo, self._snapshot.commit, file.path, file.size)
        digest = self._publish(file, content, self._session.endpoint)
        self._done(file, digest, Moved(downloaded_bytes=file.size))


class _Reported(Download):
    """A download that says now and then how far it is."""

    def __init__(self, store: ModelStore, digest: Digest, file: HubFile, source: str, report: Report) -> None:
        super().__init__(store.blobs, digest, file.size)
        self._report = report
        self._facts: dict[str, object] = {
            "status": f"downloading {file.path}",
            "source": source,
            "digest": f"sha256:{digest}",
            "total": file.size,
        }
        self._began_s = self._reported_s = time.monotonic()

    def write(self, data: bytes) -> int:  # type: ignore[override]  # the one caller writes bytes
        """Append and report."""
        count = super().write(data)
        if time.monotonic() - self._reported_s >= REPORT_EVERY_S or self.position == self.size:
            self.pulse()
        return count

    def pulse(self) -> None:
        """Report."""
        self._reported_s = time.monotonic()
        rate = (self.position - self.resumed_bytes) / max(self._reported_s - self._began_s, 1e-3)
        self._report({**self._facts, "completed": self.position, "rate": max(0, int(rate))})


def _with_digests(snapshot: Snapshot, chosen: tuple[HubFile, ...], digests: dict[str, Digest]) -> Snapshot:
    """Return the snapshot with the SHA-256 of each file that was taken, which the hub tells of large files only."""
    taken = {file.path for file in chosen}
    return replace(
        snapshot,
        files=tuple(
            replace(file, sha256=digests[file.path]) if file.path in taken else file for file in snapshot.files
        ),
    )


def _required(digest: Digest | None) -> Digest:
    if digest is None:
        raise ValueError("a file without a SHA-256 has no blob to be linked as")
    return digest
