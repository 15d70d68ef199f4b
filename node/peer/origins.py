"""The logs of other devices: a checkpoint must continue the last one seen, and who forks is stopped (specs/0011)."""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from typing import Final

import trio

from identity.did import DeviceId
from node.errors import LogBehind, OriginStopped, PeerUnreachable, RemoteRefused, TooManyOrigins
from node.net.access import Access
from node.net.streams import PeerStream
from node.net.transport import Transport
from node.threads import Threads
from protocol.checkpoint import Checkpoint, open_checkpoint
from protocol.heads import (
    CONSISTENCY_PROTOCOL,
    MAX_PROOF_FRAME_BYTES,
    MAX_REQUEST_BYTES,
    Proof,
    ProofRequest,
    decode_proof,
    decode_proof_request,
    encode_proof,
    encode_proof_request,
)
from protocol.refusal import RefusalCode
from store.errors import LogForked
from store.evidence import SeenCheckpoint, SeenLogs
from store.log import Log
from store.offers import Offers

REQUEST_S: Final = 20.0
MAX_STRANGE_ORIGINS: Final = 64
_NO_PROOF: Final = Proof((), b"")
Carried = Callable[[int, int], Proof | None]

_log = logging.getLogger("tilenode.origins")


class Origins:
    """What other devices' logs say, followed and checked; serves consistency proofs of this device's own log."""

    def __init__(
        self,
        transport: Transport,
        seen: SeenLogs,
        log: Log,
        offers: Offers,
        threads: Threads,
        held: Callable[[], Awaitable[Collection[DeviceId]]],
        alarm: Callable[[Mapping[str, object]], None],
    ) -> None:
        """`held` gives the publishers of the models that are here.

        `alarm` is called with the facts when a log forked or went back; it must not block.
        """
        self._transport = transport
        self._seen = seen
        self._own: Final = log
        self._offers = offers
        self._threads = threads
        self._held = held
        self._alarm = alarm
        self._stopped: frozenset[DeviceId] = frozenset()
        self._behind: dict[DeviceId, int] = {}
        self._following: dict[DeviceId, trio.Lock] = {}
        transport.handle(CONSISTENCY_PROTOCOL, self._serve_proof, access=Access.LINKED)

    def stopped(self) -> frozenset[DeviceId]:
        """Return the devices that are known to have signed two logs."""
        return self._stopped

    async def load(self) -> None:
        """Read which origins are stopped; to be called once before anything is accepted."""
        found = await self._threads.store(self._frozen_origins)
        self._stopped |= frozenset(found)
        for origin in found:
            self._transport.peers.stop(origin)

    async def require_honest(self, origin: DeviceId) -> None:
        """Accept a device that signed one log only; one that is stopped is cut off.

        Raises:
            OriginStopped: it signed two.
        """
        if origin not in self._stopped:
            return
        if origin in self._transport.connected():
            await self._transport.disconnect(origin)
        raise OriginStopped(origin)

    async def follow(self, origin: DeviceId, note: bytes, carried: Carried = lambda *_: None) -> None:
        """Check that a checkpoint of `origin` and the newest one seen are states of one log; keep the newer one.

        The proof comes from the origin itself; of this device's own log, from the log; or it is at hand: `carried`
        gives it for two sizes, the smaller one first. Raises:
            LogRolledBack: it is of this device's own log, and shows that this log was set back.
            TooManyOrigins: it is the first note of a log, of a device that is not linked, and 64 of these are in use.
            OriginStopped: the two show a fork, or one was shown before. The evidence is kept.
            LogBehind: it is older than what was seen, and the origin cannot prove that it belongs to the same log.
            CheckpointInvalid: not signed by `origin`.
            ConsistencyInvalid, PeerUnreachable, RemoteRefused, StreamClosed, TooSlowError: there is no valid proof now.
        """
        if origin == self._own.origin:
            await self._threads.store(self._own.observe, note)
            return
        async with self._alone_with(origin):
            await self.require_honest(origin)
            checkpoint = open_checkpoint(note, origin)
            latest = await self._threads.store(self._seen.latest, origin)
            if latest is None:
                await self._require_room(origin)
            proof = await self._proof_between(origin, latest, checkpoint, carried)
            try:
                await self._threads.store(self._seen.advance, note, origin, proof.hashes, proof.old_root or None)
            except LogForked as error:
                await self._stop(origin, error)
                raise OriginStopped(origin) from error
        self._behind.pop(origin, None)

    @asynccontextmanager
    async def _alone_with(self, origin: DeviceId) -> AsyncIterator[None]:
        lock = self._following.setdefault(origin, trio.Lock())
        try:
            async with lock:
                yield
        finally:
            if not lock.statistics().tasks_waiting:
                self._following.pop(origin, None)

    async def _require_room(self, origin: DeviceId) -> None:
        """Accept a log that was never seen; of devices that are not linked, only so many, as anybody can make keys.

        One of which nothing is offered or held here makes room: who invented it must not keep others out for ever.
        """
        if self._transport.peers.scope_of(origin) is not None:
            return
        known = await self._threads.store(self._seen.origins)
        strange = [other for other in known if self._transport.peers.scope_of(other) is None]
        if len(strange) < MAX_STRANGE_ORIGINS:
            return
        offers = await self._threads.database(self._offers.all)
        used = {offer.publisher for offer in offers}.union(await self._held())
        for other in strange:
            if other not in used and await self._threads.store(self._seen.forget, other):
                return
        raise TooManyOrigins(origin, MAX_STRANGE_ORIGINS)

    async def has_seen(self, origin: DeviceId) -> bool:
        """Return whether a checkpoint of `origin` was accepted before."""
        return await self._threads.store(self._seen.latest, origin) is not None

    async def known_checkpoints(self, peer: DeviceId, limit: int) -> tuple[bytes, ...]:
        """Return the newest checkpoints seen of up to `limit` other devices, that of `peer` first: what to tell it."""
        return await self._threads.store(self._known_checkpoints, peer, limit)

    async def _proof_between(
        self, origin: DeviceId, latest: SeenCheckpoint | None, found: Checkpoint, carried: Carried
    ) -> Proof:
        if latest is None or latest.size in (0, found.size):
            return _NO_PROOF
        small, large = sorted((latest.size, found.size))
        at_hand = carried(small, large)
        if at_hand is not None:
            return at_hand
        try:
            # Nothing has to be proven of an empty log but that its origin still has what was seen.
            proof = await self._request_proof(ProofRequest(origin, small or large, large))
            return proof if small else _NO_PROOF
        except RemoteRefused as error:
            if found.size < latest.size and error.code == RefusalCode.NOT_FOUND:
                self._note_behind(origin, latest.size, found.size)
                raise LogBehind(origin, latest.size, found.size) from error
            raise

    async def _request_proof(self, request: ProofRequest) -> Proof:
        if request.origin not in self._transport.connected():
            raise PeerUnreachable(request.origin, "only the log's own device can prove its consistency")
        with trio.fail_after(REQUEST_S):
            async with self._transport.open(request.origin, CONSISTENCY_PROTOCOL) as stream:
                await stream.send(encode_proof_request(request))
                return decode_proof(await stream.receive(MAX_PROOF_FRAME_BYTES))

    async def _serve_proof(self, stream: PeerStream) -> None:
        with trio.fail_after(REQUEST_S):
            request = decode_proof_request(await stream.receive(MAX_REQUEST_BYTES))
            if request.origin != self._own.origin or not 0 < request.old <= request.new <= self._own.size:
                await stream.refuse(RefusalCode.NOT_FOUND, "not a state of this device's log")
            else:
                await stream.send(encode_proof(await self._threads.store(self._prove, request)))

    def _prove(self, request: ProofRequest) -> Proof:
        hashes = self._own.consistency_proof(request.old, request.new)
        return Proof(tuple(hashes), self._own.root_at(request.old))

    async def _stop(self, origin: DeviceId, error: LogForked) -> None:
        self._stopped |= {origin}
        self._transport.peers.stop(origin)
        await self._threads.database(self._offers.remove_publisher, origin)
        _log.error("log_forked", extra={"origin": origin, "sizes": error.sizes})
        self._alarm({"event": "alarm", "kind": "log-forked", "origin": origin, "sizes": list(error.sizes)})
        await self._transport.disconnect(origin)

    def _note_behind(self, origin: DeviceId, seen_size: int, found_size: int) -> None:
        if self._behind.get(origin) == found_size:
            return  # said already; every contact would say it again
        self._behind[origin] = found_size
        _log.error("log_behind", extra={"origin": origin, "seen_size": seen_size, "found_size": found_size})
        self._alarm(
            {"event": "alarm", "kind": "log-behind", "origin": origin, "seen_size": seen_size, "size": found_size}
        )

    def _frozen_origins(self) -> list[DeviceId]:
        return [origin for origin in self._seen.origins() if self._seen.frozen(origin) is not None]

    def _known_checkpoints(self, peer: DeviceId, limit: int) -> tuple[bytes, ...]:
        others = [origin for origin in self._seen.origins() if origin not in (peer, self._own.origin)]
        latest = (self._seen.latest(origin) for origin in [peer, *others][:limit])
        return tuple(found.note for found in latest if found is not None)
