"""Devices that are not linked, not any more, or for less: what a real node answers to a raw transport."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from identity.did import DeviceId
from identity.testing import key_from_number
from node.cli.exit_codes import ExitCode
from node.errors import NodeError, PeerUnreachable, RemoteRefused, StreamClosed
from node.net.access import LinkedPeers
from node.net.transport import Transport
from node.peer.registry import REGISTRY_PROTOCOL
from node.peer.sources import ask_have
from protocol.blob import BLOB_PROTOCOL, ReadRequest, encode_read
from protocol.digest import Digest
from protocol.have import HAVE_PROTOCOL, HaveComplete
from protocol.heads import CONSISTENCY_PROTOCOL, HEADS_PROTOCOL, PROVENANCE_PROTOCOL, Greeting, encode_greeting
from protocol.link import PROTOCOL as LINK_PROTOCOL
from protocol.scope import Scope
from protocol.sync import PROTOCOL as SYNC_PROTOCOL
from tests.end_to_end.attacker import Attacker, attacking, in_thread
from tests.end_to_end.nodes import NodeProcess, started
from tests.end_to_end.refusals import check_logs, refused

pytestmark = [pytest.mark.processes, pytest.mark.timeout(120)]

OURS = (
    HEADS_PROTOCOL,
    PROVENANCE_PROTOCOL,
    CONSISTENCY_PROTOCOL,
    HAVE_PROTOCOL,
    BLOB_PROTOCOL,
    SYNC_PROTOCOL,
    REGISTRY_PROTOCOL,
)
LIBP2P = ("/meshsub/1.1.0", "/meshsub/1.2.0", "/floodsub/1.0.0", "/ipfs/id/1.0.0", "/ipfs/ping/1.0.0")
SECRET = "the tulip code is 4711"


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    with started(tmp_path_factory.mktemp("strangers"), "victim") as (node,):
        node.command("run", "demo", SECRET)
        yield node
        check_logs(node, SECRET, "tulip")


@pytest.fixture(autouse=True)
async def deadline() -> AsyncIterator[None]:
    with trio.fail_after(60):
        yield


@asynccontextmanager
async def stranger(victim: NodeProcess) -> AsyncIterator[Transport]:
    """Give a connected transport with a key of its own, which believes itself linked with the victim."""
    did = DeviceId(victim.ready["did"])
    transport = Transport(key_from_number(77), ["/ip4/127.0.0.1/tcp/0"], LinkedPeers([(did, Scope.OWN)]))
    async with trio.open_nursery() as nursery:
        await nursery.start(transport.run)
        await transport.dial(did, victim.ready["addresses"])
        yield transport
        nursery.cancel_scope.cancel()


async def test_a_stranger_reaches_the_link_protocol_and_nothing_else(victim: NodeProcess) -> None:
    async with stranger(victim) as transport:
        for protocol in OURS:
            assert await _answer(transport, victim, protocol) == "not-linked"
        for protocol in LIBP2P:
            assert await _answer(transport, victim, protocol) in ("not-linked", "nothing")
        assert await _answer(transport, victim, LINK_PROTOCOL) == "bad-request"
    assert (await in_thread(victim.command, "link", "list-peers"))["peers"] == []
    assert (await _only_chat(victim))["lines"][0]["content"] == SECRET


async def test_noise_at_the_door_costs_nobody_anything(victim: NodeProcess) -> None:
    host, port = victim.ready["addresses"][0].split("/")[2:5:2]
    for noise in (b"", b"GET / HTTP/1.1\r\n\r\n", b"\x13/multistream/1.0.0\n" * 3, bytes(range(256)) * 64):
        stream = await trio.open_tcp_stream(host, int(port))
        async with stream:
            with trio.move_on_after(1):
                try:
                    await stream.send_all(noise)
                    while await stream.receive_some(65536):
                        continue
                except trio.BrokenResourceError:
                    continue
    async with stranger(victim) as transport:
        assert await _answer(transport, victim, HEADS_PROTOCOL) == "not-linked"


async def test_a_device_linked_for_models_gets_no_chats_and_says_so(victim: NodeProcess, tmp_path: Path) -> None:
    async with attacking(victim, tmp_path, 78) as friend:
        did = DeviceId(victim.ready["did"])
        friend.links.set(did, Scope.OWN)  # its own word counts for nothing there
        assert await _answer(friend.transport, victim, SYNC_PROTOCOL) == "not-own-device"
        said = await in_thread(refused, victim, ExitCode.NOT_ALLOWED, "sync", friend.did)
        assert friend.did in said.message or friend.nickname in said.message


async def test_a_device_unlinked_a_moment_ago_is_cut_off_and_stays_out(victim: NodeProcess, tmp_path: Path) -> None:
    async with attacking(victim, tmp_path, 79) as friend:
        did, layer = DeviceId(victim.ready["did"]), await _weights(victim)
        have = await ask_have(friend.transport, did, layer)
        assert isinstance(have, HaveComplete)
        async with trio.open_nursery() as nursery:
            ended = trio.Event()
            nursery.start_soon(_read_for_ever, friend, did, layer, have.size_bytes, ended)
            await in_thread(victim.command, "link", "disable", friend.did)
            await ended.wait()
        friend.contacts.forget(did)
        with pytest.raises((RemoteRefused, StreamClosed, PeerUnreachable)):
            await ask_have(friend.transport, did, layer)
        await friend.transport.dial(did, victim.ready["addresses"])
        for protocol in OURS:
            assert await _answer(friend.transport, victim, protocol) == "not-linked"
        for words in (("pull", "demo", "--from", friend.did), ("sync", friend.did), ("link", "disable", friend.did)):
            said = await in_thread(refused, victim, ExitCode.PEER_UNKNOWN, *words)
            assert friend.did in said.message
            assert "list-peers" in said.hint
        assert (await in_thread(victim.command, "status"))["peers"] == []
        await friend.link_with(victim)  # a new ticket, a new consent: linked again


async def _read_for_ever(friend: Attacker, did: DeviceId, layer: Digest, size: int, ended: trio.Event) -> None:
    """Read a layer over and over on one stream, until that is over."""
    length = min(size, 65536)
    try:
        async with friend.transport.open(did, BLOB_PROTOCOL) as stream:
            while True:
                await stream.send(encode_read(ReadRequest(layer, 0, length)))
                await stream.receive(1024)
                await stream.receive_exactly(length)
    except NodeError:
        ended.set()


async def _answer(transport: Transport, victim: NodeProcess, protocol: str) -> str:
    """Return the code with which a protocol is refused, or `nothing` where it is not spoken at all."""
    try:
        async with transport.open(DeviceId(victim.ready["did"]), protocol) as stream:
            await stream.send(encode_greeting(Greeting(bytes(32), bytes(32))))
            answer = await stream.receive(65536)
    except RemoteRefused as error:
        return error.code
    except (StreamClosed, PeerUnreachable):
        return "nothing"
    raise AssertionError(f"{protocol} answered {answer!r}")


async def _weights(victim: NodeProcess) -> Digest:
    shown = await in_thread(victim.command, "show", "demo")
    return Digest(max(shown["layers"], key=lambda layer: layer["size_bytes"])["digest"])


async def _only_chat(victim: NodeProcess) -> dict[str, list[dict[str, str]]]:
    (chat,) = (await in_thread(victim.command, "chats"))["chats"]
    shown: dict[str, list[dict[str, str]]] = await in_thread(victim.command, "chats", "show", chat["id"])
    return shown
