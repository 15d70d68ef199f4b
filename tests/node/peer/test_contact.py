"""Contact with linked peers over real connections: at once, again after every interruption, quietly when refused.

Run as a program it is the peer in another process: `test_contact.py NUMBER HOME PORT PEER_NUMBER`.
"""

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import pytest
import trio

from identity.did import DeviceId
from identity.testing import key_from_number
from node.errors import StreamClosed
from node.net.access import Access, LinkedPeers
from node.net.streams import PeerStream
from node.net.swarm import Liveness
from node.net.transport import Transport
from node.peer.contact import Contacts, Pace
from node.ports import SystemClock, SystemEntropy
from node.threads import Threads
from protocol.scope import Scope
from store.database import Database
from store.peers import LinkedPeer, Peers

GREET = "/tilenode/greet/1"
QUICK = Pace(interval_s=30.0, first_retry_s=0.05, longest_retry_s=0.4, refused_retry_s=600.0)


class Node:
    """A transport with contacts over a real database, and what its contacts did."""

    def __init__(
        self, number: int, home: Path, port: int = 0, pace: Pace = QUICK, liveness: Liveness | None = None
    ) -> None:
        self.database = Database.open(home / f"{number}.db", bytes(32), create=not (home / f"{number}.db").exists())
        self.peers = Peers(self.database)
        self.links = LinkedPeers((peer.did, peer.scope) for peer in self.peers.list())
        self.transport = Transport(
            key_from_number(number), [f"/ip4/127.0.0.1/tcp/{port}"], self.links, liveness=liveness
        )
        self.transport.handle(GREET, self.serve, access=Access.LINKED)
        self.contacts = Contacts(self.transport, self.peers, Threads(), SystemClock(), SystemEntropy(), pace=pace)
        self.contacts.on_contact(self.greet)
        self.send, self.contacted = trio.open_memory_channel[DeviceId](100)

    @property
    def did(self) -> DeviceId:
        return self.transport.us

    async def serve(self, stream: PeerStream) -> None:
        await stream.send(await stream.receive(100))

    async def greet(self, peer: DeviceId) -> None:
        async with self.transport.open(peer, GREET) as stream:
            await stream.send(b"hello")
            assert await stream.receive(100) == b"hello"
        self.send.send_nowait(peer)

    def link(self, other: "Node") -> None:
        self.peers.add(LinkedPeer(other.did, "peer", Scope.OWN, other.transport.addresses, 1))
        self.links.set(other.did, Scope.OWN)


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(10):
        while not condition():
            await trio.sleep(0.02)


@asynccontextmanager
async def running(*nodes: Node) -> AsyncIterator[Callable[[Callable[..., Awaitable[object]]], Awaitable[object]]]:
    async with trio.open_nursery() as nursery:
        for node in nodes:
            await nursery.start(node.transport.run)
        with trio.fail_after(30):
            yield nursery.start
        nursery.cancel_scope.cancel()
    for node in nodes:
        node.database.close()


async def test_both_sides_of_a_link_make_contact(tmp_path: Path) -> None:
    one, two = Node(1, tmp_path), Node(2, tmp_path)
    async with running(one, two) as start:
        one.link(two)
        two.link(one)
        await start(one.contacts.run)
        await start(two.contacts.run)
        assert await one.contacted.receive() == two.did
        assert await two.contacted.receive() == one.did
        await until(lambda: one.peers.list()[0].last_contact_s is not None)


async def test_three_nodes_all_meet(tmp_path: Path) -> None:
    nodes = [Node(number, tmp_path) for number in (1, 2, 3)]
    async with running(*nodes) as start:
        for node in nodes:
            for other in nodes:
                if other is not node:
                    node.link(other)
        for node in nodes:
            await start(node.contacts.run)
        for node in nodes:
            met: set[DeviceId] = set()
            while len(met) < 2:
                met.add(await node.contacted.receive())
            assert met == {other.did for other in nodes if other is not node}


async def test_a_contact_is_made_once_per_connection_and_again_when_woken(tmp_path: Path) -> None:
    one, two = Node(1, tmp_path), Node(2, tmp_path)
    async with running(one, two) as start:
        one.link(two)
        two.links.set(one.did, Scope.OWN)
        await start(one.contacts.run)
        await one.contacted.receive()
        with trio.move_on_after(0.5) as scope:
            await one.contacted.receive()
        assert scope.cancelled_caught
        one.contacts.wake(two.did)
        assert await one.contacted.receive() == two.did


async def test_contact_comes_again_in_every_interval(tmp_path: Path) -> None:
    pace = Pace(interval_s=0.1)
    one, two = Node(1, tmp_path, pace=pace), Node(2, tmp_path)
    async with running(one, two) as start:
        one.link(two)
        two.links.set(one.did, Scope.OWN)
        await start(one.contacts.run)
        for _ in range(4):
            await one.contacted.receive()


async def test_a_cut_connection_is_made_again(tmp_path: Path) -> None:
    one, two = Node(1, tmp_path), Node(2, tmp_path)
    async with running(one, two) as start:
        one.link(two)
        two.links.set(one.did, Scope.OWN)
        await start(one.contacts.run)
        for _ in range(3):
            assert await one.contacted.receive() == two.did
            await two.transport.disconnect(one.did)


async def test_a_peer_that_is_not_there_yet_is_reached_when_it_comes(tmp_path: Path) -> None:
    one, two = Node(1, tmp_path), Node(2, tmp_path)
    async with running(two):
        addresses = two.transport.addresses
        port = int(addresses[0].split("/")[4])
    two = Node(2, tmp_path, port)
    two.links.set(one.did, Scope.OWN)
    async with running(one) as start:
        one.link(two)
        one.peers.set_addresses(two.did, ["/ip4/127.0.0.1/tcp/9", *addresses])
        await start(one.contacts.run)
        with trio.move_on_after(0.3):
            await one.contacted.receive()
            raise AssertionError("nobody listens there yet")
        async with running(two):
            assert await one.contacted.receive() == two.did
            await until(lambda: one.peers.list()[0].addresses[0] == addresses[0])


async def test_who_does_not_link_us_is_noted_and_left_alone(tmp_path: Path) -> None:
    one, two = Node(1, tmp_path), Node(2, tmp_path)
    async with running(one, two) as start:
        one.link(two)
        await start(one.contacts.run)
        await until(lambda: one.peers.list()[0].refused_s is not None)
        await two.transport.disconnect(one.did)
        with trio.move_on_after(1.0) as scope:
            await until(lambda: two.transport.path_of(one.did) is not None)
        assert scope.cancelled_caught, "a refused node dials again at once"
        two.link(one)
        await start(two.contacts.run)
        assert await two.contacted.receive() == one.did
        assert await one.contacted.receive() == two.did
        await until(lambda: one.peers.list()[0].refused_s is None)


async def test_an_error_of_one_exchange_stops_neither_the_others_nor_the_peer(tmp_path: Path) -> None:
    one, two = Node(1, tmp_path, pace=Pace(interval_s=0.1)), Node(2, tmp_path)

    async def failing(peer: DeviceId) -> None:
        raise StreamClosed(peer)

    async def hanging(peer: DeviceId) -> None:
        raise trio.TooSlowError

    async def grouped(peer: DeviceId) -> None:
        async with trio.open_nursery():
            raise StreamClosed(peer)

    async def broken(peer: DeviceId) -> None:
        raise ZeroDivisionError

    one.contacts = Contacts(
        one.transport, one.peers, Threads(), SystemClock(), SystemEntropy(), pace=Pace(interval_s=0.1)
    )
    for callback in (failing, hanging, grouped, broken, one.greet):
        one.contacts.on_contact(callback)
    async with running(one, two) as start:
        one.link(two)
        two.links.set(one.did, Scope.OWN)
        await start(one.contacts.run)
        for _ in range(3):
            assert await one.contacted.receive() == two.did


async def test_a_forgotten_peer_is_not_contacted(tmp_path: Path) -> None:
    one, two = Node(1, tmp_path, pace=Pace(interval_s=0.05)), Node(2, tmp_path)
    async with running(one, two) as start:
        one.link(two)
        two.links.set(one.did, Scope.OWN)
        await start(one.contacts.run)
        await one.contacted.receive()
        one.contacts.forget(two.did)
        while True:
            with trio.move_on_after(0.3) as scope:
                await one.contacted.receive()
            if scope.cancelled_caught:
                break


@contextmanager
def peer_process(home: Path, port: int) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run node 2, which links node 1, in a process of its own; give it and its address."""
    command = [sys.executable, __file__, "2", str(home), str(port), "1"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


@pytest.mark.processes
async def test_a_killed_peer_is_contacted_again_after_each_restart(tmp_path: Path) -> None:
    one = Node(1, tmp_path)
    async with running(one) as start:
        port = 0
        for kill in range(3):
            with peer_process(tmp_path / "peer", port) as (process, address):
                if not kill:
                    port = int(address.split("/")[4])
                    one.peers.add(LinkedPeer(key_from_number(2).did, "peer", Scope.OWN, (address,), 1))
                    one.links.set(key_from_number(2).did, Scope.OWN)
                    await start(one.contacts.run)
                assert await one.contacted.receive() == key_from_number(2).did
                process.send_signal(signal.SIGKILL)
                killed_at = trio.current_time()
                await until(lambda: not one.transport.connected())
                assert trio.current_time() - killed_at < 2
            while True:
                with suppress(trio.WouldBlock):
                    one.contacted.receive_nowait()
                    continue
                break


@pytest.mark.processes
async def test_a_frozen_peer_is_noticed_and_contacted_again_when_it_thaws(tmp_path: Path) -> None:
    one = Node(1, tmp_path, liveness=Liveness(interval_s=0.3, deadline_s=0.5))
    with peer_process(tmp_path / "peer", 0) as (process, address):
        async with running(one) as start:
            one.peers.add(LinkedPeer(key_from_number(2).did, "peer", Scope.OWN, (address,), 1))
            one.links.set(key_from_number(2).did, Scope.OWN)
            await start(one.contacts.run)
            await one.contacted.receive()
            await trio.sleep(1.5)
            assert one.transport.connected(), "a live peer answers the pings"
            process.send_signal(signal.SIGSTOP)
            frozen_at = trio.current_time()
            await until(lambda: not one.transport.connected())
            assert trio.current_time() - frozen_at < 3
            process.send_signal(signal.SIGCONT)
            await one.contacted.receive()


async def be_a_peer(number: int, home: Path, port: int, other: int) -> None:
    home.mkdir(exist_ok=True)
    node = Node(number, home, port)
    async with trio.open_nursery() as nursery:
        await nursery.start(node.transport.run)
        node.links.set(key_from_number(other).did, Scope.OWN)
        await nursery.start(node.contacts.run)
        print(node.transport.addresses[0], flush=True)


if __name__ == "__main__":
    trio.run(be_a_peer, int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
