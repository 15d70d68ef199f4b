"""GossipSub among linked peers: libp2p's implementation with this node's gates, limits and tasks (specs/0011).

What libp2p leaves open is closed here: streams and messages only from and to linked peers, one topic, small messages,
ids over the content so that nobody can occupy another's, and no error of a hostile message reaches the node.
"""

import hashlib
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Final, cast

import trio
from libp2p.abc import IHost
from libp2p.custom_types import TProtocol
from libp2p.peer.id import ID
from libp2p.pubsub.gossipsub import GossipSub
from libp2p.pubsub.mcache import CacheEntry, MessageCache
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.pubsub import Pubsub

from identity.did import DeviceId, did_of_peer_id
from identity.errors import DidInvalid
from protocol.gossip import MAX_ANNOUNCEMENT_BYTES, TOPIC

PROTOCOLS: Final = (TProtocol("/meshsub/1.2.0"), TProtocol("/meshsub/1.1.0"))
MAX_RPC_BYTES: Final = 64 * 1024
HEARTBEAT_S: Final = 1
MAX_IDS: Final = 64
MAX_BACKOFF_S: Final = 600
DEGREE, DEGREE_LOW, DEGREE_HIGH = 6, 4, 12

_log = logging.getLogger("tilenode.gossip")

Accepts = Callable[[DeviceId, bytes], bool]


class LinkedPubsub(Pubsub):
    """libp2p's pubsub, which speaks with linked peers only. Start `serve`, then `subscribe` and `publish`."""

    def __init__(self, host: IHost, is_linked: Callable[[DeviceId], bool], accepts: Accepts) -> None:
        """`accepts(forwarder, data)` decides whether a message of another node is delivered and passed on."""
        self._is_linked = is_linked
        self._accepts = accepts
        self._gossipsub = _router()
        super().__init__(
            host,
            self._gossipsub,
            # The signature is inside the announcement, by the device key under its own domain: one signing path.
            strict_signing=False,
            msg_id_constructor=_content_id,
            max_subscriptions_per_rpc=8,
            max_subscriptions_per_peer=8,
            max_inbound_rpc_size=MAX_RPC_BYTES,
            allowed_topics={TOPIC},
        )
        self.set_topic_validator(TOPIC, self._validate, False)

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run until cancelled; started once new peers are noticed. Peers connected before are taken up."""
        async with trio.open_nursery() as nursery:
            tasks = _Tasks(nursery)
            self._manager = cast(Any, tasks)
            self._gossipsub._manager = cast(Any, tasks)
            tasks.run_task(self.run)
            tasks.run_task(self._gossipsub.run)
            await self.wait_until_ready()
            for peer_id in self.host.get_network().connections:
                tasks.run_task(self._handle_new_peer_with_retry, peer_id)
            task_status.started()
            try:
                await trio.sleep_forever()
            finally:
                tasks.is_running = False

    async def push_msg(self, msg_forwarder: ID, msg: rpc_pb2.Message) -> None:
        """Take a message in only from a linked peer, for the one topic and of the size of an announcement."""
        well_formed = list(msg.topicIDs) == [TOPIC] and len(msg.data) <= MAX_ANNOUNCEMENT_BYTES
        if well_formed and self._may_speak(msg_forwarder):
            await super().push_msg(msg_forwarder, msg)

    async def _handle_new_peer(self, peer_id: ID) -> None:
        if self._may_speak(peer_id):
            await super()._handle_new_peer(peer_id)

    async def continuously_read_stream(self, stream: Any) -> None:
        """Read a peer's messages while it is linked."""
        if self._may_speak(stream.muxed_conn.peer_id):
            await super().continuously_read_stream(stream)

    def _validate(self, forwarder: ID, msg: rpc_pb2.Message) -> bool:
        if forwarder == self.my_id:
            return True
        return self._accepts(did_of_peer_id(str(forwarder)), msg.data)

    def _may_speak(self, peer_id: ID) -> bool:
        if peer_id == self.my_id:
            return True
        try:
            return self._is_linked(did_of_peer_id(str(peer_id)))
        except DidInvalid:
            return False


class _LinkedRouter(GossipSub):
    """GossipSub that knows one topic and takes few control entries at once; libp2p's keeps state for any topic."""

    async def handle_rpc(self, rpc: rpc_pb2.RPC, sender_peer_id: ID) -> None:
        """Handle what concerns the topic; who proposes other peers to connect to is not listened to."""
        kept = rpc_pb2.RPC()
        control, wanted = rpc.control, kept.control
        wanted.ihave.extend([_few_ids(each) for each in control.ihave if each.topicID == TOPIC][:1])
        wanted.iwant.extend([_few_ids(each) for each in control.iwant[:1]])
        wanted.idontwant.extend([_few_ids(each) for each in control.idontwant[:1]])
        wanted.graft.extend([each for each in control.graft if each.topicID == TOPIC][:1])
        for each in [each for each in control.prune if each.topicID == TOPIC][:1]:
            wanted.prune.add(topicID=TOPIC, backoff=min(each.backoff, MAX_BACKOFF_S))
        await super().handle_rpc(kept, sender_peer_id)


class _ContentCache(MessageCache):
    """The router's memory of messages by the same ids as everything else; libp2p's own goes by sender and number."""

    def put(self, msg: rpc_pb2.Message) -> None:
        mid = _content_id(msg)
        if mid not in self.msgs:
            self.msgs[mid] = msg
            self.history[0].append(CacheEntry(mid, msg.topicIDs))


class _Tasks:
    """Runs the tasks of libp2p's services in this node's nursery; stands in for libp2p's service manager.

    libp2p's own polls ten times a second and ends the whole service at the first error of any task.
    """

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self.is_running = True

    def run_task(self, call: Callable[..., Coroutine[Any, Any, object]], *args: object, **_: object) -> None:
        """Start a task; what goes wrong in it is logged."""
        self._nursery.start_soon(self._contained, call, args)

    def run_daemon_task(self, call: Callable[..., Coroutine[Any, Any, object]], *args: object, **_: object) -> None:
        """Start a task that never ends by itself."""
        self.run_task(call, *args)

    async def wait_finished(self) -> None:
        """Wait until the service is cancelled."""
        await trio.sleep_forever()

    async def _contained(self, call: Callable[..., Coroutine[Any, Any, object]], args: tuple[object, ...]) -> None:
        try:
            await call(*args)
        except Exception as error:  # noqa: BLE001 - hostile messages raise many things in libp2p; none may stop the node
            _log.warning("pubsub_task_failed", extra={"task": call.__name__, "error": type(error).__name__})


def _router() -> GossipSub:
    router = _LinkedRouter(
        protocols=list(PROTOCOLS),
        degree=DEGREE,
        degree_low=DEGREE_LOW,
        degree_high=DEGREE_HIGH,
        heartbeat_interval=HEARTBEAT_S,
        do_px=False,
        px_peers_count=0,
        # These rate strangers; here everyone is linked by hand, and nodes of one home share one IP address.
        adaptive_gossip_enabled=False,
        eclipse_protection_enabled=False,
    )
    router.scorer = None
    router.mcache = _ContentCache(router.mcache.window_size, router.mcache.history_size)
    return router


def _few_ids(entry: Any) -> Any:
    """Return a control entry with each message id once, and at most 64 of them."""
    few = type(entry)()
    few.CopyFrom(entry)
    del few.messageIDs[:]
    few.messageIDs.extend(list(dict.fromkeys(entry.messageIDs))[:MAX_IDS])
    return few


def _content_id(msg: rpc_pb2.Message) -> bytes:
    return hashlib.sha256(msg.data).digest()
