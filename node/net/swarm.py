"""The libp2p swarm with this node's rules: Noise only, one connection per peer, strangers invisible and bounded."""

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import trio
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
from libp2p.host.basic_host import BasicHost
from libp2p.identity.identify_push.identify_push import ID_PUSH as IDENTIFY_PUSH_PROTOCOL
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.io.trio import TrioTCPStream
from libp2p.network.auto_connector import AutoConnector
from libp2p.network.config import ConnectionConfig, RetryConfig
from libp2p.network.connection import swarm_connection
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.peer.peerstore import PeerStore
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE_PROTOCOL
from libp2p.security.noise.transport import Transport as Noise
from libp2p.stream_muxer.muxer_multistream import MuxerMultistream
from libp2p.stream_muxer.yamux.yamux import Yamux
from libp2p.transport.exceptions import MuxerUpgradeFailure
from libp2p.transport.manager import TransportManager
from libp2p.transport.upgrader import TransportUpgrader
from multiaddr import Multiaddr

from identity.did import DeviceId, did_of_peer_id
from identity.errors import DidInvalid
from identity.keys import DeviceKey
from node.net.muxer import YAMUX_PROTOCOL, LimitedYamux

MAX_HANDSHAKES: Final = 64
MAX_HANDSHAKES_PER_HOST: Final = 16
MAX_STRANGERS: Final = 32
MAX_STRANGERS_PER_HOST: Final = 8
# Two connections younger than this crossed each other; an older one was replaced by a peer that came back.
CROSSING_S: Final = 5.0
_READ_BYTES: Final = 65_536
_NO_LIMIT: Final = 1_000_000  # libp2p's own watermarks stay out of the way; the limits are those above

# What libp2p has to say is no news here: this node logs its own events about the same connections.
logging.getLogger("libp2p").setLevel(logging.CRITICAL)
# This module logs through the root logger's functions, which install a handler for the whole program.
setattr(swarm_connection, "logging", logging.getLogger("libp2p.network.connection"))  # noqa: B010 - no typed way to say it

_NOWHERE: Final = Multiaddr("/ip4/0.0.0.0")  # libp2p only logs the listener's address

_log = logging.getLogger("tilenode.net")


@dataclass(frozen=True)
class Liveness:
    """After how long a silence a peer is asked for a sign of life, and what it may take to answer; seconds."""

    interval_s: float = 30.0
    deadline_s: float = 15.0
    handshake_s: float = 10.0


@dataclass
class _Admitted:
    connection: LimitedYamux
    outbound: bool
    host: str
    since: float


@dataclass(frozen=True, eq=False)
class _Handshake:
    """An inbound connection whose key is not proven yet."""

    host: str
    scope: trio.CancelScope


class SocketStream(TrioTCPStream):
    """A TCP stream that knows its remote address for IPv6 too and never reads more than 64 KiB at once."""

    def __init__(self, stream: trio.SocketStream) -> None:
        """Raises OSError when the other side has left already."""
        super().__init__(stream)
        host, port = stream.socket.getpeername()[:2]
        self.host: Final = str(host)
        self._cached_remote_address = (self.host, int(port))

    async def read(self, n: int | None = None) -> bytes:
        """Return what has come, at most `n` bytes; nothing at the end."""
        data: bytes = await super().read(_READ_BYTES if n is None else min(n, _READ_BYTES))
        return data


class OneConnectionMuxer(MuxerMultistream):
    """Admits a connection once its key is authenticated, and keeps exactly one per peer.

    When both sides dial at the same moment, both keep the connection that the smaller peer id dialled. Otherwise the
    newer one wins: its dialler has lost the older one.
    """

    def __init__(self, us: DeviceId, is_linked: Callable[[DeviceId], bool], liveness: Liveness) -> None:
        super().__init__({YAMUX_PROTOCOL: Yamux})  # the name alone counts, new_conn makes the connection
        self._us = us
        self._is_linked = is_linked
        self._liveness = liveness
        self._admitted: dict[DeviceId, _Admitted] = {}

    async def new_conn(self, conn: Any, peer_id: ID) -> LimitedYamux:
        """Return the muxed connection over an authenticated one.

        Raises:
            MuxerUpgradeFailure: the peer's key is no device key, it is our own, or a better connection is there.
        """
        peer = self._device(peer_id)
        await self._selector.select(conn, conn.is_initiator, self.negotiate_timeout)
        self._forget_closed()
        host = str((conn.get_remote_address() or ("",))[0])
        if not conn.is_initiator and not self._is_linked(peer):
            await self._make_room_for_stranger(host)
        older = self._admitted.get(peer)  # from here to the entry below nothing else may run
        if older is not None and not self._replaces(peer, older, outbound=conn.is_initiator):
            raise MuxerUpgradeFailure("a connection to this peer is there already")
        connection = LimitedYamux(
            conn,
            peer_id,
            is_linked=lambda: self._is_linked(peer),
            ping_interval_s=self._liveness.interval_s,
            ping_deadline_s=self._liveness.deadline_s,
        )
        self._admitted[peer] = _Admitted(connection, conn.is_initiator, host, trio.current_time())
        if older is not None:
            await older.connection.abort()
        self._annotate_connection(connection, conn, YAMUX_PROTOCOL)
        return connection

    def _device(self, peer_id: ID) -> DeviceId:
        try:
            peer = did_of_peer_id(str(peer_id))
        except DidInvalid as error:
            raise MuxerUpgradeFailure(str(error)) from error
        if peer == self._us:
            raise MuxerUpgradeFailure("this is our own key")
        return peer

    def _replaces(self, peer: DeviceId, older: _Admitted, *, outbound: bool) -> bool:
        crossed = trio.current_time() - older.since < CROSSING_S and older.outbound is not outbound
        if not crossed:
            return True
        we_dial = self._us < peer
        return outbound is we_dial

    async def _make_room_for_stranger(self, host: str) -> None:
        """Cut the least busy, then oldest, of the strangers that called when there are too many; linked peers stay."""
        strangers = [
            entry for peer, entry in self._admitted.items() if not entry.outbound and not self._is_linked(peer)
        ]
        neighbours = [entry for entry in strangers if entry.host == host]
        crowd = neighbours if len(neighbours) >= MAX_STRANGERS_PER_HOST else strangers
        if crowd is neighbours or len(strangers) >= MAX_STRANGERS:
            least = min(crowd, key=lambda entry: (len(entry.connection.streams), entry.since))
            await least.connection.abort()

    def _forget_closed(self) -> None:
        for peer in [peer for peer, entry in self._admitted.items() if entry.connection.has_ended]:
            del self._admitted[peer]


class _NoAutoConnector(AutoConnector):
    """Dials nobody: which peers to reach is decided by who is linked, and reached by their signed addresses."""

    async def maybe_connect(self) -> None:
        """Do nothing."""

    async def run_background_task(self, nursery: trio.Nursery) -> None:
        """Do nothing."""


class NodeSwarm(Swarm):
    """Connections and their events. libp2p's own services (pubsub) only ever see linked peers."""

    def __init__(
        self,
        key: DeviceKey,
        is_linked: Callable[[DeviceId], bool],
        liveness: Liveness,
        changed: Callable[[DeviceId, bool], None],
    ) -> None:
        """`changed(peer, up)` is called for every new connection and when the last one of a peer has ended."""
        key_pair = create_new_key_pair(key.seed)
        peer_id = ID.from_pubkey(key_pair.public_key)
        noise = Noise(key_pair, noise_privkey=create_noise_key_pair().private_key)
        upgrader = TransportUpgrader({NOISE_PROTOCOL: noise}, {})
        upgrader.muxer_multistream = OneConnectionMuxer(key.did, is_linked, liveness)
        peerstore = PeerStore()
        peerstore.add_key_pair(peer_id, key_pair)
        super().__init__(
            peer_id,
            peerstore,
            upgrader,
            transports=[],
            retry_config=RetryConfig(max_retries=0),
            connection_config=ConnectionConfig(
                min_connections=0,
                low_watermark=0,
                high_watermark=_NO_LIMIT,
                max_connections=_NO_LIMIT,
                max_connections_per_peer=_NO_LIMIT,
                inbound_upgrade_timeout=liveness.handshake_s,
                outbound_upgrade_timeout=liveness.handshake_s,
            ),
            transport_manager=TransportManager(),
        )
        self.auto_connector = _NoAutoConnector(self)
        self._is_linked = is_linked
        self._changed = changed
        self._announced: set[Any] = set()
        self._handshakes: list[_Handshake] = []

    async def accept(self, stream: trio.SocketStream) -> None:
        """Run an inbound connection from its handshake to its end; the caller closes the stream."""
        try:
            wrapped = SocketStream(stream)
        except OSError:
            return  # it left before we looked
        connection = None
        handshake = self._begin_handshake(wrapped.host)
        try:
            with handshake.scope:
                connection = await self.upgrade_inbound_raw_conn(RawConnection(wrapped, False), _NOWHERE)
        except Exception as error:  # noqa: BLE001 - hostile bytes raise many things in libp2p; none may stop the node
            _log.debug("handshake_failed", extra={"host": wrapped.host, "error": type(error).__name__})
            return
        finally:
            self._end_handshake(handshake)
        if isinstance(connection, LimitedYamux):
            await connection.event_closed.wait()

    async def connect(self, stream: trio.SocketStream, peer_id: ID) -> None:
        """Turn a TCP stream into a connection with `peer_id`.

        Raises:
            ConnectionClosedError: the handshake failed, or another peer answered.
        """
        try:
            await self.upgrade_outbound_raw_conn(RawConnection(SocketStream(stream), True), peer_id)
        except Exception as error:  # libp2p lets many things escape; all of them mean: not here
            raise ConnectionClosedError(str(error)) from error

    async def announce(self, peer_id: ID) -> None:
        """Show the connections with a peer that has just been linked to libp2p's services."""
        for connection in list(self.connections.get(peer_id, [])):
            await self._announce(connection)

    async def notify_connected(self, conn: Any) -> None:
        """Tell about a new connection; libp2p's services hear of it only when the peer is linked."""
        peer = did_of_peer_id(str(conn.muxed_conn.peer_id))
        if self._is_linked(peer):
            await self._announce(conn)
        self._changed(peer, True)

    async def notify_disconnected(self, conn: Any) -> None:
        """Tell about the end of a connection."""
        if conn in self._announced:
            self._announced.discard(conn)
            await super().notify_disconnected(conn)
        if not self.connections.get(conn.muxed_conn.peer_id):
            self._changed(did_of_peer_id(str(conn.muxed_conn.peer_id)), False)

    async def abort_all(self) -> None:
        """Close every socket at once."""
        for peer_id in list(self.connections):
            for connection in self.connections_with(peer_id):
                await connection.abort()

    def connections_with(self, peer_id: ID) -> list[LimitedYamux]:
        """Return the muxed connections with a peer, one but for moments of change."""
        found = [connection.muxed_conn for connection in self.connections.get(peer_id, [])]
        return [connection for connection in found if isinstance(connection, LimitedYamux)]

    async def _announce(self, conn: Any) -> None:
        if conn not in self._announced:
            self._announced.add(conn)
            await super().notify_connected(conn)

    def _begin_handshake(self, host: str) -> "_Handshake":
        """Return a place for a handshake; when there is none, the oldest of the host that holds most is cut off.

        Who means it is done in milliseconds, so that silent connections do not keep linked devices out.
        """
        counts = Counter(each.host for each in self._handshakes)
        fullest = host if counts[host] >= MAX_HANDSHAKES_PER_HOST else max(counts, key=counts.__getitem__, default=host)
        if counts[host] >= MAX_HANDSHAKES_PER_HOST or len(self._handshakes) >= MAX_HANDSHAKES:
            oldest = next(each for each in self._handshakes if each.host == fullest)
            oldest.scope.cancel()
            self._end_handshake(oldest)
        handshake = _Handshake(host, trio.CancelScope())
        self._handshakes.append(handshake)
        return handshake

    def _end_handshake(self, handshake: "_Handshake") -> None:
        if handshake in self._handshakes:
            self._handshakes.remove(handshake)


def is_ended(connection: Any) -> bool:
    """Return whether a swarm connection is closed or closing."""
    return bool(connection.is_closed or connection.muxed_conn.has_ended)


def build_host(swarm: NodeSwarm) -> BasicHost:
    """Return a libp2p host over `swarm` that answers identify and ping and itself asks nobody anything."""
    swarm.notifees.clear()  # libp2p's tags; nothing here prunes by tag
    host = BasicHost(network=swarm, disable_identify_address_discovery=True)
    swarm.notifees.clear()  # identify: what a peer says about itself is learnt from its signed messages alone
    host.remove_stream_handler(IDENTIFY_PUSH_PROTOCOL)
    return host
