"""Two and three real hosts on loopback: authenticated streams, refusals, unlinking, restarts, frozen peers."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from identity.testing import key_from_number
from node.errors import RemoteRefused
from node.net.access import Access, LinkedPeers
from node.net.streams import PeerStream
from node.net.swarm import Liveness
from node.net.transport import Transport
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
