"""The list of names, streamed in order: what was worked out before comes from a cache, the rest is worked out once.

Longest part of a list in a fresh process is its imports: what reads manifests and checks signatures is handed in by
the caller and called only for a manifest or bundle that the cache does not know.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

from protocol.digest import Digest, digest_of
from protocol.model_name import ModelName
from store.disk import open_regular
from store.errors import RefCorrupt
from store.facts import FactsCache, ModelFacts, Signature
from store.layout import Layout
from store.ref_file import Version, read_ref, ref_paths

_BATCH: Final = 64
MAX_BUNDLE_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class ListedModel:
    """A name, what it stands for, since when (seconds since the epoch), and who signed it ("" for nobody).

    `facts` is None where the manifest cannot be read.
    """

    name: ModelName
    digest: Digest
    modified_s: int
    versions: int
    facts: ModelFacts | None
    publisher: str


class Listing:
    """Lists one store; `read(manifest)` and `verify(bundle)` work out what the cache does not know, or are None."""

    def __init__(
        self,
        layout: Layout,
        cache: FactsCache,
        read: Callable[[Digest], ModelFacts | None],
        verify: Callable[[bytes], Signature | None],
    ) -> None:
        self._layout = layout
        self._cache = cache
        self._read = read
        self._verify = verify

    def models(self) -> Iterator[ListedModel]:
        """Yield every name in order as soon as it is known; one whose ref cannot be read is left out."""
        facts, bundles = self._cache.models(), self._cache.bundles()
        paths = iter(sorted(ref_paths(self._layout.manifests)))
        while batch := list(islice(paths, _BATCH)):
            fresh_facts: dict[Digest, ModelFacts] = {}
            fresh_bundles: dict[Digest, Signature] = {}
            for name, path in batch:
                try:
                    history = read_ref(path)
                except RefCorrupt:
                    continue
                if history:
                    yield self._listed(name, history, (facts, fresh_facts), (bundles, fresh_bundles))
            self._cache.add(fresh_facts, fresh_bundles)

    def _listed(
        self,
        name: ModelName,
        history: tuple[Version, ...],
        facts: tuple[dict[Digest, ModelFacts], dict[Digest, ModelFacts]],
        bundles: tuple[dict[Digest, Signature], dict[Digest, Signature]],
    ) -> ListedModel:
        current = history[-1]
        known = facts[0].get(current.digest)
        if known is None and (known := self._read(current.digest)) is not None:
            facts[0][current.digest] = facts[1][current.digest] = known
        publisher = self._publisher(current.digest, *bundles)
        return ListedModel(name, current.digest, current.time_s, len(history), known, publisher)

    def _publisher(self, manifest: Digest, known: dict[Digest, Signature], fresh: dict[Digest, Signature]) -> str:
        """Return who signed the newest bundle of a manifest that verifies."""
        for bundle in _bundles(self._layout.provenance / manifest):
            digest = digest_of(bundle)
            signature = known.get(digest)
            if signature is None and (signature := self._verify(bundle)) is not None:
                known[digest] = fresh[digest] = signature
            if signature is not None:
                return signature.publisher
        return ""


def _bundles(directory: Path) -> Iterator[bytes]:
    try:
        paths = list(directory.iterdir())
        if len(paths) > 1:
            paths.sort(key=lambda path: path.stat().st_mtime_ns, reverse=True)
        for path in paths:
            with open_regular(path) as file:
                yield file.read(MAX_BUNDLE_BYTES + 1)
    except OSError:
        return  # nobody signed it, or the disk does not say who
