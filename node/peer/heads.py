"""The exchange of heads with one peer: one small round, and full heads only where something changed (specs/0011)."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

import trio

from identity.did import DeviceId, parse_did
from node.errors import LogBehind, OfferRefused, OriginStopped
from node.failures import NAMED
from node.net.access import Access
from node.net.streams import PeerStream
from node.net.transport import Transport
from node.peer.budget import Budget
from node.peer.intake import Claim, Intake, offer_event
from node.peer.origins import Origins
from node.peer.shelf import Shelf
from node.ports import Clock
from node.threads import Threads
from protocol.errors import CheckpointInvalid, FieldInvalid
from protocol.heads import (
    HEADS_PROTOCOL,
    MAX_HEADS_BYTES,
    MAX_HEADS_FRAME_BYTES,
    MAX_OTHER_CHECKPOINTS,
    MAX_REQUEST_BYTES,
    NOTHING_SEEN,
    Greeting,
    Heads,
    OfferedModel,
    answer_greeting,
    decode_answer,
    decode_greeting,
    decode_heads,
    encode_answer,
    encode_greeting,
    encode_heads,
    heads_digest,
)
from protocol.model_name import ModelName
from protocol.refusal import RefusalCode
from store.errors import LogRolledBack
from store.log import Log
from store.offers import Offer, Offers
from store.peers import Peers

ROUND_S: Final = 20.0
# Each for the other logs and for the new offers of one peer: a slow peer holds up nothing but itself, and not for ever.
SETTLE_S: Final = 60.0
FIRST_RETRY_S: Final = 20.0
LONGEST_RETRY_S: Final = 3_600.0
MAX_ROUNDS_PER_S: Final = 0.5
ROUND_BURST: Final = 20.0
MAX_ADDRESSES_KEPT: Final = 16

_log = logging.getLogger("tilenode.heads")


@dataclass(frozen=True)
class _Settled:
    """The heads of a peer that were taken in: their digest, how many of its offers are kept, and what still failed.

    What failed is tried again at the next contact, then ever more rarely, as heads are sent whole for that.
    """

    digest: bytes
    count: int
    failures: int
    retry_at_s: float


class HeadsExchange:
    """Tells each peer what this node has and settles what the peer has."""

    def __init__(
        self,
        transport: Transport,
        log: Log,
        shelf: Shelf,
        origins: Origins,
        intake: Intake,
        peers: Peers,
        offers: Offers,
        threads: Threads,
        clock: Clock,
        nickname: Callable[[], str],
        publish: Callable[[Mapping[str, object]], None],
    ) -> None:
        """`nickname()` is what this device calls itself now; `publish(event)` tells about new offers and alarms."""
        self._transport = transport
        self._own: Final = log
        self._shelf = shelf
        self._origins = origins
        self._intake = intake
        self._peers = peers
        self._offers = offers
        self._threads = threads
        self._nickname = nickname
        self._publish = publish
        self._clock = clock
        self._settled: dict[DeviceId, _Settled] = {}
        self._budgets: dict[DeviceId, Budget] = {}
        self._refused: dict[DeviceId, dict[ModelName, OfferRefused]] = {}
        self._settling: dict[DeviceId, trio.Lock] = {}
        transport.handle(HEADS_PROTOCOL, self._serve, access=Access.LINKED)

    async def exchange(self, peer: DeviceId, *, retry: bool = False) -> None:
        """Exchange heads with a connected peer and settle what it says; both sides know each other's heads then.

        With `retry`, what could not be settled before is tried again now.

        Raises:
            OriginStopped: the peer signed two logs; it was cut off.
            PeerUnreachable, PeerNotLinked, RemoteRefused, StreamClosed, TooSlowError: as the transport says.
            CodecInvalid, FieldInvalid: the peer broke the rules.
        """
        await self._origins.require_honest(peer)
        own = await self._own_heads(peer)
        with trio.fail_after(ROUND_S):
            async with self._transport.open(peer, HEADS_PROTOCOL) as stream:
                await stream.send(encode_greeting(Greeting(heads_digest(own), await self._seen(peer, retry))))
                answer = decode_answer(await stream.receive(MAX_HEADS_FRAME_BYTES))
                if answer.want:
                    await stream.send(own)
        if answer.heads is not None:
            await self._settle(peer, answer.heads)

    def refusal(self, peer: DeviceId, name: ModelName) -> OfferRefused | None:
        """Return why what the peer offers under this name was refused when its heads were settled last."""
        return self._refused.get(peer, {}).get(name)

    def forget(self, peer: DeviceId) -> None:
        """Forget what was settled with a peer that was unlinked: the next contact starts anew."""
        self._settled.pop(peer, None)
        self._budgets.pop(peer, None)
        self._refused.pop(peer, None)

    async def _serve(self, stream: PeerStream) -> None:
        peer = stream.peer
        now_s = self._clock.monotonic_s()
        if not self._budgets.setdefault(peer, Budget(MAX_ROUNDS_PER_S, ROUND_BURST, now_s)).take(now_s):
            await stream.refuse(RefusalCode.BUSY, "heads were just exchanged")
            return
        heads = None
        with trio.fail_after(ROUND_S):
            greeting = decode_greeting(await stream.receive(MAX_REQUEST_BYTES))
            answer = answer_greeting(greeting, await self._own_heads(peer), await self._seen(peer))
            if self._is_late(peer):
                answer = replace(answer, want=False)  # what waits already is enough to hold; a later contact brings it
            await stream.send(encode_answer(answer))
            if answer.want:
                heads = await stream.receive(MAX_HEADS_BYTES)
        if heads is not None:
            if heads_digest(heads) != greeting.mine:
                raise FieldInvalid("heads", "not the heads that the greeting named")
            await stream.close()
            await self._settle(peer, heads)

    def _is_late(self, peer: DeviceId) -> bool:
        """Return whether heads of the peer wait for earlier ones of it, which it may draw out, to be settled."""
        settling = self._settling.get(peer)
        return settling is not None and settling.statistics().tasks_waiting > 0

    async def _seen(self, peer: DeviceId, retry: bool = False) -> bytes:
        """Return the digest of the heads that need not be sent again.

        None are once offers were dropped, as by unlinking, or when it is time to try again what failed.
        """
        settled = self._settled.get(peer)
        if settled is None:
            return NOTHING_SEEN
        if settled.failures and (retry or self._clock.monotonic_s() >= settled.retry_at_s):
            return NOTHING_SEEN
        kept = await self._threads.database(self._offers.of_peer, peer)
        return settled.digest if len(kept) == settled.count else NOTHING_SEEN

    async def _own_heads(self, peer: DeviceId) -> bytes:
        heads = Heads(
            nickname=self._nickname(),
            addresses=self._transport.addresses,
            checkpoint=await self._threads.store(self._own.checkpoint),
            others=await self._origins.known_checkpoints(peer, MAX_OTHER_CHECKPOINTS),
            offers=(await self._shelf.view()).offers,
        )
        return encode_heads(heads)

    async def _settle(self, peer: DeviceId, encoded: bytes) -> None:
        """Take in all of a peer's heads; what failed for now is tried again later."""
        async with self._settling.setdefault(peer, trio.Lock()):
            digest = heads_digest(encoded)
            before = self._settled.get(peer)
            if await self._seen(peer) == digest and not (before and before.failures):
                return
            heads = decode_heads(encoded)
            await self._note_contact_facts(peer, heads)
            complete = await self._settle_checkpoint(peer, heads.checkpoint)
            with trio.move_on_after(SETTLE_S) as others:
                await self._settle_others(peer, heads.others)
            count, settled = await self._settle_offers(peer, heads.offers)
            self._note_settled(peer, digest, count, complete and settled and not others.cancelled_caught)

    async def _settle_offers(self, peer: DeviceId, offered: tuple[OfferedModel, ...]) -> tuple[int, bool]:
        """Verify and keep what a peer offers; return how many offers are kept, and whether nothing is left to try."""
        accepted: list[Offer] = []
        refused: dict[ModelName, OfferRefused] = {}
        unknown = await self._take_known(peer, offered, accepted)
        complete = True
        with trio.move_on_after(SETTLE_S) as patience:
            for claim in unknown:
                complete &= await self._settle_offer(claim, accepted, refused)
        self._refused[peer] = refused
        return await self._keep(peer, accepted), complete and not patience.cancelled_caught

    async def _take_known(
        self, peer: DeviceId, offered: tuple[OfferedModel, ...], accepted: list[Offer]
    ) -> list[Claim]:
        """Add the offers that were verified before to `accepted`; return the others as claims."""
        unknown = []
        for each in offered:
            claim = Claim(peer, each.publisher, each.name, each.manifest, each.bundle)
            offer = await self._intake.known(claim)
            if offer is None:
                unknown.append(claim)
            else:
                accepted.append(offer)
        return unknown

    def _note_settled(self, peer: DeviceId, digest: bytes, count: int, complete: bool) -> None:
        before = self._settled.get(peer)
        earlier = before.failures if before is not None and before.digest == digest else 0
        failures = 0 if complete else earlier + 1
        wait_s = min(FIRST_RETRY_S * 2.0 ** min(earlier, 30), LONGEST_RETRY_S)
        self._settled[peer] = _Settled(digest, count, failures, self._clock.monotonic_s() + wait_s)

    async def _keep(self, peer: DeviceId, settled: list[Offer]) -> int:
        """Replace what the peer is known to offer, tell what is new, and return how many offers are kept."""
        accepted = [offer for offer in settled if offer.publisher not in self._origins.stopped()]
        before = set(await self._threads.database(self._offers.of_peer, peer))
        await self._threads.database(self._offers.replace, peer, accepted)
        for offer in accepted:
            if offer not in before:
                self._publish({**offer_event(offer), "via": "heads"})
        return len(await self._threads.database(self._offers.of_peer, peer))

    async def _settle_checkpoint(self, peer: DeviceId, note: bytes) -> bool:
        try:
            await self._origins.follow(peer, note)
        except LogBehind:
            return False
        except CheckpointInvalid as error:
            raise FieldInvalid("heads.checkpoint", str(error)) from error
        except OriginStopped:
            raise
        except NAMED as error:
            _log.info("checkpoint_not_settled", extra={"peer": peer, "error": type(error).__name__})
            return False
        return True

    async def _settle_offer(self, claim: Claim, accepted: list[Offer], refused: dict[ModelName, OfferRefused]) -> bool:
        """Add the offer to `accepted` once it is verified, or to `refused`; return whether nothing is left to try."""
        try:
            accepted.append(await self._intake.accept(claim))
        except OriginStopped as error:
            if error.origin == claim.peer:
                raise
        except OfferRefused as error:
            _log.warning(
                "offer_refused", extra={"peer": claim.peer, "manifest": claim.manifest, "reason": error.reason}
            )
            if claim.name is not None:
                # Made anew: the caught one would keep the bundle alive through its traceback.
                refused[claim.name] = type(error)(claim.peer, claim.manifest, error.reason)
        except NAMED as error:
            _log.info("offer_not_settled", extra={"peer": claim.peer, "error": type(error).__name__})
            return False
        return True

    async def _settle_others(self, peer: DeviceId, notes: tuple[bytes, ...]) -> None:
        """Compare what the peer holds of other logs, this device's own among them, with what is known here."""
        for note in notes:
            try:
                origin = parse_did(note.split(b"\n", 1)[0].decode("ascii"))
                if origin == self._own.origin:
                    await self._threads.store(self._own.observe, note)
                elif await self._is_relevant(origin):
                    await self._origins.follow(origin, note)
            except LogRolledBack:
                _log.error("own_log_rolled_back", extra={"peer": peer})
                self._publish({"event": "alarm", "kind": "own-log-rolled-back", "peer": peer})
            except (*NAMED, UnicodeDecodeError) as error:
                _log.debug("relayed_checkpoint_dropped", extra={"peer": peer, "error": type(error).__name__})

    async def _is_relevant(self, origin: DeviceId) -> bool:
        """Return whether this node cares about the log: of a linked peer, or one it has seen before."""
        if self._transport.peers.scope_of(origin) is not None:
            return True
        return await self._origins.has_seen(origin)

    async def _note_contact_facts(self, peer: DeviceId, heads: Heads) -> None:
        linked = await self._threads.database(self._peers.get, peer)
        if linked is None:
            return
        if linked.nickname != heads.nickname:
            await self._threads.database(self._peers.set_nickname, peer, heads.nickname)
        merged = tuple(dict.fromkeys((*heads.addresses, *linked.addresses)))[:MAX_ADDRESSES_KEPT]
        if not set(heads.addresses) <= set(linked.addresses):
            await self._threads.database(self._peers.set_addresses, peer, merged)
