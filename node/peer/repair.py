"""One repair: every blob of a model hashed again, and of a damaged one only the bad chunks fetched (specs/0027)."""

import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Final

import trio

from identity.did import DeviceId, short_did
from node.errors import NodeError, RepairIncomplete
from node.failures import NAMED
from node.peer.layer_fetch import LayerFetch
from node.peer.pull import Event, PullParts
from node.peer.repair_sources import Remote, Remotes, Repaired
from node.peer.serving import MAX_WHOLE_BYTES, Arriving
from node.peer.sources import fetch_small
from protocol.digest import Digest, format_oci_digest, short_digest
from protocol.errors import ProtocolError
from protocol.manifest import Descriptor, Layer, Manifest
from protocol.model_name import ModelName, format_model_name
from protocol.provenance import decode_and_verify_provenance
from store.errors import DiskFailed, DiskFull, ModelUnknown, StoreError
from store.leases import Lease
from store.offers import Offer
from store.partial import PartialLayer
from store.repair import (
    damaged_copies,
    find_bad,
    is_whole,
    mapped_layers,
    restore_chunk_map,
    restore_manifest,
    salvage,
    settle,
)

# A person waits for a repair, and there may be a registry to ask instead.
PATIENCE_S: Final = 15.0

_log = logging.getLogger("tilenode.repair")


@dataclass
class Repair:
    """One repair on its way; `run` sends its progress to `events` and ends when the model is whole."""

    parts: PullParts
    name: ModelName
    nicknames: dict[DeviceId, str]
    events: trio.MemorySendChannel[Event]
    remotes: Remotes
    patience_s: float = PATIENCE_S
    _done: list[Repaired] = field(default_factory=list)
    _offers: list[Offer] = field(default_factory=list)

    async def run(self) -> None:
        """Verify the model and put right what is not.

        Raises:
            ModelUnknown, RefCorrupt: the name leads to no manifest.
            RepairIncomplete: nobody who was asked has what is missing; what was found is kept.
            DiskFull, DiskFailed, PartialBusy: as the store says.
        """
        store, threads = self.parts.store, self.parts.threads
        digest = await threads.store(store.refs.get, self.name)
        if digest is None:
            raise ModelUnknown(format_model_name(self.name))
        self._offers = await threads.database(self.parts.offers.of_manifest, digest)
        with await threads.store(store.lease, [digest]) as lease:
            if not await threads.store(is_whole, store, digest):
                await self._repair_manifest(digest)
            manifest = await threads.store(store.manifest, digest)
            blobs = list(manifest.blobs())
            await threads.store(lease.add, *(blob.digest for blob in blobs))
            bad = await self._find_bad(blobs)
            for blob in bad:
                await self._repair(digest, manifest, blob, {other.digest for other in bad}, lease)
        await self.events.send(
            {
                "status": "success",
                "name": format_model_name(self.name),
                "manifest": digest,
                "blobs": len(blobs) + 1,
                "size_bytes": manifest.size_bytes,
                "repaired": [repaired.facts() for repaired in self._done],
                "bad_bytes": sum(repaired.bad_bytes for repaired in self._done),
                "moved_bytes": sum(repaired.moved_bytes for repaired in self._done),
            }
        )

    async def _find_bad(self, blobs: list[Descriptor]) -> list[Descriptor]:
        total, before = sum(blob.size for blob in blobs), 0

        def work(report: Callable[[Event], None]) -> list[Descriptor]:
            def checked(blob: Descriptor) -> None:
                nonlocal before
                report({"status": f"verifying {short_digest(blob.digest)}", "completed": before, "total": total})
                before += blob.size

            return find_bad(self.parts.store, blobs, checked)

        return await self.parts.threads.reporting(work, self.events.send)

    async def _repair(
        self, digest: Digest, manifest: Manifest, blob: Descriptor, bad: set[Digest], lease: Lease
    ) -> None:
        await self.events.send({"status": f"repairing {short_digest(blob.digest)}"})
        layer = mapped_layers(manifest).get(blob.digest)
        if layer is not None:
            await self._repair_layer(digest, layer)
        elif blob.size > MAX_WHOLE_BYTES:
            await self._repair_large(next(layer for layer in manifest.layers if layer.digest == blob.digest), lease)
        elif not await self._restore_map(manifest, blob, bad):
            await self._repair_small(blob, _describe(manifest, blob))
        await self.parts.threads.store(settle, self.parts.store, blob.digest)
        _log.info("blob_repaired", extra={"blob": blob.digest, "moved": self._done[-1].moved_bytes})

    async def _restore_map(self, manifest: Manifest, blob: Descriptor, bad: set[Digest]) -> bool:
        """Make a chunk map anew from its layer, where that is whole."""
        for layer in mapped_layers(manifest).values():
            pin = layer.chunk_map
            if pin is None or pin.digest != blob.digest or layer.digest in bad:
                continue
            if await self.parts.threads.store(restore_chunk_map, self.parts.store, layer):
                what = f"chunk map of {layer.filepath}"
                self._done.append(Repaired(blob.digest, what, blob.size, blob.size, local_bytes=blob.size))
                return True
        return False

    async def _repair_layer(self, manifest: Digest, layer: Layer) -> None:
        store, threads = self.parts.store, self.parts.threads
        chunk_map = await threads.store(store.chunk_map, layer)
        pin = layer.chunk_map
        assert chunk_map is not None, "only layers with a chunk map come here"
        assert pin is not None, "as above"
        partial = await threads.store(PartialLayer.open, store, layer.digest, layer.size, chunk_map)
        try:
            found = await threads.store(salvage, partial, damaged_copies(store.layout, manifest, layer))
            done = Repaired(layer.digest, layer.filepath, layer.size, found.bad_bytes)
            await threads.store(partial.fill_from_local, store.chunks)
            missing = await threads.store(partial.missing_bytes)
            done.local_bytes = found.bad_bytes - missing
            if missing:
                async with self.parts.arriving.arriving(Arriving(partial, pin.digest)):
                    await self._fetch_missing(partial, pin.digest, done)
            await threads.store(partial.finish)
        finally:
            partial.close()
        self._done.append(done)

    async def _fetch_missing(self, partial: PartialLayer, chunk_map: Digest, done: Repaired) -> None:
        """Fetch the missing chunks from linked devices, then what still is missing from the registries of its history.

        Raises:
            RepairIncomplete: neither has it.
        """
        if self._candidates():
            await self._fetch_from_peers(partial, chunk_map, done)
        for remote in await self._open_remotes():
            if not partial.missing():
                return
            await self._fetch_from_remote(partial, remote, done)
        missing = await self.parts.threads.store(partial.missing_bytes)
        if missing:
            raise self._incomplete(done.digest, done.what, missing)

    async def _fetch_from_peers(self, partial: PartialLayer, chunk_map: Digest, done: Repaired) -> None:
        def report(fetch: LayerFetch) -> None:
            if fetch.waiting_since_s is not None and fetch.lost_holders:
                self._tell_nowait({"status": f"waiting for {self._labels(fetch.lost_holders)}"})
                return
            self._tell_nowait(self._progress(done, fetch.missing_bytes, self._labels(fetch.sources)))

        fetch = LayerFetch(
            self.parts.transport,
            self.parts.threads,
            self.parts.clock,
            partial,
            chunk_map,
            holders={offer.peer for offer in self._offers},
            report=report,
            wake=self.parts.wake,
            patience_s=min(self.patience_s, self.parts.patience_s),
        )
        try:
            await fetch.run()
        except NodeError as error:  # nobody has it, or not now: registries may; what the disk says is raised
            _log.info("peers_lack_chunks", extra={"layer": partial.digest, "error": type(error).__name__})
        finally:
            done.moved_bytes += fetch.received_bytes
            done.sources += tuple(self._label(peer) for peer in fetch.sources)

    async def _fetch_from_remote(
        self, partial: PartialLayer, opened: AbstractContextManager[Remote], done: Repaired
    ) -> None:
        label = ""

        def work(report: Callable[[Event], None]) -> None:
            nonlocal label
            with opened as remote:
                label = remote.label
                report({"status": f"asking {remote.label}"})
                done.moved_bytes += remote.fill(partial, lambda left: report(self._progress(done, left, remote.label)))

        missing, moved = await self.parts.threads.store(partial.missing_bytes), done.moved_bytes
        try:
            await self.parts.threads.reporting(work, self.events.send)
        except (DiskFull, DiskFailed):
            raise
        except (StoreError, ProtocolError) as error:
            _log.info("registry_lacks_chunks", extra={"layer": partial.digest, "error": type(error).__name__})
            # What came until then counts: as much as there is more of now.
            done.moved_bytes += missing - await self.parts.threads.store(partial.missing_bytes)
        done.sources += (label,) if done.moved_bytes > moved else ()

    async def _repair_large(self, layer: Layer, lease: Lease) -> None:
        """Fetch a layer that has no chunk map again, as a stream: only registries have such ones.

        Raises:
            RepairIncomplete: none of those in the history has it.
        """
        for opened in await self._open_remotes():

            def work(
                report: Callable[[Event], None], opened: AbstractContextManager[Remote] = opened
            ) -> tuple[str, int]:
                with opened as remote:
                    return remote.label, remote.whole(self.parts.store, layer, lease, report)

            try:
                label, moved = await self.parts.threads.reporting(work, self.events.send)
            except (DiskFull, DiskFailed):
                raise
            except (StoreError, ProtocolError) as error:
                _log.info("registry_lacks_blob", extra={"blob": layer.digest, "error": type(error).__name__})
                continue
            self._done.append(Repaired(layer.digest, layer.filepath, layer.size, layer.size, moved, sources=(label,)))
            return
        raise self._incomplete(layer.digest, layer.filepath, layer.size)

    async def _repair_small(self, blob: Descriptor, what: str) -> None:
        """Fetch one small blob whole, from whoever has it.

        Raises:
            RepairIncomplete: nobody who was asked has it.
        """

        async def from_peer(peer: DeviceId) -> bytes:
            return await fetch_small(self.parts.transport, peer, blob.digest, blob.size, lambda _: None)

        candidates = self._candidates()
        content, source = await self._whole(
            blob.digest, what, blob.size, candidates, from_peer, lambda remote: remote.small(blob.digest, blob.size)
        )
        await self.parts.threads.store(self.parts.store.blobs.publish_bytes, content)
        self._done.append(Repaired(blob.digest, what, blob.size, blob.size, len(content), sources=(source,)))

    async def _repair_manifest(self, digest: Digest) -> None:
        """Put the manifest back: it stands in every provenance bundle of the model.

        Raises:
            RepairIncomplete: nobody who was asked has it.
        """
        store, threads = self.parts.store, self.parts.threads
        if await threads.store(restore_manifest, store, digest):
            size = await threads.store(store.blobs.size, digest)
            self._done.append(Repaired(digest, "manifest", size, size, local_bytes=size))
        else:
            content, source = await self._whole(
                digest, "manifest", 0, self._holders(), self._manifest_from, lambda remote: remote.manifest(digest)
            )
            if await threads.store(store.blobs.publish_bytes, content) != digest:
                raise self._incomplete(digest, "manifest", 0)
            self._done.append(Repaired(digest, "manifest", len(content), len(content), len(content), sources=(source,)))
        await threads.store(settle, store, digest)

    async def _manifest_from(self, peer: DeviceId) -> bytes:
        offer = next(offer for offer in self._offers if offer.peer == peer)
        bundle = await self.parts.intake.fetch_bundle(peer, offer.manifest, offer.bundle)
        return (await self.parts.threads.store(decode_and_verify_provenance, bundle)).manifest

    async def _whole(
        self,
        digest: Digest,
        what: str,
        size: int,
        peers: list[DeviceId],
        from_peer: Callable[[DeviceId], Awaitable[bytes]],
        from_remote: Callable[[Remote], bytes],
    ) -> tuple[bytes, str]:
        """Return something small, and who gave it: the first device, else the first registry that has it."""
        for peer in peers:
            try:
                return await from_peer(peer), self._label(peer)
            except NAMED as error:
                _log.info("peer_lacks_blob", extra={"peer": peer, "blob": digest, "error": type(error).__name__})
        for opened in await self._open_remotes():
            try:
                return await self.parts.threads.store(_ask, opened, from_remote)
            except (StoreError, ProtocolError) as error:
                _log.info("registry_lacks_blob", extra={"blob": digest, "error": type(error).__name__})
        raise self._incomplete(digest, what, size)

    async def _open_remotes(self) -> Sequence[AbstractContextManager[Remote]]:
        return await self.parts.threads.store(self.remotes, self.name)

    def _holders(self) -> list[DeviceId]:
        """Return the devices that are known to offer this model, each once."""
        return list(dict.fromkeys(offer.peer for offer in self._offers))

    def _candidates(self) -> list[DeviceId]:
        """Return who can be asked: connected devices, those that offer the model first, and those that are away."""
        holders, connected = self._holders(), self.parts.transport.connected()
        return sorted(connected.union(holders), key=lambda peer: (peer not in connected, peer not in holders, peer))

    def _incomplete(self, digest: Digest, what: str, missing_bytes: int) -> RepairIncomplete:
        connected = self.parts.transport.connected()
        away = [self._label(peer) for peer in self._holders() if peer not in connected]
        asked = [self._label(peer) for peer in sorted(connected)]
        return RepairIncomplete(format_model_name(self.name), what, digest, missing_bytes, away, asked)

    def _tell_nowait(self, event: Event) -> None:
        try:
            self.events.send_nowait(event)
        except trio.WouldBlock:
            return  # the reader is behind; the next report says more

    def _progress(self, done: Repaired, missing_bytes: int, source: str) -> Event:
        return {
            "status": f"repairing {short_digest(done.digest)}",
            "digest": format_oci_digest(done.digest),
            "total": done.bad_bytes,
            "completed": max(0, done.bad_bytes - missing_bytes),
            "source": source,
        }

    def _labels(self, peers: Sequence[DeviceId]) -> str:
        return ", ".join(self._label(peer) for peer in peers)

    def _label(self, peer: DeviceId) -> str:
        return self.nicknames.get(peer) or short_did(peer)


def _ask(opened: AbstractContextManager[Remote], ask: Callable[[Remote], bytes]) -> tuple[bytes, str]:
    with opened as remote:
        return ask(remote), remote.label


def _describe(manifest: Manifest, blob: Descriptor) -> str:
    """Return what a blob is to the model: a file, a file's chunk map, or the config."""
    for layer in manifest.layers:
        pin = layer.chunk_map
        if layer.digest == blob.digest:
            return layer.filepath
        if pin is not None and pin.digest == blob.digest:
            return f"chunk map of {layer.filepath}"
    return "config"
