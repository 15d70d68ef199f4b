"""What the registry offers: the models that linked devices may have anyway, as repositories and tags (specs/0024).

A model is offered when a name in the store stands for it, now or in an older version, and its provenance verifies and
names a publisher that was not stopped. Nothing else in the store can be reached, whoever knows its digest.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from identity.did import DeviceId
from node.peer.shelf import ServedBlob, served_blobs
from protocol.digest import Digest, digest_of
from protocol.errors import OciNameInvalid, ProtocolError, ProvenanceInvalid
from protocol.manifest import MAX_MANIFEST_BYTES
from protocol.oci_name import oci_repository, oci_tag, short_repository
from protocol.provenance import decode_and_verify_provenance
from protocol.referrer import PROVENANCE, Part
from store.errors import StoreError
from store.models import ModelStore
from store.referrers import ReferrerManifest, referrers_of
from store.refs import RefEntry

MAX_REMEMBERED: Final = 4096

K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True)
class Repository:
    """One repository: its tags, and every model in it, older versions included."""

    tags: Mapping[str, Digest]
    models: frozenset[Digest]


class RegistryShelf:
    """Looks at the store anew for every request. Every method blocks."""

    def __init__(self, store: ModelStore, stopped: Callable[[], frozenset[DeviceId]]) -> None:
        """`stopped()` are the publishers that signed two logs: nothing of theirs is passed on."""
        self._store: Final = store
        self._stopped = stopped
        # Content never changes under its digest, so that what was found out once holds.
        self._publishers = _Remembered[Digest, DeviceId | None]()
        self._blobs = _Remembered[Digest, Mapping[Digest, ServedBlob]]()

    def repositories(self) -> list[str]:
        """Return the names of the repositories that offer something, in order."""
        return sorted({repository for repository, entry in self._entries() if self._offered_versions(entry)})

    def repository(self, wanted: str) -> Repository | None:
        """Return a repository that offers something; `library/` may be left out of its name."""
        tags: dict[str, Digest] = {}
        models: set[Digest] = set()
        for repository, entry in self._entries():
            if wanted not in (repository, short_repository(entry.name)):
                continue
            versions = self._offered_versions(entry)
            models |= versions
            if entry.digest in versions:
                tags.setdefault(oci_tag(entry.name), entry.digest)
        return Repository(tags, frozenset(models)) if models else None

    def blob(self, repository: Repository, digest: Digest) -> ServedBlob | bytes | None:
        """Return where the blob lies, or its bytes where it belongs to a referrer; None: not in this repository.

        Raises:
            StoreError, ProtocolError: a manifest of the repository cannot be read.
        """
        for model in repository.models:
            found = self._reachable(model).get(digest)
            if found is not None:
                return found
        for referrer in self._referrers(repository):
            if digest in referrer.blobs:
                content = referrer.blobs[digest]
                return content if content is not None else ServedBlob(self._store.blobs.size(digest))
        return None

    def manifest(self, repository: Repository, digest: Digest) -> bytes | None:
        """Return the manifest of a model or a referrer; None: not in this repository. Raises as `blob`."""
        if digest in repository.models:
            return self._store.blobs.read(digest, MAX_MANIFEST_BYTES)
        return next((found.data for found in self._referrers(repository) if found.descriptor.digest == digest), None)

    def referrers(self, repository: Repository, model: Digest) -> list[Part]:
        """Return what points at a model of the repository; nothing where the model is none of it. Raises as `blob`."""
        return [found.descriptor for found in self._referrers_of(model)] if model in repository.models else []

    def _entries(self) -> Iterator[tuple[str, RefEntry]]:
        """Yield every name with its repository, in order: where two names give one tag, the first has it."""
        for entry in self._store.refs.list():
            try:
                oci_tag(entry.name)
                yield oci_repository(entry.name), entry
            except OciNameInvalid:
                continue  # no registry can spell it

    def _offered_versions(self, entry: RefEntry) -> frozenset[Digest]:
        """Return the versions of a name for which somebody answers with a signature."""
        versions = {version.digest for version in entry.history}
        return frozenset(version for version in versions if self._is_offered(version))

    def _is_offered(self, model: Digest) -> bool:
        if not any(self._is_vouched(bundle) for bundle in self._store.provenance.all(model)):
            return False
        try:
            return bool(self._reachable(model))
        except (StoreError, ProtocolError):
            return False  # its manifest is gone or damaged: everything else can be served

    def _is_vouched(self, bundle: bytes) -> bool:
        publisher = self._publisher(bundle)
        return publisher is not None and publisher not in self._stopped()

    def _publisher(self, bundle: bytes) -> DeviceId | None:
        return self._publishers.get(digest_of(bundle), lambda: _verified_publisher(bundle))

    def _reachable(self, model: Digest) -> Mapping[Digest, ServedBlob]:
        return self._blobs.get(model, lambda: served_blobs(self._store.manifest(model)))

    def _referrers(self, repository: Repository) -> Iterator[ReferrerManifest]:
        for model in sorted(repository.models):
            yield from self._referrers_of(model)

    def _referrers_of(self, model: Digest) -> list[ReferrerManifest]:
        """Return what points at a model; of its provenance only what was signed by a publisher that was not stopped."""
        return [found for found in referrers_of(self._store, model) if self._may_pass(found)]

    def _may_pass(self, referrer: ReferrerManifest) -> bool:
        if referrer.artifact.artifact_type != PROVENANCE:
            return True
        return all(self._is_vouched(referrer.blobs[part.digest] or b"") for part in referrer.artifact.parts)


class _Remembered(Generic[K, V]):
    """The last answers to a question whose answer never changes."""

    def __init__(self) -> None:
        self._answers: OrderedDict[K, V] = OrderedDict()

    def get(self, key: K, answer: Callable[[], V]) -> V:
        """Return what is known about `key`, else ask."""
        if key not in self._answers:
            self._answers[key] = answer()
            if len(self._answers) > MAX_REMEMBERED:
                self._answers.popitem(last=False)
        return self._answers[key]


def _verified_publisher(bundle: bytes) -> DeviceId | None:
    try:
        return decode_and_verify_provenance(bundle).publisher
    except ProvenanceInvalid:
        return None
