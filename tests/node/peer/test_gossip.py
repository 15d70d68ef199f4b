"""Heads and announcements between real nodes: offers verified, logs followed, forks stopped, strangers kept out."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trio
import trio.testing
from libp2p.peer.id import ID

from identity.did import peer_id_of
from node.errors import LogBehind, OfferRefused, OriginStopped, PeerUnreachable, RemoteRefused, StreamClosed
from node.net.access import Access
from node.net.streams import PeerStream
from node.peer.intake import Claim
from node.peer.pubsub import PROTOCOLS
from node.peer.testing import ModelNode, link
from protocol.blob import BLOB_PROTOCOL
from protocol.digest import digest_of
from protocol.gossip import TOPIC
from protocol.have import HAVE_PROTOCOL
from protocol.heads import (
    HEADS_PROTOCOL,
    MAX_HEADS_FRAME_BYTES,
    PROVENANCE_PROTOCOL,
    Greeting,
    decode_answer,
    encode_bundle,
    encode_greeting,
)
from protocol.model_name import parse_model_name
from protocol.scope import Scope
from protocol.sync import PROTOCOL as SYNC_PROTOCOL
from store.evidence import SeenLogs
from store.testing import make_model_directory, make_tensors

DEMO = parse_model_name("demo")


@pytest.fixture(autouse=True)
async def deadline() -> AsyncIterator[None]:
    with trio.fail_after(60):
        yield


async def started(stack: AsyncExitStack, home: Path, *numbers: int) -> list[ModelNode]:
    return [await stack.enter_async_context(ModelNode(home / str(n), n).running()) for n in numbers]


async def test_what_was_published_before_is_settled_at_the_first_contact(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        ann, ben = await started(stack, tmp_path, 1, 2)
        ann.publish("demo", make_model_directory(tmp_path / "one"))
        bundle = ann.publish("demo:v2", make_model_directory(tmp_path / "two", make_tensors(2)))
        ann.nickname = "kitchen"
        await link(ann, ben)
        await ben.wait_for("offer", name="demo:latest")
        event = await ben.wait_for("offer", name="demo:v2")
        offer = next(offer for offer in ben.fetch.offers() if offer.name.tag == "v2")
        model = ann.store.resolve(offer.name)
        assert (offer.peer, offer.publisher, offer.manifest) == (ann.did, ann.did, model.digest)
        assert (offer.bundle, offer.size_bytes, offer.log_size) == (digest_of(bundle), model.size_bytes, 4)
        assert event["size_bytes"] == model.size_bytes
        seen = ben.seen_logs.latest(ann.did)
        assert seen is not None
        assert (seen.size, seen.root) == (4, ann.log.root)
        await ben.gossip.exchange(ann.did)
        assert ben.peers.find("kitchen").did == ann.did


async def test_a_second_contact_without_news_moves_only_digests(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        ann, ben = await started(stack, tmp_path, 1, 2)
        ann.publish("demo", make_model_directory(tmp_path / "one"))
        await link(ann, ben)
        await ben.wait_for("offer")
        await ben.gossip.exchange(ann.did)
        heads = ben.gossip._heads
        async with ben.transport.open(ann.did, HEADS_PROTOCOL) as stream:
            await stream.send(encode_greeting(Greeting(bytes(32), heads._settled[ann.did].digest)))
            raw = await stream.receive(MAX_HEADS_FRAME_BYTES)
        assert decode_answer(raw).heads is None
        assert len(raw) < 100


async def test_an_announcement_reaches_a_linked_peer_and_is_verified(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        ann, ben = await started(stack, tmp_path, 1, 2)
        await meshed(ann, ben)
        bundle = ann.publish("demo", make_model_directory(tmp_path / "one"))
        await ann.gossip.announce(bundle)
        event = await ben.wait_for("offer", name="demo:latest")
        assert event["peer"] == ann.did


async def test_an_announcement_crosses_a_peer_in_the_middle(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        ann, ben, cat = await started(stack, tmp_path, 1, 2, 3)
        await meshed(ann, ben)
        await meshed(ben, cat)
        cat.links.set(ann.did, cat.links.scope_of(ben.did))  # type: ignore[arg-type]  # linked, but not connected
        taken = trio.Event()
        accepts = cat.gossip._accepts

        def watch(forwarder: str, data: bytes) -> bool:
            accepted = accepts(forwarder, data)  # type: ignore[arg-type]  # a DID, as it came
            if accepted and forwarder == ben.did:
                taken.set()
            return accepted

        assert cat.gossip._pubsub is not None
        cat.gossip._pubsub._accepts = watch
        await ann.gossip.announce(ann.publish("demo", make_model_directory(tmp_path / "one")))
        await taken.wait()


async def test_a_forged_announcement_is_not_passed_on(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        ann, ben = await started(stack, tmp_path, 1, 2)
        await meshed(ann, ben)
        refused = trio.Event()
        assert ben.gossip._pubsub is not None
        accepts = ben.gossip._accepts

        def watch(forwarder: str, data: bytes) -> bool:
            accepted = accepts(forwarder, data)  # type: ignore[arg-type]  # a DID, as it came
            if not accepted:
                refused.set()
            return accepted

        ben.gossip._pubsub._accepts = watch
        assert ann.gossip._pubsub is not None
        await ann.gossip._pubsub.publish(TOPIC, b"nonsense")
        await refused.wait()
        assert ben.fetch.offers() == []


async def test_gossip_streams_of_unlinked_peers_are_refused_and_an_unlinked_peer_leaves_the_mesh(
    tmp_path: Path,
) -> None:
    async with AsyncExitStack() as stack:
        ann, ben, eve = await started(stack, tmp_path, 1, 2, 3)
        await meshed(ann, ben)
        eve.knows(ann)
        await eve.transport.dial(ann.did, ann.transport.addresses)
        eve_id = ID.from_string(peer_id_of(eve.did))
        for protocol in PROTOCOLS:
            with pytest.raises(RemoteRefused) as caught:
                async with eve.transport.open(ann.did, protocol) as stream:
                    await stream.receive(100)
            assert caught.value.code == "not-linked"
        assert ann.gossip._pubsub is not None
        assert eve_id not in ann.gossip._pubsub.peers
        ben_id = ID.from_string(peer_id_of(ben.did))
        assert ben_id in ann.gossip._pubsub.peers
        await ann.unlink(ben)
        while ben_id in ann.gossip._pubsub.peers:
            await trio.testing.wait_all_tasks_blocked(0.05)
        assert ben_id not in ann.gossip._pubsub._gossipsub.mesh.get(TOPIC, set())


async def test_two_logs_of_one_key_stop_it_and_the_evidence_stays(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        (ben,) = await started(stack, tmp_path, 2)
        ben.transport.handle(SYNC_PROTOCOL, PeerStream.drain, access=Access.OWN)
        honest = ModelNode(tmp_path / "face one", 1)
        honest.publish("demo", make_model_directory(tmp_path / "one"))
        async with honest.running():
            await link(honest, ben)
            ben.links.set(honest.did, Scope.OWN)
            await ben.wait_for("offer", name="demo:latest")
            port = honest.port
        # The same key with another log: a copied home, or a publisher with two faces.
        forked = ModelNode(tmp_path / "face two", 1, port=port)
        forked.publish("other", make_model_directory(tmp_path / "two", make_tensors(2)))
        async with forked.running():
            forked.knows(ben)
            forked.contacts.attend(ben.did)
            alarm = await ben.wait_for("alarm")
            assert (alarm["kind"], alarm["origin"]) == ("log-forked", honest.did)
            assert ben.fetch.offers() == []
            with pytest.raises(OriginStopped):
                await ben.gossip.origins.require_honest(honest.did)
            with pytest.raises(OriginStopped):
                await ben.gossip.exchange(honest.did)
            for protocol in (
                HEADS_PROTOCOL,
                PROVENANCE_PROTOCOL,
                BLOB_PROTOCOL,
                HAVE_PROTOCOL,
                SYNC_PROTOCOL,
                PROTOCOLS[0],
            ):
                assert await refusal(forked, ben, protocol) == "stopped"
        evidence = SeenLogs(tmp_path / "2" / "evidence").frozen(honest.did)
        assert evidence is not None
        assert evidence.origin == honest.did


async def refusal(stopped: ModelNode, node: ModelNode, protocol: str) -> str:
    """Return the code with which a node refuses a stream, once it has cut the connection it had."""
    while True:
        try:
            await stopped.transport.dial(node.did, node.transport.addresses)
            async with stopped.transport.open(node.did, protocol) as stream:
                await stream.receive(MAX_HEADS_FRAME_BYTES)
        except RemoteRefused as error:
            return error.code
        except (PeerUnreachable, StreamClosed):
            continue


async def test_a_longer_log_that_does_not_continue_the_one_seen_is_a_fork(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        (ben,) = await started(stack, tmp_path, 2)
        honest = ModelNode(tmp_path / "face one", 1)
        honest.publish("demo", make_model_directory(tmp_path / "one"))
        async with honest.running():
            await link(honest, ben)
            await ben.wait_for("offer", name="demo:latest")
            port = honest.port
        forked = ModelNode(tmp_path / "face two", 1, port=port)
        for number in (2, 3):
            forked.publish("other", make_model_directory(tmp_path / f"two {number}", make_tensors(number)))
        async with forked.running():
            forked.knows(ben)
            forked.contacts.attend(ben.did)
            assert (await ben.wait_for("alarm"))["kind"] == "log-forked"
        assert ben.seen_logs.frozen(honest.did) is not None


async def test_a_log_that_went_back_is_flagged_and_its_new_models_are_not_accepted(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        (ben,) = await started(stack, tmp_path, 2)
        ann = ModelNode(tmp_path / "1", 1)
        for number in (1, 2):
            ann.publish(f"demo:v{number}", make_model_directory(tmp_path / f"one {number}", make_tensors(number)))
        async with ann.running():
            await link(ann, ben)
            await ben.wait_for("offer", name="demo:v2")
            port = ann.port
        fresh = ModelNode(tmp_path / "restored", 1, port=port)
        async with fresh.running():
            fresh.knows(ben)
            fresh.contacts.attend(ben.did)
            alarm = await ben.wait_for("alarm")
            assert (alarm["kind"], alarm["seen_size"], alarm["size"]) == ("log-behind", 4, 0)
            with pytest.raises(LogBehind):
                await ben.gossip.origins.follow(fresh.did, fresh.log.checkpoint())
        assert ben.seen_logs.frozen(ann.did) is None


async def test_a_device_learns_from_a_peer_that_its_own_log_went_back(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        (ben,) = await started(stack, tmp_path, 2)
        ann = ModelNode(tmp_path / "1", 1)
        ann.publish("demo", make_model_directory(tmp_path / "one"))
        async with ann.running():
            await link(ann, ben)
            await ben.wait_for("offer")
            port = ann.port
        restored = ModelNode(tmp_path / "restored", 1, port=port)
        async with restored.running():
            restored.knows(ben)
            restored.contacts.attend(ben.did)
            assert (await restored.wait_for("alarm"))["kind"] == "own-log-rolled-back"
            assert restored.log.rolled_back


async def test_a_bundle_that_does_not_verify_is_refused(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        ann, ben = await started(stack, tmp_path, 1, 2)
        bundle = ann.publish("demo", make_model_directory(tmp_path / "one"))
        tampered = bundle.replace(b"demo:latest", b"demo:latesu")
        served = {"bundle": tampered}

        async def serve(stream: PeerStream) -> None:
            await stream.receive(1024)
            await stream.send(encode_bundle(served["bundle"]))

        ann.transport.handle(PROVENANCE_PROTOCOL, serve, access=Access.LINKED)
        await link(ann, ben)
        while ann.did not in ben.transport.connected():
            await trio.testing.wait_all_tasks_blocked(0.05)
        manifest = ann.store.resolve(DEMO).digest
        for claimed, content in ((tampered, tampered), (bundle, tampered)):
            served["bundle"] = content
            with pytest.raises(OfferRefused):
                await ben.gossip.intake.accept(Claim(ann.did, ann.did, DEMO, manifest, digest_of(claimed)))
        served["bundle"] = bundle
        for claim in (
            Claim(ann.did, ben.did, DEMO, manifest, digest_of(bundle)),
            Claim(ann.did, ann.did, parse_model_name("other"), manifest, digest_of(bundle)),
            Claim(ann.did, ann.did, DEMO, digest_of(b"another"), digest_of(bundle)),
        ):
            with pytest.raises(OfferRefused):
                await ben.gossip.intake.accept(claim)
        assert ben.fetch.offers() == []


async def test_a_third_party_passes_a_model_on_with_its_publishers_provenance(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        ann, ben, cat = await started(stack, tmp_path, 1, 2, 3)
        ann.publish("demo", make_model_directory(tmp_path / "one"))
        await link(ann, ben)
        await link(ben, cat)
        await ben.pull("demo", ben.peers.find("node-1"))
        await cat.wait_for("offer", peer=ben.did, publisher=ann.did)
        done = (await cat.pull("demo", cat.peers.find("node-2")))[-1]
        assert done["publisher"] == ann.did
        assert cat.store.verify(DEMO).digest == ann.store.resolve(DEMO).digest


async def meshed(one: ModelNode, other: ModelNode) -> None:
    """Link two nodes and wait until each sends announcements to the other."""
    await link(one, other)
    await in_mesh(one, other)


async def in_mesh(one: ModelNode, other: ModelNode) -> None:
    for here, there in ((one, other), (other, one)):
        assert here.gossip._pubsub is not None
        await here.gossip._pubsub.wait_for_mesh(ID.from_string(peer_id_of(there.did)), TOPIC, timeout=20)


async def test_own_models_that_come_back_from_a_peer_are_settled(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        ann, ben = await started(stack, tmp_path, 1, 2)
        for number in (1, 2):
            ann.publish(f"demo:v{number}", make_model_directory(tmp_path / str(number) / "model", make_tensors(number)))
            if number == 1:
                await link(ann, ben)
                await ben.wait_for("offer")
            await ben.pull(f"demo:v{number}")
        await ann.gossip.exchange(ben.did)
        assert [(offer.peer, offer.publisher) for offer in ann.fetch.offers()] == [(ben.did, ann.did)] * 2
        assert ann.gossip._heads._settled[ben.did].failures == 0
        assert ann.seen_logs.latest(ann.did) is None


async def test_a_peer_that_is_linked_over_a_live_connection_joins_the_mesh(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        ann, ben = await started(stack, tmp_path, 1, 2)
        await ann.transport.dial(ben.did, ben.transport.addresses)
        for here, there in ((ann, ben), (ben, ann)):
            here.knows(there)
        for here, there in ((ann, ben), (ben, ann)):
            await here.transport.linked(there.did)
        await in_mesh(ann, ben)
        await ann.gossip.announce(ann.publish("demo", make_model_directory(tmp_path / "one")))
        await ben.wait_for("offer", name="demo:latest")


async def test_offers_come_back_after_unlinking_and_linking_again(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        ann, ben = await started(stack, tmp_path, 1, 2)
        ann.publish("demo", make_model_directory(tmp_path / "one"))
        await link(ann, ben)
        await ben.wait_for("offer")
        await ben.unlink(ann)
        assert ben.fetch.offers() == []
        ben.events.clear()
        await link(ann, ben)
        await ben.wait_for("offer", name="demo:latest")
        assert len(ben.fetch.offers()) == 1
