"""The list of names, streamed in order: what was worked out before comes from a cache, the rest is worked out once.

Longest part of a list in a fresh process is its imports: what reads manifests and checks signatures is handed in by
the caller and called only for a manifest or bundle that the cache does not know.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Final

from protocol.digest import Digest, digest_of
from protocol.model_name import ModelName
from store.disk import open_regular
from store.errors import RefCorrupt
from store.facts import FactsCache, ModelFacts, Signature
from store.layout import Layout
from store.ref_file import read_ref, ref_paths

_BATCH: Final = 16
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
        paths = ref_paths(self._layout.manifests)
        while batch := list(islice(paths, _BATCH)):
            facts: dict[Digest, ModelFacts] = {}
            signatures: dict[Digest, Signature] = {}
            for name, path in batch:
                try:
                    history = read_ref(path)
                except RefCorrupt:
                    continue
                if history:
                    current = history[-1]
                    known = self._facts(current.digest, facts)
                    publisher = self._publisher(current.digest, signatures)
                    yield ListedModel(name, current.digest, current.time_s, len(history), known, publisher)
            self._cache.add(facts, signatures)

    def _facts(self, manifest: Digest, fresh: dict[Digest, ModelFacts]) -> ModelFacts | None:
        known = self._cache.model(manifest) or fresh.get(manifest)
        if known is None and (known := self._read(manifest)) is not None:
            fresh[manifest] = known
        return known

    def _publisher(self, manifest: Digest, fresh: dict[Digest, Signature]) -> str:
        """Return who signed the newest bundle of a manifest that verifies."""
        for bundle in _bundles(self._layout.provenance / manifest):
            digest = digest_of(bundle)
            signature = self._cache.signature(digest) or fresh.get(digest)
            if signature is None and (signature := self._verify(bundle)) is not None:
                fresh[digest] = signature
            if signature is not None:
                return signature.publisher
        return ""


@contextmanager
def open_listing(root: Path) -> Iterator[Listing]:
    """Give the listing of the store at `root` with as few imports as it takes: for a process that only lists.

    Raises:
        DiskFull, DiskFailed: the tree cannot be made where there is none.
    """
    layout = Layout(root)
    cache = FactsCache(layout.facts)
    try:
        yield Listing(layout, cache, partial(_read, layout), _verify)
    finally:
        cache.close()


def _read(layout: Layout, manifest: Digest) -> ModelFacts | None:
    from store.blobs import Blobs  # here and below: only for what the cache does not know
    from store.contents import read_facts

    return read_facts(Blobs(layout), manifest)


def _verify(bundle: bytes) -> Signature | None:
    from store.provenance import signature_of

    return signature_of(bundle)


def _bundles(directory: Path) -> Iterator[bytes]:
    try:
        with os.scandir(directory) as found:
            entries = list(found)
        if len(entries) > 1:
            entries.sort(key=lambda entry: entry.stat().st_mtime_ns, reverse=True)
        for entry in entries:
            with open_regular(Path(entry.path)) as file:
                yield file.read(MAX_BUNDLE_BYTES + 1)
    except OSError:
        return  # nobody signed it, or the disk does not say who
