"""What strangers and hostile peers try on the wire; the node goes on serving its linked peers."""

import socket
import struct
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import pytest
import trio
import trio.testing
from libp2p import new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.secp256k1 import create_new_key_pair as create_secp256k1_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
from libp2p.custom_types import TProtocol
from libp2p.exceptions import BaseLibp2pError
from libp2p.network.config import ConnectionConfig
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo
from libp2p.security.insecure.transport import PLAINTEXT_PROTOCOL_ID, InsecureTransport
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as Noise
from multiaddr import Multiaddr

from identity.did import did_of_peer_id
from identity.testing import key_from_number
from node.net.access import Access, LinkedPeers
from node.net.muxer import STRANGER_STREAMS
from node.net.streams import PeerStream
from node.net.swarm import MAX_HANDSHAKES, MAX_HANDSHAKES_PER_HOST, MAX_STRANGERS_PER_HOST, Liveness
from node.net.transport import Transport
from protocol.codec import decode_message
from protocol.refusal import REFUSED
from protocol.scope import Scope
from protocol.wire import encode_frame

ECHO = "/tilenode/echo/1"
OPEN = "/tilenode/open/1"
VICTIM, ATTACKER = 1, 66


async def echo(stream: PeerStream) -> None:
    while True:
        await stream.send(await stream.receive(1_000))


class Fixture:
    """A node under attack, with one linked peer beside it."""

    def __init__(self, handshake_s: float) -> None:
        liveness = Liveness(handshake_s=handshake_s)
        self.node = Transport(key_from_number(VICTIM), ["/ip4/127.0.0.1/tcp/0"], LinkedPeers(), liveness=liveness)
        self.friend = Transport(key_from_number(2), ["/ip4/127.0.0.1/tcp/0"], LinkedPeers())
        self.node.peers.set(self.friend.us, Scope.OWN)
        self.friend.peers.set(self.node.us, Scope.OWN)
        self.node.handle(ECHO, echo, access=Access.LINKED)
        self.node.handle(OPEN, echo, access=Access.ANYONE)

    @property
    def port(self) -> int:
        return int(self.node.addresses[0].split("/")[4])

    async def serves_its_friend(self) -> bool:
        await self.friend.dial(self.node.us, self.node.addresses)
        async with self.friend.open(self.node.us, ECHO) as stream:
            await stream.send(b"hello")
            return await stream.receive(10) == b"hello"


Attack = Callable[[Fixture], Awaitable[None]]


async def under(attack: Attack, handshake_s: float = 1.0) -> None:
    fixture = Fixture(handshake_s)
    async with trio.open_nursery() as nursery:
        await nursery.start(fixture.node.run)
        await nursery.start(fixture.friend.run)
        with trio.fail_after(40):
            assert await fixture.serves_its_friend()
            await attack(fixture)
            assert await fixture.serves_its_friend()
        nursery.cancel_scope.cancel()


def stock_host(number: int = ATTACKER, **options: Any) -> Any:
    """A libp2p host as it comes, speaking Noise with the key of `number`."""
    pair = create_new_key_pair(key_from_number(number).seed)
    security = {NOISE: Noise(pair, noise_privkey=create_noise_key_pair().private_key)}
    config = ConnectionConfig(min_connections=0, low_watermark=0, high_watermark=0)
    return new_host(key_pair=pair, sec_opt=options.get("sec_opt", security), connection_config=config)


@asynccontextmanager
async def running(host: Any) -> AsyncIterator[None]:
    async with host.run(listen_addrs=[]):
        try:
            yield
        finally:  # the stock host leaves its sockets to the garbage collector
            with trio.CancelScope(shield=True):
                for connection in host.get_network().get_connections():
                    await connection.muxed_conn.secured_conn.close()


async def connected(host: Any, fixture: Fixture) -> ID:
    address = Multiaddr(fixture.node.addresses[0])
    peer_id = ID.from_string(address.value_for_protocol("p2p") or "")
    await host.get_network().dial_addr(address, peer_id)
    return peer_id


async def test_a_stock_libp2p_host_talks_to_us() -> None:
    async def attack(fixture: Fixture) -> None:
        host = stock_host()
        async with running(host):
            peer_id = await connected(host, fixture)
            stream = await host.new_stream(peer_id, [TProtocol(OPEN)])
            await stream.write(encode_frame(b"hello", 10))
            assert await stream.read(9) == encode_frame(b"hello", 10)
            await stream.reset()

    await under(attack)


async def test_plaintext_and_its_claimed_identity_are_refused() -> None:
    async def attack(fixture: Fixture) -> None:
        pair = create_new_key_pair(key_from_number(2).seed)  # the friend's identity, were it asked for
        host = stock_host(2, sec_opt={PLAINTEXT_PROTOCOL_ID: InsecureTransport(pair)})
        async with running(host):
            with pytest.raises(BaseLibp2pError):
                await connected(host, fixture)

    await under(attack)


async def test_a_stranger_is_refused_in_words_and_its_bytes_are_dropped() -> None:
    async def attack(fixture: Fixture) -> None:
        host = stock_host()
        async with running(host):
            peer_id = await connected(host, fixture)
            stream = await host.new_stream(peer_id, [TProtocol(ECHO)])
            await stream.write(encode_frame(b"let me in", 100))
            answer = await stream.read(1_000)
            kind, fields = decode_message(answer[4:], 1_000)
            assert (kind, fields.text("code", max=32)) == (REFUSED, "not-linked")

    await under(attack)


@pytest.mark.parametrize(
    "junk",
    [b"\x05\xff\xfe\xff\xfe\n", b"\xff" * 64, b"\x00", b"\x13/multistream/1.0.0\n\xff\xff\xff\xff\x7f" + b"x" * 9_000],
)
async def test_junk_instead_of_a_protocol_name_ends_only_that_stream(junk: bytes) -> None:
    async def attack(fixture: Fixture) -> None:
        host = stock_host()
        async with running(host):
            peer_id = await connected(host, fixture)
            for _ in range(3):
                stream = await host.get_network().new_stream(peer_id)
                await stream.write(junk)
                await stream.close()
                with suppress(BaseLibp2pError):
                    while await stream.read(1_000):
                        pass

    await under(attack)


async def test_an_oversized_frame_is_refused() -> None:
    async def attack(fixture: Fixture) -> None:
        host = stock_host()
        async with running(host):
            peer_id = await connected(host, fixture)
            stream = await host.new_stream(peer_id, [TProtocol(OPEN)])
            await stream.write(b"\xff\xff\xff\xff" + b"x" * 100)
            kind, _ = decode_message((await stream.read(1_000))[4:], 1_000)
            assert kind == REFUSED

    await under(attack)


async def test_a_flood_of_streams_is_reset_and_then_cut_off() -> None:
    async def attack(fixture: Fixture) -> None:
        host = stock_host()
        async with running(host):
            peer_id = await connected(host, fixture)
            (connection,) = host.get_network().get_connections(peer_id)
            with suppress(BaseLibp2pError, trio.TooSlowError), trio.fail_after(10):
                for _ in range(200):
                    await host.get_network().new_stream(peer_id)
            with trio.fail_after(10):
                await connection.muxed_conn.event_closed.wait()
            assert len(connection.muxed_conn.streams) <= STRANGER_STREAMS

    await under(attack)


async def test_bytes_beyond_every_window_cut_the_connection() -> None:
    async def attack(fixture: Fixture) -> None:
        host = stock_host()
        async with running(host):
            peer_id = await connected(host, fixture)
            (connection,) = host.get_network().get_connections(peer_id)
            muxed = connection.muxed_conn
            stream = await host.get_network().new_stream(peer_id)
            with trio.fail_after(20), suppress(BaseLibp2pError):
                while not muxed.event_closed.is_set():
                    stream.muxed_stream.send_window = 1_000_000  # a hostile peer minds no window
                    await stream.write(bytes(60_000))

    await under(attack)


async def test_raw_junk_and_silence_hold_no_handshake_for_long() -> None:
    async def attack(fixture: Fixture) -> None:
        async with trio.open_nursery() as nursery:
            for index in range(MAX_HANDSHAKES_PER_HOST * 2):
                nursery.start_soon(knock, fixture, b"GET / HTTP/1.1\r\n\r\n" if index % 2 else b"\xff" * 4_000)

    await under(attack)


@pytest.mark.platform
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has all of 127.0.0.0/8 without being told")
async def test_silent_connections_do_not_keep_a_friend_out() -> None:
    async def attack(fixture: Fixture) -> None:
        async with AsyncExitStack() as silent:
            await fixture.friend.disconnect(fixture.node.us)
            for address in range(2, 2 + 2 * MAX_HANDSHAKES // MAX_HANDSHAKES_PER_HOST):
                for _ in range(MAX_HANDSHAKES_PER_HOST):
                    await silent.enter_async_context(await silent_from(f"127.0.0.{address}", fixture.port))
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert len(fixture.node._swarm._handshakes) == MAX_HANDSHAKES
            assert await fixture.serves_its_friend()

    await under(attack, handshake_s=60.0)


async def silent_from(host: str, port: int) -> trio.SocketStream:
    """Return a connection from this address of the machine, on which nothing is ever said."""
    client = trio.socket.socket()
    await client.bind((host, 0))
    await client.connect(("127.0.0.1", port))
    return trio.SocketStream(client)


async def knock(fixture: Fixture, data: bytes) -> None:
    stream = await trio.open_tcp_stream("127.0.0.1", fixture.port)
    async with stream:
        with trio.move_on_after(15), suppress(trio.BrokenResourceError):
            await stream.send_all(data)
            while await stream.receive_some(1_000):
                pass


async def test_who_leaves_in_the_same_moment_stops_nothing() -> None:
    async def attack(fixture: Fixture) -> None:
        for _ in range(200):
            client = await trio.open_tcp_stream("127.0.0.1", fixture.port)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closing resets
            client.socket.close()
        await trio.testing.wait_all_tasks_blocked(0.05)

    await under(attack)


async def test_many_connections_one_after_the_other_leave_nothing_behind() -> None:
    async def attack(fixture: Fixture) -> None:
        for number in range(100, 140):
            host = stock_host(number)
            async with running(host):
                await connected(host, fixture)
        with trio.fail_after(10):
            while strangers_of(fixture):
                await trio.sleep(0.05)

    await under(attack)


async def test_strangers_displace_one_another_but_no_friend() -> None:
    async def attack(fixture: Fixture) -> None:
        async with trio.open_nursery() as nursery:
            gate = trio.Event()
            for number in range(100, 100 + MAX_STRANGERS_PER_HOST + 6):
                await nursery.start(stay, fixture, number, gate)
            await trio.testing.wait_all_tasks_blocked(0.3)
            assert len(strangers_of(fixture)) <= MAX_STRANGERS_PER_HOST
            assert fixture.node.connected() == {fixture.friend.us}
            gate.set()

    await under(attack)


async def stay(
    fixture: Fixture, number: int, gate: trio.Event, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    host = stock_host(number)
    async with running(host):
        await connected(host, fixture)
        task_status.started()
        await gate.wait()


def strangers_of(fixture: Fixture) -> set[str]:
    network = fixture.node.host.get_network()
    found = {did_of_peer_id(str(peer_id)) for peer_id, connections in network.connections.items() if connections}
    return {str(did) for did in found if fixture.node.peers.scope_of(did) is None}


async def test_a_key_that_is_no_device_key_is_refused() -> None:
    async def attack(fixture: Fixture) -> None:
        pair = create_secp256k1_key_pair()
        noise = Noise(pair, noise_privkey=create_noise_key_pair().private_key)
        host = new_host(key_pair=pair, sec_opt={NOISE: noise})
        async with running(host):
            with pytest.raises(BaseLibp2pError):
                await reach(host, fixture)

    await under(attack)


async def reach(host: Any, fixture: Fixture) -> None:
    peer_id = await connected(host, fixture)
    await host.new_stream(peer_id, [TProtocol(OPEN)])


async def test_strangers_are_invisible_to_the_services_of_libp2p() -> None:
    async def attack(fixture: Fixture) -> None:
        seen: list[str] = []

        class Watcher:
            async def connected(self, network: Any, connection: Any) -> None:
                seen.append(str(connection.muxed_conn.peer_id))

            def __getattr__(self, name: str) -> Any:
                async def ignored(*args: Any) -> None:
                    return None

                return ignored

        fixture.node.host.get_network().register_notifee(Watcher())  # type: ignore[arg-type]  # all it needs is there
        host = stock_host()
        async with running(host):
            await connected(host, fixture)
            peer_info = PeerInfo(host.get_id(), [])
            assert seen == []
            fixture.node.peers.set(did_of_peer_id(str(peer_info.peer_id)), Scope.MODELS)
            await fixture.node.linked(did_of_peer_id(str(peer_info.peer_id)))
            assert seen == [str(peer_info.peer_id)]

    await under(attack)
