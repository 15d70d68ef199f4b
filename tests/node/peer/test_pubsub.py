"""What a linked but hostile peer may make GossipSub remember or do: nothing beyond the one topic."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from libp2p.peer.id import ID
from libp2p.pubsub.pb import rpc_pb2

from identity.did import DeviceId, peer_id_of
from identity.testing import key_from_number
from node.errors import TooManyOrigins
from node.peer.budget import Budget
from node.peer.origins import MAX_STRANGE_ORIGINS
from node.peer.pubsub import MAX_BACKOFF_S, MAX_IDS, LinkedPubsub
from node.peer.testing import ModelNode, link
from node.ports import SystemClock
from protocol.checkpoint import sign_checkpoint
from protocol.gossip import TOPIC
from protocol.tlog import EMPTY_ROOT

PEER = ID.from_string(peer_id_of(key_from_number(2).did))


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[ModelNode]:
    with trio.fail_after(30):
        async with ModelNode(tmp_path, 1).running() as running:
            yield running


def pubsub_of(node: ModelNode) -> LinkedPubsub:
    assert node.gossip._pubsub is not None
    return node.gossip._pubsub


async def test_control_entries_about_other_topics_leave_nothing_behind(node: ModelNode) -> None:
    router = pubsub_of(node)._gossipsub
    rpc = rpc_pb2.RPC()
    for number in range(500):
        rpc.control.prune.add(topicID=f"topic {number}", backoff=10**6)
        rpc.control.graft.add(topicID=f"topic {number}")
        rpc.control.ihave.add(topicID=f"topic {number}", messageIDs=[bytes([1]) * 32])
    rpc.control.prune.add(topicID=TOPIC, backoff=10**9)
    await router.handle_rpc(rpc, PEER)
    assert set(router.back_off) == {TOPIC}
    assert set(router.graft_flood_tracking[PEER]) == {TOPIC}
    assert len(router.ihave_message_limits[PEER]) == 0
    assert router.back_off[TOPIC][PEER] <= node_time() + MAX_BACKOFF_S + 5


async def test_proposed_peers_are_not_dialled(node: ModelNode, monkeypatch: pytest.MonkeyPatch) -> None:
    dialled: list[object] = []

    async def connect(peer: object) -> None:
        dialled.append(peer)

    monkeypatch.setattr(pubsub_of(node).host, "connect", connect)
    rpc = rpc_pb2.RPC()
    prune = rpc.control.prune.add(topicID=TOPIC, backoff=1)
    prune.peers.add(peerID=ID.from_string(peer_id_of(key_from_number(3).did)).to_bytes())
    await pubsub_of(node)._gossipsub.handle_rpc(rpc, PEER)
    await pubsub_of(node)._gossipsub.handle_prune(prune, PEER)
    assert dialled == []


async def test_a_request_for_one_message_a_thousand_times_is_one_request(
    node: ModelNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    router = pubsub_of(node)._gossipsub
    asked: list[list[bytes]] = []

    async def handle_iwant(entry: rpc_pb2.ControlIWant, sender: ID) -> None:
        asked.append(list(entry.messageIDs))

    monkeypatch.setattr(router, "handle_iwant", handle_iwant)
    rpc = rpc_pb2.RPC()
    rpc.control.iwant.add(messageIDs=[bytes(32)] * 1000 + [bytes([number]) * 32 for number in range(200)])
    rpc.control.iwant.add(messageIDs=[bytes(32)])
    await router.handle_rpc(rpc, PEER)
    assert len(asked) == 1
    assert len(asked[0]) == len(set(asked[0])) == MAX_IDS


async def test_invented_publishers_make_room_for_others(node: ModelNode) -> None:
    for number in range(100, 101 + MAX_STRANGE_ORIGINS):
        key = key_from_number(number)
        await node.gossip.origins.follow(key.did, sign_checkpoint(key, 0, EMPTY_ROOT))
        assert await node.gossip.origins.has_seen(key.did)
    assert len(node.seen_logs.origins()) == MAX_STRANGE_ORIGINS


async def test_logs_of_devices_that_are_not_linked_are_followed_up_to_a_cap(
    node: ModelNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(100, 100 + MAX_STRANGE_ORIGINS):
        key = key_from_number(number)
        await node.gossip.origins.follow(key.did, sign_checkpoint(key, 0, EMPTY_ROOT))
    used = node.seen_logs.origins()

    async def held() -> list[DeviceId]:
        return used

    monkeypatch.setattr(node.gossip.origins, "_held", held)
    stranger = key_from_number(99)
    with pytest.raises(TooManyOrigins):
        await node.gossip.origins.follow(stranger.did, sign_checkpoint(stranger, 0, EMPTY_ROOT))
    async with ModelNode(tmp_path / "linked", 2).running() as other:
        await link(node, other)
        await node.gossip.origins.follow(other.did, other.log.checkpoint())
    known = key_from_number(100)
    await node.gossip.origins.follow(known.did, sign_checkpoint(known, 0, EMPTY_ROOT))


def node_time() -> int:
    return SystemClock().now_s()


async def test_a_budget_is_used_up_and_refilled() -> None:
    budget = Budget(per_s=2.0, burst=3.0, at_s=0.0)
    assert [budget.take(0.0) for _ in range(4)] == [True, True, True, False]
    assert budget.take(0.5)
    assert not budget.take(0.6)
    assert [budget.take(100.0) for _ in range(4)] == [True, True, True, False]
