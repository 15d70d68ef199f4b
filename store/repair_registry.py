"""Registries as the place from which a damaged model is put right: those that its history says it came from (0027)."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from protocol.digest import Digest, format_oci_digest
from protocol.errors import ReferenceInvalid
from protocol.manifest import Layer
from protocol.model_name import ModelName
from protocol.registry import Reference, format_reference, parse_reference
from store.leases import Lease
from store.models import ModelStore
from store.partial import PartialLayer
from store.registry.client import RegistryClient
from store.registry.credentials import Login
from store.registry.layers import LayerPull, Report
from store.registry.offered import Offered
from store.registry.ranges import fetch_missing

# How the history says that a version came from a registry: this word and the reference.
SOURCE: Final = "registry "


class RegistryBlobs:
    """One repository, asked for what a damaged model lacks; every answer is verified."""

    def __init__(self, client: RegistryClient) -> None:
        self._client = client

    @property
    def label(self) -> str:
        """How it is shown to people."""
        return f"{SOURCE}{format_reference(self._client.reference)}"

    def manifest(self, digest: Digest) -> bytes:
        """Return the manifest with this digest. Raises as `RegistryClient.manifest`."""
        return self._client.manifest(format_oci_digest(digest)).data

    def small(self, digest: Digest, size: int) -> bytes:
        """Return a whole blob of `size` bytes. Raises as `RegistryClient.read_blob`."""
        return self._client.read_blob(digest, size)

    def whole(self, store: ModelStore, layer: Layer, lease: Lease, report: Report) -> int:
        """Fetch a layer without a chunk map as a stream; return the bytes that moved.

        Raises as `LayerPull.take_layer`.
        """
        pull = LayerPull(self._client, store, Offered({}, (), (), ()), lease, report, deltas=False)
        pull.take_layer(layer)
        return layer.size - pull.tally.resumed

    def fill(self, partial: PartialLayer, left: Callable[[int], None]) -> int:
        """Fetch the missing chunks by Range; return the bytes that moved. Raises as `fetch_missing`.

        `left` is told how many bytes are still missing.
        """
        missing = partial.missing_bytes()
        return fetch_missing(self._client, partial, lambda moved: left(max(0, missing - moved)))


def registries_of(store: ModelStore, name: ModelName) -> list[Reference]:
    """Return the registries from which versions of `name` came, the newest first, each once.

    After them those from which one of these models came under another name: copied and tagged ones are repaired, too.

    Raises:
        RefCorrupt: the name's history cannot be read.
    """
    references: dict[Reference, None] = {}
    own = store.refs.history(name)
    models = {version.digest for version in own}
    others = [version for entry in store.refs.list() for version in entry.history if version.digest in models]
    for version in (*reversed(own), *reversed(others)):
        if version.source.startswith(SOURCE):
            try:
                references[parse_reference(version.source.removeprefix(SOURCE))] = None
            except ReferenceInvalid:
                continue  # cut off, as sources are after 120 characters
    return list(references)


@contextmanager
def open_registry(reference: Reference, login: Login | None, check: Callable[[], None]) -> Iterator[RegistryBlobs]:
    """Give the repository of `reference`; `check` raises when nobody waits any more."""
    with RegistryClient(reference, login=login, check=check) as client:
        yield RegistryBlobs(client)
