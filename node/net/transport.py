"""The node's connections to other nodes: one authenticated, encrypted connection per peer, streams by protocol.

Every inbound stream is checked against the key that the connection proved, and so is every frame on it. A peer that is
not linked reaches only the protocols open to anyone.
"""

import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import trio
from libp2p.custom_types import TProtocol
from libp2p.exceptions import BaseLibp2pError
from libp2p.host.basic_host import BasicHost
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.peer.id import ID
from libp2p.protocol_muxer.multiselect_client import MultiselectClient
from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator
from libp2p.tools.anyio_service import background_trio_service

from identity.did import DeviceId, did_of_peer_id, peer_id_of
from identity.keys import DeviceKey
from node.errors import OriginStopped, PeerNotLinked, PeerUnreachable, StreamClosed
from node.failures import NAMED, is_named, leaves, names_of
from node.net.access import Access, LinkedPeers
from node.net.listening import Bound, addresses_of, open_listeners
from node.net.streams import CappedReader, PeerStream
from node.net.swarm import Liveness, NodeSwarm, build_host, is_ended
from protocol.address import Address, dialable, format_address, parse_address
from protocol.refusal import RefusalCode

NEGOTIATION_BYTES: Final = 4_096
NEGOTIATION_S: Final = 10
DIAL_S: Final = 10.0
DIAL_STAGGER_S: Final = 0.25
CROSSING_WAIT_S: Final = 1.0
STRANGER_IDLE_S: Final = 30.0
SHUTDOWN_S: Final = 2.0
MAX_EVENTS: Final = 1_024

Handler = Callable[[PeerStream], Awaitable[None]]

_log = logging.getLogger("tilenode.net")


@dataclass(frozen=True)
class ConnectionEvent:
    """A linked peer has a new connection (`up`), or its last one has ended."""

    peer: DeviceId
    up: bool


@dataclass(frozen=True)
class _Protocol:
    handler: Handler
    access: Access


class Transport:
    """This node on the network. Construct it, register the protocols, then start `run`."""

    def __init__(
        self, key: DeviceKey, listen: Sequence[str], peers: LinkedPeers, *, liveness: Liveness | None = None
    ) -> None:
        """`listen` holds multiaddrs, port 0 for any; `peers` is asked at every stream and frame."""
        self.peers: Final = peers
        self.addresses: tuple[str, ...] = ()
        self.us: Final = key.did
        self._listen = tuple(listen)
        self._protocols: dict[str, _Protocol] = {}
        self._scopes: dict[DeviceId, set[trio.CancelScope]] = {}
        self._subscribers: set[trio.MemorySendChannel[ConnectionEvent]] = set()
        self._arrival = trio.Event()
        self._numbers: dict[DeviceId, int] = {}
        self._dialling: dict[DeviceId, trio.Lock] = {}
        self._swarm = NodeSwarm(key, self._is_linked, liveness or Liveness(), self._connection_changed)
        self.host: BasicHost = build_host(self._swarm)
        self._swarm.set_stream_handler(self._serve_stream)
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> NoReturn:
        """Listen and serve until cancelled; started once `addresses` holds the real addresses.

        Raises:
            PortInUse: another program listens there.
            ListenFailed: an address to listen on is not usable on this machine.
        """
        listeners = await open_listeners(self._listen)
        bound = [address for listener in listeners for address in addresses_of(listener)]
        peer_id = peer_id_of(self.us)
        self.addresses = tuple(format_address(Address(at.host, at.port, peer_id)) for at in bound)
        async with background_trio_service(self._swarm), trio.open_nursery() as nursery:
            self._swarm.listeners["bound"] = Bound(bound)
            self._nursery = nursery
            try:
                nursery.start_soon(trio.serve_listeners, self._swarm.accept, listeners)
                task_status.started()
                await trio.sleep_forever()
            finally:
                nursery.cancel_scope.cancel()
                with trio.move_on_after(SHUTDOWN_S, shield=True):
                    await self._swarm.abort_all()
        raise AssertionError("unreachable: only cancellation ends the service")

    def handle(self, protocol: str, handler: Handler, *, access: Access) -> None:
        """Serve `protocol` with `handler` to whom `access` allows."""
        self._protocols[protocol] = _Protocol(handler, access)
        self.host.set_stream_handler(TProtocol(protocol), self._unreachable_handler)

    @asynccontextmanager
    async def open(self, peer: DeviceId, protocol: str) -> AsyncIterator[PeerStream]:
        """Give a stream to a connected peer; it is closed at the end of the block, reset after an error.

        Raises:
            PeerNotLinked: we do not link the peer for this protocol.
            OriginStopped: the peer signed two logs.
            PeerUnreachable: there is no connection, or the peer does not speak the protocol.
        """
        access = self._access(protocol)
        code = self.peers.refusal(peer, access)
        if code is not None:
            raise OriginStopped(peer) if code is RefusalCode.STOPPED else PeerNotLinked(peer)
        with trio.CancelScope() as scope:
            self._scopes.setdefault(peer, set()).add(scope)
            try:
                async with await self._open(peer, protocol, access) as stream:
                    yield stream
            finally:
                self._forget_scope(peer, scope)
        if scope.cancelled_caught:
            raise StreamClosed(peer, "the peer was disconnected")

    async def dial(self, peer: DeviceId, addresses: Sequence[str]) -> str | None:
        """Connect to `peer` and return the address that worked; return None at once when it is connected already.

        Addresses that cannot be dialled are skipped.

        Raises:
            PeerUnreachable: no address answers with the peer's key.
        """
        async with self._dialling.setdefault(peer, trio.Lock()):
            if self._is_connected(peer):
                return None
            usable = [parse_address(text) for text in dialable(tuple(addresses), peer_id_of(peer))]
            if not usable:
                raise PeerUnreachable(peer, "no address is known")
            while usable:
                address, stream = await _connect_first(peer, usable)
                usable.remove(address)
                try:
                    await self._swarm.connect(stream, _peer_id(peer))
                except ConnectionClosedError as error:
                    await stream.aclose()
                    if await self._crossed(peer):
                        return None  # the peer dialled us at the same moment, and that connection stays
                    _log.debug("dial_failed", extra={"peer": peer, "address": str(address), "error": str(error)})
                    continue
                except trio.Cancelled:
                    await trio.aclose_forcefully(stream)  # libp2p leaves the socket open in mid-handshake
                    raise
                return format_address(address)
        raise PeerUnreachable(peer, "nobody with its key answers at its addresses")

    async def disconnect(self, peer: DeviceId) -> None:
        """Cut every connection and stream with `peer` at once."""
        for scope in list(self._scopes.get(peer, ())):
            scope.cancel()
        for connection in self._swarm.connections_with(_peer_id(peer)):
            await connection.abort()

    async def linked(self, peer: DeviceId) -> None:
        """Treat the peer's live connection as that of a linked peer, right after it was linked."""
        if self._is_connected(peer):
            await self._swarm.announce(_peer_id(peer))
            self._publish(ConnectionEvent(peer, up=True))

    def connected(self) -> frozenset[DeviceId]:
        """Return the linked peers that have a live connection."""
        peers = {did_of_peer_id(str(peer_id)) for peer_id, found in self._swarm.connections.items() if found}
        return frozenset(peer for peer in peers if self._is_linked(peer) and self._is_connected(peer))

    def connection_number(self, peer: DeviceId) -> int:
        """Return how many connections a linked peer has had; it tells a new connection from the one before."""
        return self._numbers.get(peer, 0)

    def path_of(self, peer: DeviceId) -> str | None:
        """Return the remote address of the peer's connection as a multiaddr, None when there is none."""
        connection = self._live_connection(peer)
        remote = connection.muxed_conn.get_remote_address() if connection is not None else None
        return format_address(Address(*remote)) if remote is not None else None

    def subscribe(self) -> trio.MemoryReceiveChannel[ConnectionEvent]:
        """Return a channel of connection events; close it when done. A reader that falls far behind is dropped."""
        send, receive = trio.open_memory_channel[ConnectionEvent](MAX_EVENTS)  # events must not block the network
        self._subscribers.add(send)
        return receive

    async def _open(self, peer: DeviceId, protocol: str, access: Access) -> PeerStream:
        connection = self._live_connection(peer)
        if connection is None:
            raise PeerUnreachable(peer, "not connected")
        stream: Any = None
        with trio.move_on_after(NEGOTIATION_S):
            try:
                with trio.move_on_after(NEGOTIATION_S, shield=True):  # cancelled half-way it would leak its place
                    stream = await connection.new_stream()
                if stream is None:
                    raise PeerUnreachable(peer, "too many streams are open")
                communicator = MultiselectCommunicator(CappedReader(stream, NEGOTIATION_BYTES))
                await MultiselectClient().select_one_of([TProtocol(protocol)], communicator, NEGOTIATION_S)
                return PeerStream(stream, peer, protocol, lambda: self.peers.refusal(peer, access))
            except (BaseLibp2pError, OSError, ValueError) as error:
                await _abandon(stream)
                raise PeerUnreachable(peer, f"no stream for {protocol}") from error
            except trio.Cancelled:
                await _abandon(stream)
                raise
        raise PeerUnreachable(peer, f"no answer for {protocol}")

    async def _serve_stream(self, stream: Any) -> None:
        """Serve one inbound stream of any protocol; nothing that happens here may stop the swarm."""
        try:
            await self._serve(stream)
        except Exception as error:  # noqa: BLE001 - libp2p ends the whole swarm on what escapes a stream's handler
            _log.error("stream_failed", extra={"protocol": stream.get_protocol(), "error": names_of(leaves(error))})
            await _abandon(stream)

    async def _serve(self, stream: Any) -> None:
        peer = did_of_peer_id(str(stream.muxed_conn.peer_id))
        communicator = MultiselectCommunicator(CappedReader(stream, NEGOTIATION_BYTES))
        try:
            protocol, foreign = await self.host.get_mux().negotiate(communicator, NEGOTIATION_S)
        except (BaseLibp2pError, ValueError) as error:
            _log.debug("negotiation_failed", extra={"peer": peer, "error": type(error).__name__})
            await _abandon(stream)
            return
        stream.set_protocol(protocol)
        access = self._access(str(protocol))
        peer_stream = PeerStream(stream, peer, str(protocol), lambda: self.peers.refusal(peer, access))
        code = self.peers.refusal(peer, access)
        if code is not None:
            level = logging.INFO if self._is_linked(peer) else logging.DEBUG  # strangers must not fill the log
            _log.log(level, "stream_refused", extra={"peer": peer, "protocol": protocol, "code": str(code)})
            await peer_stream.refuse(code)
            return
        with trio.CancelScope() as scope:
            self._scopes.setdefault(peer, set()).add(scope)
            try:
                await self._handle(str(protocol), foreign, peer_stream, stream)
            finally:
                self._forget_scope(peer, scope)
        if scope.cancelled_caught:
            await _abandon(stream)

    async def _handle(self, protocol: str, foreign: Any, peer_stream: PeerStream, stream: Any) -> None:
        registered = self._protocols.get(protocol)
        if registered is None:
            await foreign(stream)
            return
        try:
            await registered.handler(peer_stream)
        except (*NAMED, ExceptionGroup) as error:
            if not is_named(error):
                raise
            await self._end_stream(peer_stream, leaves(error))
        else:
            with trio.move_on_after(SHUTDOWN_S):
                await _finish(peer_stream)

    async def _end_stream(self, stream: PeerStream, errors: list[BaseException]) -> None:
        """End a stream whose handler failed: quietly where the other side left, else with a refusal."""
        fields = {"peer": stream.peer, "protocol": stream.protocol, "error": names_of(errors)}
        if all(isinstance(error, StreamClosed | PeerNotLinked) for error in errors):
            _log.debug("stream_ended", extra=fields)
            await stream.reset()
        else:
            _log.warning("stream_handler_failed", extra=fields)
            await stream.refuse(RefusalCode.BAD_REQUEST, fields["error"])

    async def _unreachable_handler(self, stream: Any) -> NoReturn:
        raise AssertionError("own protocols are served by their registration")

    async def _crossed(self, peer: DeviceId) -> bool:
        """Return whether the peer's own connection is there, or comes within moments, after ours was turned down."""
        with trio.move_on_after(CROSSING_WAIT_S):
            while not self._is_connected(peer):
                await self._arrival.wait()
        return self._is_connected(peer)

    def _access(self, protocol: str) -> Access:
        registered = self._protocols.get(protocol)
        return registered.access if registered is not None else Access.LINKED

    def _is_linked(self, peer: DeviceId) -> bool:
        return self.peers.refusal(peer, Access.LINKED) is None

    def _is_connected(self, peer: DeviceId) -> bool:
        return self._live_connection(peer) is not None

    def _live_connection(self, peer: DeviceId) -> Any:
        live = [found for found in self._swarm.connections.get(_peer_id(peer), []) if not is_ended(found)]
        return live[-1] if live else None

    def _forget_scope(self, peer: DeviceId, scope: trio.CancelScope) -> None:
        scopes = self._scopes.get(peer, set())
        scopes.discard(scope)
        if not scopes:
            self._scopes.pop(peer, None)

    def _connection_changed(self, peer: DeviceId, up: bool) -> None:
        if up:
            self._arrival.set()
            self._arrival = trio.Event()
        if self._is_linked(peer):
            _log.info("connection_up" if up else "connection_down", extra={"peer": peer})
            self._publish(ConnectionEvent(peer, up))
        elif up and self._nursery is not None:
            self._nursery.start_soon(self._reap_stranger, peer)

    async def _reap_stranger(self, peer: DeviceId) -> None:
        """Cut the connection of a peer that is not linked once it has no stream of ours for a while."""
        while True:
            await trio.sleep(STRANGER_IDLE_S)
            connection = self._live_connection(peer)
            if self._is_linked(peer) or connection is None:
                return
            if not self._scopes.get(peer):
                await connection.muxed_conn.abort()
                return

    def _publish(self, event: ConnectionEvent) -> None:
        if event.up:
            self._numbers[event.peer] = self._numbers.get(event.peer, 0) + 1
        for subscriber in list(self._subscribers):
            try:
                subscriber.send_nowait(event)
            except (trio.BrokenResourceError, trio.WouldBlock):
                self._subscribers.discard(subscriber)
                subscriber.close()


async def _connect_first(peer: DeviceId, addresses: Sequence[Address]) -> tuple[Address, trio.SocketStream]:
    """Return the first TCP stream that opens; every next address starts a little later than the one before it."""
    found: list[tuple[Address, trio.SocketStream]] = []
    failures: list[str] = []

    async def attempt(address: Address, delay_s: float, scope: trio.CancelScope) -> None:
        await trio.sleep(delay_s)
        try:
            stream = await trio.open_tcp_stream(address.host, address.port, happy_eyeballs_delay=math.inf)
        except OSError as error:
            failures.append(f"{address.host}:{address.port} {error.strerror or error}")
            return
        if found:
            await trio.aclose_forcefully(stream)
            return
        found.append((address, stream))
        scope.cancel()

    try:
        with trio.move_on_after(DIAL_S):
            async with trio.open_nursery() as nursery:
                for index, address in enumerate(addresses):
                    nursery.start_soon(attempt, address, index * DIAL_STAGGER_S, nursery.cancel_scope)
    except BaseException:
        for _, opened in found:
            await trio.aclose_forcefully(opened)  # cancelled just as it opened
        raise
    if not found:
        raise PeerUnreachable(peer, "; ".join(failures) or f"no answer within {DIAL_S:.0f} s")
    return found[0]


async def _abandon(stream: Any) -> None:
    if stream is None:
        return
    with trio.move_on_after(SHUTDOWN_S, shield=True):
        try:
            await stream.reset()
        except (BaseLibp2pError, OSError):
            return  # the connection is gone, and the stream with it


async def _finish(stream: PeerStream) -> None:
    try:
        await stream.close()
    except StreamClosed:
        return  # the other side left first


def _peer_id(peer: DeviceId) -> ID:
    return ID.from_string(peer_id_of(peer))
