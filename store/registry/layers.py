"""One layer from a registry into the store: by delta, by missing chunks or whole, whichever moves the least."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from protocol.chunkmap import MAX_CHUNK_MAP_BYTES, ChunkMap, decode_chunk_map
from protocol.digest import format_oci_digest, short_digest
from protocol.errors import ChunkMapInvalid, DeltaInvalid
from protocol.manifest import Descriptor, Layer
from store.delta import apply_delta
from store.errors import BlobMissing, ChunkCorrupt, LayerCorrupt
from store.leases import Lease
from store.models import ModelStore
from store.partial import PartialLayer
from store.referrers import DeltaBlob
from store.registry.client import RegistryClient
from store.registry.errors import AnswerMismatch, AnswerTooLarge, RegistryUnknown, RegistryUnreachable
from store.registry.offered import Offered
from store.registry.ranges import fetch_missing
from store.registry.whole import WholePartial
from store.repair import restore_chunk_map

Event = dict[str, object]
Report = Callable[[Event], None]

TELL_S: Final = 0.1


@dataclass
class Tally:
    """What a pull did not have to move: taken from blobs that are here, and left by an earlier run; bytes."""

    reused: int = 0
    resumed: int = 0


@dataclass
class Progress:
    """Tells how far a blob is, in the words that clients know; ten times a second at most, the end always."""

    report: Report
    source: str
    blob: Descriptor
    verb: str = "pulling"
    reused: int = 0
    _told_s: float = field(default=0.0, init=False)
    _ended: bool = field(default=False, init=False)
    _began_s: float = field(default_factory=time.monotonic, init=False)

    def __call__(self, completed: int, moved: int) -> None:
        """Tell that `completed` bytes are there, `moved` of them since this fetch began."""
        now_s = time.monotonic()
        ended = completed >= self.blob.size
        if self._ended or (now_s - self._told_s < TELL_S and not ended):
            return
        self._ended = ended
        self._told_s = now_s
        self.report(
            {
                "status": f"{self.verb} {short_digest(self.blob.digest)}",
                "digest": format_oci_digest(self.blob.digest),
                "total": self.blob.size,
                "completed": completed,
                "reused": self.reused,
                "source": self.source,
                "rate": round(moved / max(now_s - self._began_s, 0.001)),
            }
        )


@dataclass
class LayerPull:
    """Brings the blobs of one manifest; `tally` counts for all of them."""

    client: RegistryClient
    store: ModelStore
    offered: Offered
    lease: Lease
    report: Report
    deltas: bool = True
    tally: Tally = field(default_factory=Tally)

    @property
    def source(self) -> str:
        """The registry, as it is shown."""
        return self.client.reference.host

    def take_small(self, blob: Descriptor) -> None:
        """Fetch a config or the like, at most a few megabytes, and publish it. Raises as `RegistryClient.read_blob`."""
        content = self.client.read_blob(blob.digest, blob.size)
        self.store.blobs.publish_bytes(content)
        self._progress(blob)(blob.size, blob.size)

    def take_layer(self, layer: Layer) -> None:
        """Fetch a layer, and its chunk map where it has one.

        Raises:
            RegistryError, RegistryAnswerInvalid: as the client says; what arrived is kept.
            ChunkCorrupt, LayerCorrupt: the registry sent other bytes than it promised.
            ChunkMapInvalid: the chunk map that the manifest pins is none of this layer.
            PartialBusy, DiskFull, DiskFailed: as the store says.
        """
        chunk_map = self._chunk_map(layer)
        if self.store.blobs.has(layer.digest):
            self.tally.reused += layer.size
            self._progress(_blob(layer), reused=layer.size)(layer.size, 0)
        elif chunk_map is None:
            self._take_whole(_blob(layer))
        elif not self._rebuild(layer, chunk_map):
            try:
                self._take_missing(layer, chunk_map)
            except (ChunkCorrupt, LayerCorrupt):
                if layer.chunk_map is not None:
                    raise
                self._take_whole(_blob(layer))  # only the map is known to be wrong, and the manifest names none
        self._settle_chunk_map(layer)

    def _chunk_map(self, layer: Layer) -> ChunkMap | None:
        """Return the map of a layer: the pinned one, else one that a referrer brings; None where there is none."""
        pin = layer.chunk_map or self.offered.chunk_maps.get(layer.digest)
        if pin is None or pin.size > MAX_CHUNK_MAP_BYTES:
            return None
        try:
            if self.store.blobs.has(pin.digest):
                content = self.store.blobs.read(pin.digest, pin.size)
            else:
                content = self.client.read_blob(pin.digest, pin.size)
            chunk_map = decode_chunk_map(content, layer.digest, layer.size)
        except RegistryUnknown:
            return None  # copied by a program that leaves referrers behind: it is made anew from the whole layer
        except ChunkMapInvalid:
            if layer.chunk_map is not None:
                raise
            return None
        if layer.chunk_map is not None:
            self.store.blobs.publish_bytes(content)
        return chunk_map

    def _settle_chunk_map(self, layer: Layer) -> None:
        """See that a pinned map is in the store and its chunks are known.

        Raises:
            AnswerMismatch: it cannot be had, and cutting the layer does not give it.
        """
        pin = layer.chunk_map
        if pin is None:
            return
        if not self.store.blobs.has(pin.digest) and not restore_chunk_map(self.store, layer):
            what = f"chunk map {short_digest(pin.digest)}"
            raise AnswerMismatch(self.source, what, "it is not there, and the layer does not give it")
        chunk_map = self.store.chunk_map(layer)
        if chunk_map is not None:
            self.store.chunks.add(layer.digest, chunk_map)

    def _take_missing(self, layer: Layer, chunk_map: ChunkMap) -> None:
        with PartialLayer.open(self.store, layer.digest, layer.size, chunk_map) as partial:
            self.tally.resumed += layer.size - partial.missing_bytes()
            reused = partial.fill_from_local(self.store.chunks)
            self.tally.reused += reused
            there = layer.size - partial.missing_bytes()
            progress = self._progress(_blob(layer), reused=reused)
            progress(there, 0)
            moved = fetch_missing(self.client, partial, lambda count: progress(min(there + count, layer.size), count))
            progress(layer.size, moved)
            self._verifying(layer)
            partial.finish()

    def _take_whole(self, blob: Descriptor) -> None:
        """Fetch a layer without a chunk map; once more from the start where a resumed one proves wrong."""
        resumed = self._stream_whole(blob)
        if resumed and not self.store.blobs.has(blob.digest):
            self._stream_whole(blob)
        if not self.store.blobs.has(blob.digest):
            raise LayerCorrupt(blob.digest, None, "as the registry has it")

    def _stream_whole(self, blob: Descriptor) -> bool:
        """Fetch the rest of a blob and publish it if it is right; return whether an earlier run had begun it."""
        with WholePartial(self.store, blob.digest, blob.size) as partial:
            began = partial.received
            self.tally.resumed += began
            progress = self._progress(blob, reused=0)
            while partial.received < blob.size:
                self._append(partial, began, progress)
            self._verifying(blob)
            try:
                partial.finish()
            except LayerCorrupt:
                if not began:
                    raise
                self.tally.resumed -= began
        return began > 0

    def _append(self, partial: WholePartial, began: int, progress: Progress) -> None:
        """Append what one connection brings."""
        before = partial.received
        try:
            with self.client.blob(partial.digest, before, partial.size, partial.size) as (offset, answer):
                skipped = before - offset  # what a registry that ignores ranges sends once more
                for piece in answer.stream():
                    kept = piece[min(skipped, len(piece)) :]
                    skipped -= len(piece) - len(kept)
                    partial.write(kept)
                    progress(partial.received, partial.received - began)
        except RegistryUnreachable:
            if partial.received == before:
                raise
            self.client.caller.pause(self.client.session.pace.first_pause_s)
        if partial.received == before:
            raise AnswerMismatch(self.source, f"blob {short_digest(partial.digest)}", "it ends early")

    def _rebuild(self, layer: Layer, chunk_map: ChunkMap) -> bool:
        """Make the layer from one that is here and a delta; False where that moves more, or does not work."""
        delta = self._delta_for(layer, chunk_map) if self.deltas else None
        if delta is None:
            return False
        self.lease.add(delta.base)
        kept = self.store.lease([delta.blob.digest])
        try:
            if not self.store.blobs.has(delta.blob.digest):
                self._take_whole(delta.blob)
            self.report({"status": f"rebuilding {short_digest(layer.digest)} from {short_digest(delta.base)}"})
            apply_delta(self.store, delta.blob.digest, delta.base, layer)
        except (DeltaInvalid, BlobMissing, LayerCorrupt, RegistryUnknown, AnswerMismatch, AnswerTooLarge) as error:
            self.report({"status": f"a delta did not work ({error}), fetching chunks"})
            return False
        finally:
            self.store.discard(kept)  # which blob it is the registry says: it may be one that somebody needs
        self.tally.reused += layer.size
        self._progress(_blob(layer), reused=layer.size)(layer.size, 0)
        return True

    def _delta_for(self, layer: Layer, chunk_map: ChunkMap) -> DeltaBlob | None:
        """Return the smallest delta to `layer` from a blob that is here, when it is smaller than the missing chunks."""
        usable = [
            delta
            for delta in self.offered.deltas
            if delta.target == layer.digest and self.store.blobs.has(delta.base) and delta.blob.size < layer.size
        ]
        if not usable or self.store.layout.bitmap_path(layer.digest).exists():
            return None  # a fetch that has begun is ended the way it began
        smallest = min(usable, key=lambda delta: delta.blob.size)
        lacking = sum(chunk.length for chunk in chunk_map if self.store.chunks.find(chunk.blake3) is None)
        return smallest if smallest.blob.size < lacking else None

    def _verifying(self, blob: Descriptor | Layer) -> None:
        self.report({"status": "verifying sha256 digest", "digest": format_oci_digest(blob.digest)})

    def _progress(self, blob: Descriptor, reused: int = 0) -> Progress:
        return Progress(self.report, self.source, blob, reused=reused)


def _blob(layer: Layer) -> Descriptor:
    return Descriptor(layer.digest, layer.size, layer.media_type)
