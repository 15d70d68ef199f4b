"""Models made known among linked peers: announced over GossipSub, and settled by heads at every contact (specs/0011).

Gossip is a hint that may be lost; what counts is the exchange of heads. Both lead through the same verification.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Final, NoReturn

import trio

from identity.did import DeviceId
from identity.errors import IdentityError
from identity.keys import DeviceKey
from node.errors import OfferRefused, OriginStopped
from node.failures import NAMED
from node.net.transport import Transport
from node.peer.budget import Budget
from node.peer.heads import HeadsExchange
from node.peer.intake import Claim, Intake, offer_event
from node.peer.origins import Origins
from node.peer.pubsub import LinkedPubsub
from node.peer.shelf import Shelf
from node.ports import Clock
from node.threads import Threads
from protocol.digest import Digest, digest_of
from protocol.errors import ProtocolError
from protocol.gossip import TOPIC, Announcement, open_announcement, sign_announcement
from protocol.model_name import ModelName
from protocol.provenance import decode_and_verify_provenance
from store.evidence import SeenLogs
from store.log import Log
from store.models import ModelStore
from store.offers import Offers
from store.peers import Peers

# GossipSub takes 10 messages a second from a peer and drops beyond 32 that wait, both in silence.
ANNOUNCE_INTERVAL_S: Final = 0.2
MAX_MESSAGES_PER_S: Final = 10.0
MESSAGE_BURST: Final = 20.0
MAX_FORWARDERS_KEPT: Final = 256
MAX_AT_ONCE: Final = 4

_log = logging.getLogger("tilenode.gossip")

Publish = Callable[[Mapping[str, object]], None]


class Gossip:
    """What this node and its linked peers tell each other about models. Construct it, then start `run`.

    `contact` is the callback for every contact; `announce` tells about a model that was just published.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        key: DeviceKey,
        log: Log,
        seen_logs: SeenLogs,
        store: ModelStore,
        peers: Peers,
        offers: Offers,
        threads: Threads,
        clock: Clock,
        nickname: Callable[[], str],
        publish: Publish,
    ) -> None:
        """`publish(event)` tells the rest of the node about new offers and alarms; it never blocks."""
        self._transport = transport
        self._key = key
        self._offers = offers
        self._threads = threads
        self._clock = clock
        self._publish = publish
        self.origins = Origins(transport, seen_logs, log, offers, threads, self._held_publishers, publish)
        self.shelf = Shelf(store, threads, self.origins.stopped)
        self.intake = Intake(transport, self.origins, self.shelf, offers, threads)
        self._heads = HeadsExchange(
            transport, log, self.shelf, self.origins, self.intake, peers, offers, threads, clock, nickname, publish
        )
        self._pubsub: LinkedPubsub | None = None
        self._announcing = trio.Lock()
        self._budgets: dict[DeviceId, Budget] = {}
        self._forwarders: OrderedDict[Digest, DeviceId] = OrderedDict()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> NoReturn:
        """Listen to announcements until cancelled; started once this node is on the topic."""
        await self.origins.load()
        pubsub = LinkedPubsub(self._transport.host, self._is_linked, self._accepts)
        async with trio.open_nursery() as nursery:
            await nursery.start(pubsub.serve)
            subscription = await pubsub.subscribe(TOPIC)
            self._pubsub = pubsub
            task_status.started()
            try:
                limit = trio.CapacityLimiter(MAX_AT_ONCE)
                while True:
                    message = await subscription.get()
                    token = object()
                    await limit.acquire_on_behalf_of(token)
                    nursery.start_soon(self._take, message.data, limit, token)
            finally:
                self._pubsub = None
        raise AssertionError("unreachable: only cancellation ends the service")

    async def contact(self, peer: DeviceId) -> None:
        """Do what a contact with `peer` is for; one exchange serves both sides, so the lower DID begins it."""
        if self._key.did < peer:
            await self._heads.exchange(peer)
        else:
            await self.origins.require_honest(peer)

    async def exchange(self, peer: DeviceId) -> None:
        """Exchange heads with a connected peer and settle them, also what failed lately. Raises as `HeadsExchange`."""
        await self._heads.exchange(peer, retry=True)

    async def announce(self, bundle: bytes) -> None:
        """Tell the linked peers about the model whose provenance bundle this is; paced, so that nothing is dropped.

        Raises:
            ProvenanceInvalid: this is no bundle.
        """
        provenance = await self._threads.store(decode_and_verify_provenance, bundle)
        announcement = Announcement(
            origin=provenance.publisher,
            checkpoint=provenance.checkpoint,
            manifest=provenance.manifest_digest,
            bundle=digest_of(bundle),
            bundle_bytes=len(bundle),
        )
        if self._pubsub is None:
            return  # not on the network: the next contact tells it
        async with self._announcing:
            await self._pubsub.publish(TOPIC, sign_announcement(announcement, self._key.sign))
            await trio.sleep(ANNOUNCE_INTERVAL_S)

    def refusal(self, peer: DeviceId, name: ModelName) -> OfferRefused | None:
        """Return why what the peer offers under this name is not accepted; None where it offers no such thing."""
        return self._heads.refusal(peer, name)

    def forget(self, peer: DeviceId) -> None:
        """Forget what was settled with a peer that was unlinked."""
        self._heads.forget(peer)
        self._budgets.pop(peer, None)

    async def _held_publishers(self) -> frozenset[DeviceId]:
        return frozenset(offer.publisher for offer in (await self.shelf.view()).offers)

    def _is_linked(self, peer: DeviceId) -> bool:
        return self._transport.peers.scope_of(peer) is not None and peer not in self.origins.stopped()

    def _accepts(self, forwarder: DeviceId, data: bytes) -> bool:
        """Return whether a message is an announcement by a linked device; nothing else is delivered or passed on."""
        now_s = self._clock.monotonic_s()
        budget = self._budgets.setdefault(forwarder, Budget(MAX_MESSAGES_PER_S, MESSAGE_BURST, now_s))
        if not budget.take(now_s):
            return False
        try:
            announcement = open_announcement(data)
        except (ProtocolError, IdentityError) as error:
            _log.warning("announcement_refused", extra={"peer": forwarder, "error": type(error).__name__})
            return False
        if not self._is_linked(announcement.origin):
            return False
        self._forwarders[digest_of(data)] = forwarder
        while len(self._forwarders) > MAX_FORWARDERS_KEPT:
            self._forwarders.popitem(last=False)
        return True

    async def _take(self, data: bytes, limit: trio.CapacityLimiter, token: object) -> None:
        try:
            announcement = open_announcement(data)
            if announcement.origin != self._key.did:
                await self._verify(announcement, self._forwarders.get(digest_of(data)))
        except NAMED as error:
            _log.info("announcement_not_settled", extra={"error": type(error).__name__})
        finally:
            limit.release_on_behalf_of(token)

    async def _verify(self, announcement: Announcement, forwarder: DeviceId | None) -> None:
        """Fetch what was announced from its origin, or from who passed it on, and keep the offer once verified."""
        origin = announcement.origin
        known = await self._threads.database(self._offers.of_manifest, announcement.manifest)
        if any((offer.peer, offer.bundle) == (origin, announcement.bundle) for offer in known):
            return
        await self.origins.follow(origin, announcement.checkpoint)
        for holder in dict.fromkeys((origin, forwarder)):
            if holder is None or holder not in self._transport.connected():
                continue
            claim = Claim(holder, origin, None, announcement.manifest, announcement.bundle)
            try:
                offer = await self.intake.accept(claim)
            except OriginStopped:
                raise
            except NAMED as error:
                _log.info("announced_offer_not_settled", extra={"peer": holder, "error": type(error).__name__})
                continue
            await self._threads.database(self._offers.add, offer)
            self._publish({**offer_event(offer), "via": "gossip"})
            return
