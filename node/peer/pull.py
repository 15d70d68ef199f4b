"""One pull: from a name to a model in the store, everything verified before the name moves (specs/0012)."""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import trio

from identity.did import DeviceId, short_did
from node.errors import (
    FetchStalled,
    LayerTooLarge,
    ModelNotOffered,
    OfferAmbiguous,
    OfferRefused,
    OriginStopped,
    PeerNotLinked,
    PeerUnreachable,
    RemoteRefused,
    StreamClosed,
)
from node.failures import NAMED
from node.net.transport import Transport
from node.peer.intake import Intake
from node.peer.layer_fetch import PATIENCE_S, LayerFetch
from node.peer.serving import MAX_WHOLE_BYTES, Arriving, ArrivingLayers
from node.peer.sources import fetch_small
from node.ports import Clock
from node.threads import Threads
from protocol.chunkmap import ChunkMap
from protocol.digest import Digest, format_oci_digest, short_digest
from protocol.manifest import Descriptor, Layer, Manifest, parse_manifest
from protocol.model_name import ModelName, format_model_name
from protocol.provenance import Provenance, decode_and_verify_provenance
from protocol.refusal import RefusalCode
from store.leases import Lease
from store.models import ModelStore
from store.offers import Offer, Offers
from store.partial import PartialLayer
from store.peers import LinkedPeer
from store.refs import RefEvent

Event = dict[str, object]

RETRY_S: Final = 1.0
MAX_EXCHANGES: Final = 3
EXCHANGE_S: Final = 30.0

_log = logging.getLogger("tilenode.pull")


@dataclass(frozen=True)
class PullParts:
    """What every pull of this node works with."""

    transport: Transport
    store: ModelStore
    offers: Offers
    intake: Intake
    arriving: ArrivingLayers
    threads: Threads
    clock: Clock
    exchange: Callable[[DeviceId], Awaitable[None]]
    refusal: Callable[[DeviceId, ModelName], OfferRefused | None]
    wake: Callable[[DeviceId], None]
    patience_s: float = PATIENCE_S


@dataclass
class Tally:
    """What a pull has moved and what it did not have to move; bytes."""

    moved: int = 0
    reused: int = 0
    resumed: int = 0


@dataclass
class Patience:
    """Who may still deliver, and until when it is waited for: a lost connection is waited for, a refusal is not."""

    holders: frozenset[DeviceId]
    until_s: float
    out: dict[DeviceId, Exception] = field(default_factory=dict)

    def note(self, peer: DeviceId, error: Exception) -> None:
        """Note a failure; what another attempt will not change rules the peer out."""
        _log.info("source_failed", extra={"peer": peer, "error": type(error).__name__})
        busy = isinstance(error, RemoteRefused) and error.code == RefusalCode.BUSY
        if not busy and not isinstance(error, PeerUnreachable | StreamClosed | trio.TooSlowError):
            self.out.setdefault(peer, error)

    def raise_if_hopeless(self) -> None:
        """Raise what ruled the last holder out, if none is left."""
        if self.out and not self.holders - self.out.keys():
            raise next(error for peer, error in self.out.items() if peer in self.holders)


@dataclass
class _Rate:
    """Bytes per second since the last look."""

    at_s: float
    count: int = 0
    per_s: int = 0

    def look(self, count: int, now_s: float) -> int:
        if now_s - self.at_s >= 0.2:
            self.per_s = round((count - self.count) / (now_s - self.at_s))
            self.at_s, self.count = now_s, count
        return self.per_s


@dataclass
class Pull:
    """One pull on its way; `run` sends its progress to `events` and ends when the name has moved."""

    parts: PullParts
    name: ModelName
    source: LinkedPeer | None
    nicknames: dict[DeviceId, str]
    events: trio.MemorySendChannel[Event]
    tally: Tally = field(default_factory=Tally)

    async def run(self) -> None:
        """Pull the model.

        Raises:
            ModelNotOffered, OfferAmbiguous: the name leads to no model, or to several.
            PeerUnreachable, PeerNotLinked, RemoteRefused: the device that was named cannot be asked.
            OfferRefused, OriginStopped, ChunkMapInvalid, LayerTooLarge: what it offers is not acceptable.
            FetchStalled, BlobUnavailable: not everything could be fetched; what arrived is kept.
            ManifestInvalid, ModelfileInvalid: its config or Modelfile cannot be read; the name was not moved.
            DiskFull, DiskFailed, LayerCorrupt, PartialBusy: as the store says.
        """
        parts, started_s = self.parts, self.parts.clock.monotonic_s()
        await self.events.send({"status": "pulling manifest"})
        offers = await self._resolve()
        bundle, provenance = await self._fetch_bundle(offers)
        manifest = parse_manifest(provenance.manifest)
        holders = frozenset(offer.peer for offer in offers)
        with parts.store.lease([provenance.manifest_digest, *(blob.digest for blob in manifest.blobs())]) as lease:
            await self._require_fit(manifest)
            await self._fetch_blobs(manifest, holders, lease)
            await self.events.send({"status": "writing manifest"})
            await parts.threads.store(self._keep, bundle, provenance)
        seconds = parts.clock.monotonic_s() - started_s
        await self.events.send(
            {
                "status": "success",
                "name": format_model_name(self.name),
                "publisher": provenance.publisher,
                "manifest": format_oci_digest(provenance.manifest_digest),
                "bytes_moved": self.tally.moved,
                "bytes_reused": self.tally.reused,
                "bytes_resumed": self.tally.resumed,
                "seconds": round(seconds, 3),
            }
        )

    async def _resolve(self) -> list[Offer]:
        """Return the offers of the newest manifest under the name, those of connected peers first."""
        asked = sorted(self.parts.transport.connected()) if self.source is None else [self.source.did]
        failures: dict[DeviceId, Exception] = {}
        async with trio.open_nursery() as nursery:
            for peer in asked:
                nursery.start_soon(self._refresh, peer, failures)
        failure = failures.get(self.source.did) if self.source is not None else None
        if isinstance(failure, OriginStopped | PeerNotLinked | PeerUnreachable | RemoteRefused):
            raise failure
        found = await self.parts.threads.database(self.parts.offers.of_name, self.name)
        offers = [offer for offer in found if self.source is None or offer.peer == self.source.did]
        if not offers:
            for refusal in filter(None, (self.parts.refusal(peer, self.name) for peer in asked)):
                raise refusal
            who = "any linked device that is connected" if self.source is None else self._label(self.source.did)
            raise ModelNotOffered(format_model_name(self.name), who)
        publishers = tuple(sorted({offer.publisher for offer in offers}))
        if len(publishers) > 1:
            raise OfferAmbiguous(format_model_name(self.name), publishers)
        newest = max(offers, key=lambda offer: offer.log_size)
        connected = self.parts.transport.connected()
        same = [offer for offer in found if offer.manifest == newest.manifest and offer.publisher == newest.publisher]
        return sorted(same, key=lambda offer: (offer.peer not in connected, offer.peer not in asked))

    async def _refresh(self, peer: DeviceId, failures: dict[DeviceId, Exception]) -> None:
        """Exchange heads with a peer; once more where the connection was lost, as when both sides have just dialled."""
        for _ in range(MAX_EXCHANGES):
            try:
                if self.source is not None:
                    await self.parts.transport.dial(peer, self.source.addresses)
                with trio.fail_after(EXCHANGE_S):
                    await self.parts.exchange(peer)
            except NAMED as error:
                failures[peer] = error
                _log.info("refresh_failed", extra={"peer": peer, "error": type(error).__name__})
                if not isinstance(error, PeerUnreachable | StreamClosed):
                    return
                await trio.sleep(RETRY_S / 4)
            else:
                failures.pop(peer, None)
                return

    async def _fetch_bundle(self, offers: list[Offer]) -> tuple[bytes, Provenance]:
        """Return the bundle from the first offer that delivers it, verified once more; waits with patience."""
        patience = self._patience(frozenset(offer.peer for offer in offers))
        while True:
            for offer in offers:
                try:
                    bundle = await self.parts.intake.fetch_bundle(offer.peer, offer.manifest, offer.bundle)
                    provenance = await self.parts.threads.store(decode_and_verify_provenance, bundle)
                except NAMED as error:
                    patience.note(offer.peer, error)
                    continue
                self.tally.moved += len(bundle)
                return bundle, provenance
            await self._wait(patience, offers[0].manifest, 0)

    async def _require_fit(self, manifest: Manifest) -> None:
        """Refuse what cannot be fetched before anything is: layers too large for one piece, a disk too small.

        Raises:
            LayerTooLarge, DiskFull: nothing was fetched.
        """
        for layer in manifest.layers:
            if layer.chunk_map is None and layer.size > MAX_WHOLE_BYTES:
                raise LayerTooLarge(layer.digest, layer.size, MAX_WHOLE_BYTES)
        missing = [blob for blob in manifest.blobs() if not await self._has(blob.digest)]
        await self.parts.threads.store(self.parts.store.require_space, sum(blob.size for blob in missing))

    async def _fetch_blobs(self, manifest: Manifest, holders: frozenset[DeviceId], lease: Lease) -> None:
        mapped = {layer.digest: layer for layer in manifest.layers if layer.chunk_map is not None}
        for blob in manifest.blobs():
            if await self._has(blob.digest):
                self.tally.reused += blob.size
                await self._tell(blob, completed=blob.size, reused=blob.size)
            elif blob.digest in mapped:
                await self._fetch_layer(blob, mapped[blob.digest], holders)
            else:
                await self._fetch_small(blob, holders)

    async def _fetch_small(self, blob: Descriptor, holders: frozenset[DeviceId]) -> None:
        """Fetch one small blob whole, from whoever delivers it; waits with patience while nobody is there."""
        patience = self._patience(holders)
        await self._tell(blob, completed=0)
        while True:
            for peer in self._candidates(holders, patience):
                try:
                    content = await fetch_small(self.parts.transport, peer, blob.digest, blob.size, self._count)
                except NAMED as error:
                    patience.note(peer, error)
                    continue
                await self.parts.threads.store(self.parts.store.blobs.publish_bytes, content)
                await self._tell(blob, completed=blob.size, source=(peer,))
                return
            await self._wait(patience, blob.digest, blob.size)

    def _candidates(self, holders: frozenset[DeviceId], patience: Patience) -> list[DeviceId]:
        connected = self.parts.transport.connected() - patience.out.keys()
        return sorted(connected, key=lambda peer: (peer not in holders, peer))

    def _patience(self, holders: frozenset[DeviceId]) -> Patience:
        return Patience(holders, self.parts.clock.monotonic_s() + self.parts.patience_s)

    async def _wait(self, patience: Patience, digest: Digest, missing_bytes: int) -> None:
        """Wait until a connection changed or a moment has passed; holders that are away are called.

        Raises:
            FetchStalled: the patience is at its end.
            PeerNotLinked, RemoteRefused, OfferRefused, BlobUnavailable, …: no holder can deliver any more.
        """
        for peer in patience.holders:
            if self.parts.transport.peers.scope_of(peer) is None:
                patience.note(peer, PeerNotLinked(peer))
        patience.raise_if_hopeless()
        if self.parts.clock.monotonic_s() >= patience.until_s:
            raise FetchStalled(digest, missing_bytes, self.parts.patience_s)
        lost = sorted(patience.holders - patience.out.keys() - self.parts.transport.connected())
        for peer in lost:
            self.parts.wake(peer)
        if lost:
            await self.events.send({"status": f"waiting for {self._labels(lost)}"})
        with self.parts.transport.subscribe() as changes, trio.move_on_after(RETRY_S):
            await changes.receive()

    async def _fetch_layer(self, blob: Descriptor, layer: Layer, holders: frozenset[DeviceId]) -> None:
        threads, store = self.parts.threads, self.parts.store
        chunk_map = await threads.store(store.chunk_map, layer)
        assert chunk_map is not None, "only layers with a chunk map come here"
        pin = layer.chunk_map
        assert pin is not None
        async with self._partial(blob, chunk_map) as partial:
            self.tally.resumed += blob.size - await threads.store(partial.missing_bytes)
            reused = await threads.store(partial.fill_from_local, store.chunks)
            self.tally.reused += reused
            async with self.parts.arriving.arriving(Arriving(partial, pin.digest)):
                await self._fetch_chunks(blob, partial, pin.digest, holders, reused)
            await self.events.send({"status": "verifying sha256 digest", "digest": format_oci_digest(blob.digest)})
            await threads.store(partial.finish)

    @asynccontextmanager
    async def _partial(self, blob: Descriptor, chunk_map: ChunkMap) -> AsyncIterator[PartialLayer]:
        partial = await self.parts.threads.store(PartialLayer.open, self.parts.store, blob.digest, blob.size, chunk_map)
        try:
            yield partial
        finally:
            partial.close()

    async def _fetch_chunks(
        self, blob: Descriptor, partial: PartialLayer, chunk_map: Digest, holders: frozenset[DeviceId], reused: int
    ) -> None:
        rate = _Rate(self.parts.clock.monotonic_s())

        def report(fetch: LayerFetch) -> None:
            now_s = self.parts.clock.monotonic_s()
            if fetch.waiting_since_s is not None and fetch.lost_holders:
                self._tell_nowait({"status": f"waiting for {self._labels(fetch.lost_holders)}"})
                return
            completed = fetch.total_bytes - fetch.missing_bytes
            per_s = rate.look(fetch.received_bytes, now_s)
            self._tell_nowait(self._progress(blob, completed, reused, fetch.sources, per_s))

        fetch = LayerFetch(
            self.parts.transport,
            self.parts.threads,
            self.parts.clock,
            partial,
            chunk_map,
            holders=holders,
            report=report,
            wake=self.parts.wake,
            patience_s=self.parts.patience_s,
        )
        began_s = self.parts.clock.monotonic_s()
        try:
            await fetch.run()
        finally:
            self.tally.moved += fetch.received_bytes
        per_s = round(fetch.received_bytes / max(self.parts.clock.monotonic_s() - began_s, 0.001))
        await self.events.send(self._progress(blob, blob.size, reused, fetch.sources, per_s))

    def _keep(self, bundle: bytes, provenance: Provenance) -> None:
        """Publish the manifest, keep its provenance, move the name: in this order, so that a kill leaves no half."""
        self.parts.store.blobs.publish_bytes(provenance.manifest)
        self.parts.store.require_readable(provenance.manifest_digest)
        self.parts.store.provenance.save(bundle)
        source = f"peer {self._label(self.source.did)}" if self.source else f"publisher {provenance.publisher}"
        self.parts.store.refs.set(self.name, provenance.manifest_digest, event=RefEvent.PULL, source=source)

    async def _has(self, digest: Digest) -> bool:
        return await self.parts.threads.store(self.parts.store.blobs.has, digest)

    def _count(self, count: int) -> None:
        self.tally.moved += count

    async def _tell(self, blob: Descriptor, completed: int, reused: int = 0, source: tuple[DeviceId, ...] = ()) -> None:
        await self.events.send(self._progress(blob, completed, reused, source, 0))

    def _tell_nowait(self, event: Event) -> None:
        try:
            self.events.send_nowait(event)
        except trio.WouldBlock:
            return  # the reader is behind; the next report says more

    def _progress(
        self, blob: Descriptor, completed: int, reused: int, sources: tuple[DeviceId, ...], per_s: int
    ) -> Event:
        return {
            "status": f"pulling {short_digest(blob.digest)}",
            "digest": format_oci_digest(blob.digest),
            "total": blob.size,
            "completed": completed,
            "reused": reused,
            "source": self._labels(sources),
            "rate": per_s,
        }

    def _labels(self, peers: tuple[DeviceId, ...] | list[DeviceId]) -> str:
        return ", ".join(self._label(peer) for peer in peers)

    def _label(self, peer: DeviceId) -> str:
        return self.nicknames.get(peer) or short_did(peer)
