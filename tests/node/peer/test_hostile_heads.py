"""A linked peer that sends heads faster than they can be settled, because it draws the settling out itself."""

from pathlib import Path

import pytest
import trio
import trio.testing

from node.net.access import Access
from node.net.streams import PeerStream
from node.peer.testing import ModelNode, link
from protocol.digest import Digest
from protocol.heads import (
    HEADS_PROTOCOL,
    MAX_HEADS_FRAME_BYTES,
    PROVENANCE_PROTOCOL,
    Greeting,
    Heads,
    OfferedModel,
    decode_answer,
    encode_greeting,
    encode_heads,
    heads_digest,
)
from protocol.model_name import parse_model_name

pytestmark = pytest.mark.timeout(60)


async def test_heads_that_wait_for_a_slow_settling_do_not_pile_up(tmp_path: Path) -> None:
    asked = trio.Event()

    async def never_answer(stream: PeerStream) -> None:
        asked.set()
        await trio.sleep_forever()

    async with (
        ModelNode(tmp_path / "victim", 1).running() as victim,
        ModelNode(tmp_path / "hostile", 2).running() as peer,
    ):
        peer.transport.handle(PROVENANCE_PROTOCOL, never_answer, access=Access.LINKED)
        await link(victim, peer)
        while victim.did not in peer.transport.connected():
            await trio.sleep(0.01)
        wanted = [await push_heads(peer, victim, 1)]
        await asked.wait()
        for number in range(2, 10):
            wanted.append(await push_heads(peer, victim, number))
            await trio.testing.wait_all_tasks_blocked(0.05)
        assert not any(wanted[2:])  # one is being settled, one waits


async def push_heads(sender: ModelNode, receiver: ModelNode, number: int) -> bool:
    """Send heads with one offer that nobody has seen; return whether the receiver wanted them."""
    digest = Digest(f"{number:064x}")
    offer = OfferedModel(parse_model_name("demo"), digest, sender.did, digest, 1_000)
    heads = encode_heads(Heads("hostile", (), sender.log.checkpoint(), (), (offer,)))
    async with sender.transport.open(receiver.did, HEADS_PROTOCOL) as stream:
        await stream.send(encode_greeting(Greeting(heads_digest(heads), bytes(32))))
        answer = decode_answer(await stream.receive(MAX_HEADS_FRAME_BYTES))
        if answer.want:
            await stream.send(heads)
    return answer.want
