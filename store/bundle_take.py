"""Taking a bundle in: its blobs copied or made, every one verified, and only then the names moved (specs/0026)."""

import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from protocol.bundle import PATCH_MAGIC, BundledFile, BundledPart, How
from protocol.digest import Digest
from protocol.errors import DeltaInvalid
from protocol.manifest import Descriptor, Layer
from store.blobs import BLOCK_BYTES
from store.bundle_import import Bundle, CarriedModel, reading
from store.delta import apply_delta
from store.errors import BundleBaseMissing, BundleDamaged, ChunkCorrupt, LayerCorrupt, PartialIncomplete
from store.leases import Lease
from store.models import ModelStore
from store.partial import PartialLayer
from store.refs import RefEvent

SYNC_BYTES: Final = 64 << 20
TELL_BYTES: Final = 4 << 20
_NUMBER_BYTES: Final = 4

Report = Callable[[Mapping[str, object]], None]


def take_bundle(store: ModelStore, bundle: Bundle, source: str, now_s: int, report: Report) -> int:
    """Take every model of `bundle` in; return the bytes that were copied. The names move last.

    `source` is what the history says about where it came from. What came before a kill is taken up again.

    Raises:
        BundleDamaged: a blob is not what was signed; no name has moved.
        BundleBaseMissing: what was left out is not here.
        DiskFull, DiskFailed, PartialBusy, VersionTaken: as the store says.
    """
    taking = _Taking(bundle, store, report)
    with store.lease(blob.digest for blob in (*bundle.index.blobs, *bundle.index.absent)) as lease:
        bundle.require_bases(store)
        store.require_space(taking.missing_bytes())
        for model in bundle.models:
            taking.take(model, lease)
        for model in bundle.models:
            store.blobs.publish_bytes(model.manifest_bytes)
            store.require_readable(model.digest)
        for model in bundle.models:
            for proof in model.bundles:
                store.provenance.save(proof)
            store.refs.set(model.name, model.digest, event=RefEvent.IMPORT, source=source, now_s=now_s)
    # Deltas and patches are of no use any more.
    store.discard(store.lease(part.file for part in bundle.index.parts))
    return taking.copied_bytes


class _Taking:
    """The blobs of a bundle on their way into the store."""

    def __init__(self, bundle: Bundle, store: ModelStore, report: Report) -> None:
        self._bundle = bundle
        self._store = store
        self._report = report
        self._total = self.missing_bytes()
        self.copied_bytes = 0
        self._arrived = 0
        self._untold = 0

    def missing_bytes(self) -> int:
        """Return the bytes of the blobs that are not in the store."""
        blobs = {blob.digest: blob.size for manifest in self._bundle.carried_models() for blob in manifest.blobs()}
        return sum(size for digest, size in blobs.items() if not self._store.blobs.has(digest))

    def take(self, model: CarriedModel, lease: Lease) -> None:
        mapped = {layer.digest: layer for layer in model.manifest.layers if layer.chunk_map is not None}
        for blob in model.manifest.blobs():
            if self._store.blobs.has(blob.digest):
                continue
            file, part = self._bundle.carried(blob.digest), self._bundle.part(blob.digest)
            layer = mapped.get(blob.digest)
            if file is None and part is not None and layer is not None:
                self._make(part, layer, lease)
            elif file is not None and layer is not None:
                self._fill(layer, partial(self._copy_chunks, file))
            elif file is not None:
                self._copy(file, blob)
            else:
                raise BundleBaseMissing(self._bundle.index.bases, 1, blob.size)

    def _copy(self, file: BundledFile, blob: Descriptor) -> None:
        """Copy a blob whole; it counts only when all of it hashes to its name."""
        with self._bundle.open_blob(file) as source, self._store.blobs.writer(file.size) as writer:
            while True:
                with reading((file.digest,)):
                    block = source.read(BLOCK_BYTES)
                if not block:
                    break
                writer.write(block)
                self._tell(blob.digest, len(block))
            try:
                writer.commit(blob.digest)
            except LayerCorrupt as error:
                raise BundleDamaged(f"blob {blob.digest[:12]}", "is not the file that was signed") from error

    def _fill(self, layer: Layer, copy: Callable[[PartialLayer], None]) -> None:
        """Put a mapped layer together chunk by verified chunk; what an earlier attempt has left counts."""
        chunk_map = self._store.chunk_map(layer)
        assert chunk_map is not None, "only layers with a chunk map come here"
        with PartialLayer.open(self._store, layer.digest, layer.size, chunk_map) as arriving:
            self._arrived += layer.size - arriving.missing_bytes()
            try:
                self._arrived += arriving.fill_from_local(self._store.chunks)
                try:
                    copy(arriving)
                finally:
                    arriving.sync()
                arriving.finish()
            except PartialIncomplete as error:
                raise BundleDamaged(f"blob {layer.digest[:12]}", f"{error.missing} chunks are not in it") from error
            except (ChunkCorrupt, LayerCorrupt) as error:
                raise BundleDamaged(f"blob {layer.digest[:12]}", str(error)) from error

    def _copy_chunks(self, file: BundledFile, arriving: PartialLayer) -> None:
        with self._bundle.open_blob(file) as source:
            unsynced = 0
            for index in arriving.missing():
                chunk = arriving.chunk_map.chunk(index)
                with reading((file.digest,)):
                    data = os.pread(source.fileno(), chunk.length, chunk.offset)
                arriving.write_chunk(index, data)
                self._tell(file.digest, chunk.length)
                unsynced += chunk.length
                if unsynced >= SYNC_BYTES:
                    arriving.sync()
                    unsynced = 0

    def _make(self, part: BundledPart, layer: Layer, lease: Lease) -> None:
        file = self._bundle.carried(part.file)
        assert file is not None, "the index was checked"
        if part.how is How.PATCH:
            self._fill(layer, partial(self._apply_patch, file))
            return
        lease.add(part.file)
        self._copy(file, Descriptor(file.digest, file.size, ""))
        try:
            apply_delta(self._store, part.file, part.base, layer)
        except DeltaInvalid as error:
            raise BundleDamaged(f"delta {part.file[:12]}", str(error)) from error
        self._tell(layer.digest, layer.size)

    def _apply_patch(self, file: BundledFile, arriving: PartialLayer) -> None:
        """Write the chunks that a patch holds; each is verified, so a patch that lies costs only itself."""
        with self._bundle.open_blob(file) as source, reading((file.digest,)):
            if source.read(len(PATCH_MAGIC)) != PATCH_MAGIC:
                raise BundleDamaged(f"patch {file.digest[:12]}", "is none of version 1")
            while number := source.read(_NUMBER_BYTES):
                index = int.from_bytes(number, "big")
                if len(number) != _NUMBER_BYTES or index >= len(arriving.chunk_map):
                    raise BundleDamaged(f"patch {file.digest[:12]}", f"no chunk {index} in this layer")
                length = arriving.chunk_map.chunk(index).length
                arriving.write_chunk(index, source.read(length))
                self._tell(file.digest, length)

    def _tell(self, digest: Digest, count: int) -> None:
        self.copied_bytes += count
        self._arrived += count
        self._untold += count
        if self._untold < TELL_BYTES and self._arrived < self._total:
            return
        self._untold = 0
        completed = min(self._arrived, self._total)
        self._report({"status": "importing", "digest": digest, "completed": completed, "total": self._total})
