"""Two and three real hosts on loopback: authenticated streams, refusals, unlinking, restarts, frozen peers."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from identity.testing import key_from_number
from node.errors import ListenFailed, PeerNotLinked, PeerUnreachable, PortInUse, RemoteRefused, StreamClosed
from node.net.access import Access, LinkedPeers
from node.net.listening import default_listen
from node.net.streams import PeerStream
from node.net.swarm import Liveness
from node.net.transport import Transport
from protocol.errors import FrameTooLarge
from protocol.scope import Scope

LOOPBACK = ("/ip4/127.0.0.1/tcp/0",)
ECHO = "/tilenode/echo/1"
PRIVATE = "/tilenode/private/1"
OPEN = "/tilenode/open/1"


async def echo(stream: PeerStream) -> None:
    while True:
        await stream.send(await stream.receive(1_000_000))


def node(number: int, liveness: Liveness | None = None) -> Transport:
    transport = Transport(key_from_number(number), LOOPBACK, LinkedPeers(), liveness=liveness)
    transport.handle(ECHO, echo, access=Access.LINKED)
    transport.handle(PRIVATE, echo, access=Access.OWN)
    transport.handle(OPEN, echo, access=Access.ANYONE)
    return transport


def link(one: Transport, other: Transport, scope: Scope = Scope.OWN) -> None:
    for here, there in ((one, other), (other, one)):
        here.peers.set(there.us, scope)


async def ask(one: Transport, two: Transport, protocol: str = ECHO) -> bytes:
    async with one.open(two.us, protocol) as stream:
        await stream.send(b"hello")
        return await stream.receive(100)


@asynccontextmanager
async def running(*transports: Transport) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        for transport in transports:
            await nursery.start(transport.run)
        with trio.fail_after(30):
            yield
        nursery.cancel_scope.cancel()


async def test_two_linked_nodes_exchange_frames() -> None:
    one, two = node(1), node(2)
    link(one, two)
    async with running(one, two):
        events = two.subscribe()
        await one.dial(two.us, two.addresses)
        assert one.connected() == {two.us}
        async with one.open(two.us, ECHO) as stream:
            for payload in (b"", b"hello", bytes(300_000)):
                await stream.send(payload)
                assert await stream.receive(300_000) == payload
        event = await events.receive()
        assert (event.peer, event.up) == (one.us, True)
        assert two.connected() == {one.us}
        path = two.path_of(one.us)
        assert path is not None
        assert path.startswith("/ip4/127.0.0.1/tcp/")


async def test_a_stranger_reaches_only_what_is_open_to_anyone() -> None:
    one, two = node(1), node(2)
    async with running(one, two):
        one.peers.set(two.us, Scope.OWN)  # one links two, two does not link one
        await one.dial(two.us, two.addresses)
        for protocol in (ECHO, PRIVATE):
            with pytest.raises(RemoteRefused) as caught:
                await ask(one, two, protocol)
            assert caught.value.code == "not-linked"
        assert await ask(one, two, OPEN) == b"hello"
        assert two.connected() == frozenset()


async def test_a_scope_that_was_narrowed_counts_for_the_next_frame() -> None:
    one, two = node(1), node(2)
    link(one, two)
    async with running(one, two):
        await one.dial(two.us, two.addresses)
        async with one.open(two.us, PRIVATE) as stream:
            await stream.send(b"a")
            assert await stream.receive(10) == b"a"
            two.peers.set(one.us, Scope.MODELS)
            await stream.send(b"b")
            with pytest.raises(RemoteRefused) as caught:
                await stream.receive(10)
        assert caught.value.code == "not-own-device"


async def test_what_is_sent_after_our_own_unlinking_stays_here() -> None:
    one, two = node(1), node(2)
    link(one, two)
    async with running(one, two):
        await one.dial(two.us, two.addresses)
        async with one.open(two.us, ECHO) as stream:
            one.peers.remove(two.us)
            with pytest.raises(PeerNotLinked):
                await stream.send(b"secret")
        with pytest.raises(PeerNotLinked):
            await ask(one, two)


async def test_disconnecting_ends_open_streams_on_both_sides_at_once() -> None:
    one, two = node(1), node(2)
    link(one, two)
    async with running(one, two):
        events = two.subscribe()
        await one.dial(two.us, two.addresses)
        assert (await events.receive()).up

        async def cut() -> None:
            await trio.testing.wait_all_tasks_blocked(0.05)
            await one.disconnect(two.us)

        with trio.fail_after(3):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(cut)
                with pytest.raises(StreamClosed):
                    await wait_for_a_frame(one, two)
            assert not (await events.receive()).up
        assert one.connected() == two.connected() == frozenset()
        assert two.path_of(one.us) is None
        await one.dial(two.us, two.addresses)
        assert await ask(one, two) == b"hello"


async def wait_for_a_frame(one: Transport, two: Transport) -> None:
    async with one.open(two.us, ECHO) as stream:
        await stream.receive(10)


@pytest.mark.parametrize("head_start_s", [0.0, 0.001, 0.003, 0.006, 0.01, 0.02])
async def test_dialling_at_the_same_moment_leaves_one_connection_that_works(head_start_s: float) -> None:
    one, two = node(1), node(2)
    link(one, two)
    async with running(one, two):
        for _ in range(2):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(one.dial, two.us, two.addresses)
                await trio.sleep(head_start_s)
                nursery.start_soon(two.dial, one.us, one.addresses)
            await trio.testing.wait_all_tasks_blocked(0.05)
            await until(lambda: all(len(here.host.get_network().get_connections()) == 1 for here in (one, two)))
            assert one.connected() == {two.us}
            assert two.connected() == {one.us}
            for here, there in ((one, two), (two, one)):
                assert await ask(here, there) == b"hello"
            await one.disconnect(two.us)
            await until(lambda: not one.connected() and not two.connected())


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(10):
        while not condition():
            await trio.sleep(0.01)


async def test_a_cancelled_sender_leaves_the_connection_whole() -> None:
    one, two = node(1), node(2)
    link(one, two)
    two.handle("/tilenode/deaf/1", deaf, access=Access.LINKED)
    one.handle("/tilenode/deaf/1", deaf, access=Access.LINKED)
    async with running(one, two):
        await one.dial(two.us, two.addresses)
        for milliseconds in (1, 2, 5, 10, 30):
            with trio.move_on_after(milliseconds / 1000) as scope:
                async with one.open(two.us, "/tilenode/deaf/1") as stream:
                    while True:
                        await stream.send_raw(bytes(1_000_000))
            assert scope.cancelled_caught
            assert await ask(one, two) == b"hello"


async def deaf(stream: PeerStream) -> None:
    await trio.sleep_forever()


async def test_a_peer_at_another_address_than_its_key_says_is_not_taken_for_it() -> None:
    one, two, three = node(1), node(2), node(3)
    link(one, two)
    link(one, three)
    async with running(one, two, three):
        there = two.addresses[0].split("/p2p/")[0]
        with pytest.raises(PeerUnreachable):
            await one.dial(three.us, [there])
        assert await one.dial(three.us, [there, *three.addresses]) == three.addresses[0]
        assert await ask(one, three) == b"hello"


async def test_an_address_that_swallows_packets_delays_the_good_one_only_shortly() -> None:
    one, two = node(1), node(2)
    link(one, two)
    async with running(one, two):
        with trio.fail_after(3):
            await one.dial(two.us, ["/ip4/127.0.0.1/tcp/9", "/ip4/192.0.2.1/tcp/9", *two.addresses])
        assert await ask(one, two) == b"hello"


async def test_without_an_address_or_a_connection_the_peer_is_unreachable() -> None:
    one, two = node(1), node(2)
    link(one, two)
    async with running(one):
        for addresses in ([], ["/dns4/example.org/tcp/80"], ["/ip4/127.0.0.1/tcp/9"]):
            with pytest.raises(PeerUnreachable):
                await one.dial(two.us, addresses)
        with pytest.raises(PeerUnreachable):
            await ask(one, two)


async def test_a_protocol_that_nobody_serves_is_named() -> None:
    one, two = node(1), node(2)
    link(one, two)
    async with running(one, two):
        await one.dial(two.us, two.addresses)
        with pytest.raises(PeerUnreachable) as caught:
            await ask(one, two, "/tilenode/unheard-of/1")
        assert "/tilenode/unheard-of/1" in str(caught.value)


async def test_a_port_in_use_is_named_with_what_to_do() -> None:
    one = node(1)
    async with running(one):
        taken = one.addresses[0].split("/p2p/")[0]
        two = Transport(key_from_number(2), [*LOOPBACK, taken], LinkedPeers())
        with pytest.raises(PortInUse) as caught:
            await two.run()
        assert "--listen" in caught.value.hint


@pytest.mark.parametrize(
    "listen", ["/ip4/192.0.2.1/tcp/0", "/dns4/localhost/tcp/0", "nonsense", "/ip4/127.0.0.1/tcp/99999"]
)
async def test_an_address_that_is_not_ours_is_named(listen: str) -> None:
    with pytest.raises(ListenFailed):
        await Transport(key_from_number(1), [listen], LinkedPeers()).run()


async def test_every_listen_address_gets_its_real_port() -> None:
    one, two = Transport(key_from_number(1), [*LOOPBACK, "/ip6/::1/tcp/0"], LinkedPeers()), node(2)
    one.handle(ECHO, echo, access=Access.LINKED)
    link(one, two)
    async with running(one, two):
        assert len(one.addresses) == 2
        assert all("/tcp/0" not in address for address in one.addresses)
        assert await two.dial(one.us, one.addresses[1:]) == one.addresses[1]
        assert await ask(two, one) == b"hello"
        path = one.path_of(two.us)
        assert path is not None
        assert path.startswith("/ip6/::1/tcp/")


async def test_listening_everywhere_tells_concrete_addresses() -> None:
    one = Transport(key_from_number(1), ["/ip4/0.0.0.0/tcp/0"], LinkedPeers())
    async with running(one):
        assert one.addresses
        assert one.addresses[0].startswith("/ip4/127.0.0.1/tcp/")
        assert not any("0.0.0.0" in address or "/tcp/0/" in address for address in one.addresses)


def test_the_default_addresses_are_concrete() -> None:
    addresses = default_listen(4001)
    assert addresses[0] == "/ip4/127.0.0.1/tcp/4001"
    assert not any("0.0.0.0" in address or "/::/" in address or "fe80" in address for address in addresses)


async def test_a_handler_that_fails_is_answered_with_a_refusal() -> None:
    async def failing(stream: PeerStream) -> None:
        raise PeerUnreachable("somebody", "for a test")

    async def grouped(stream: PeerStream) -> None:
        async with trio.open_nursery():
            await failing(stream)

    async def broken(stream: PeerStream) -> None:
        raise ZeroDivisionError

    one, two = node(1), node(2)
    link(one, two)
    two.handle("/tilenode/failing/1", failing, access=Access.LINKED)
    two.handle("/tilenode/grouped/1", grouped, access=Access.LINKED)
    two.handle("/tilenode/broken/1", broken, access=Access.LINKED)
    async with running(one, two):
        await one.dial(two.us, two.addresses)
        for protocol in ("/tilenode/failing/1", "/tilenode/grouped/1"):
            with pytest.raises(RemoteRefused) as caught:
                await ask(one, two, protocol)
            assert (caught.value.code, caught.value.why) == ("bad-request", "PeerUnreachable")
        with pytest.raises((StreamClosed, PeerUnreachable)):
            await ask(one, two, "/tilenode/broken/1")
        assert await ask(one, two) == b"hello"


async def test_an_answer_larger_than_asked_for_is_refused() -> None:
    one, two = node(1), node(2)
    link(one, two)
    async with running(one, two):
        await one.dial(two.us, two.addresses)
        async with one.open(two.us, ECHO) as stream:
            await stream.send(bytes(1_000))
            with pytest.raises(FrameTooLarge):
                await stream.receive(999)
        async with one.open(two.us, ECHO) as stream:
            await stream.send(bytes(100))
            with pytest.raises(FrameTooLarge):
                await stream.receive(99)


async def test_raw_bytes_follow_a_frame() -> None:
    async def source(stream: PeerStream) -> None:
        size = int(await stream.receive(20))
        await stream.send(b"here")
        await stream.send_raw(bytes(size))

    one, two = node(1), node(2)
    link(one, two)
    for here in (one, two):
        here.handle("/tilenode/bulk/1", source, access=Access.LINKED)
    async with running(one, two):
        await one.dial(two.us, two.addresses)
        async with one.open(two.us, "/tilenode/bulk/1") as stream:
            await stream.send(b"5000000")
            assert await stream.receive(10) == b"here"
            assert await stream.receive_exactly(1_000_000) == bytes(1_000_000)
            left = 4_000_000
            while left:
                left -= len(await stream.receive_some())
            with pytest.raises(StreamClosed):
                await stream.receive_some()
