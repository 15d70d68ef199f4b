"""A hostile device: real keys and a real link, run by the test itself, serving what no honest node would."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import trio

from identity.did import DeviceId
from node.net.access import Access
from node.net.streams import PeerStream
from node.peer.link import LinkService
from node.peer.shelf import Shelf, ShelfView
from node.peer.testing import ModelNode
from node.ports import SystemClock, SystemEntropy
from protocol.attestation import Artifact, BuildFacts, build_statement, sign_statement
from protocol.blob import BLOB_PROTOCOL, MAX_REQUEST_BYTES, decode_read, encode_data_header
from protocol.codec import encode_message
from protocol.digest import Digest, digest_of
from protocol.dsse import sign_envelope
from protocol.have import HAVE_PROTOCOL, HaveComplete, HaveNone, decode_have_request, encode_have
from protocol.heads import OfferedModel
from protocol.model_name import parse_model_name
from protocol.provenance import entry_for
from protocol.scope import Scope
from store.feeds import Feeds
from store.linking import Linking
from tests.end_to_end.nodes import NodeProcess

R = TypeVar("R")


class Attacker(ModelNode):
    """A device whose heads, bundles and blobs are whatever a test says."""

    def __init__(self, home: Path, number: int) -> None:
        super().__init__(home, number, patience_s=5)
        self._linking = LinkService(
            self.transport,
            self.peers,
            Linking(self.peers, Feeds(self.database, self.key, lambda did: False, SystemClock().now_ms)),
            self.threads,
            self.key,
            lambda: self.nickname,
            SystemClock(),
            SystemEntropy(),
            self.contacts,
        )
        self._offers: dict[Digest, tuple[OfferedModel, bytes]] = {}
        self._blobs: dict[Digest, bytes] = {}
        self._shelf: Shelf = self.gossip.shelf
        self.transport.handle(HAVE_PROTOCOL, self._serve_have, access=Access.LINKED)
        self.transport.handle(BLOB_PROTOCOL, self._serve_blobs, access=Access.LINKED)

    async def link_with(self, victim: NodeProcess) -> DeviceId:
        """Link by ticket, with the victim's consent, for models only; return the victim's identity."""
        listening = victim.follow("link", "enable", "--models-only")
        ticket = await in_thread(listening.next_event, "ticket")
        async with self._linking.join(str(ticket["ticket"]), Scope.MODELS, True) as events:
            request = await in_thread(listening.next_event, "request")
            await in_thread(victim.command, "link", "approve", request["id"])
            assert [event["event"] async for event in events] == ["request", "linked"]
        assert await in_thread(listening.finish) == 0
        return DeviceId(victim.ready["did"])

    def offer(self, name: str, manifest: Digest, bundle: bytes, blobs: Mapping[Digest, bytes] | None = None) -> None:
        """Offer a bundle under a name, and serve these blobs as the ones with these digests."""
        offered = OfferedModel(parse_model_name(name), manifest, self.did, digest_of(bundle), len(bundle))
        self._offers[offered.bundle] = (offered, bundle)
        self._blobs |= blobs or {}
        self._shelf.view = self._view  # type: ignore[method-assign]  # the honest shelf would refuse to show this
        self._shelf.bundle = self._bundle  # type: ignore[method-assign]  # as above

    def sign_and_log(self, name: str, manifest: bytes, layers: tuple[Artifact, ...]) -> bytes:
        """Return a bundle in which every signature and proof is right, whatever the manifest says."""
        digest = digest_of(manifest)
        model = Artifact(f"{name}:latest", digest)
        facts = BuildFacts({"modelfile": "FROM ."}, [Artifact("source", digest)], {"tilenode": "0"}, 0)
        salts = {"build": b"\1" * 32, "sign": b"\2" * 32}
        statements = {
            "build": build_statement(model, layers, facts, self.did, salts["build"]),
            "sign": sign_statement(model, layers, salts["sign"]),
        }
        indexes = self.log.append(
            [
                entry_for("build", statements["build"], salts["build"], digest),
                entry_for("sign", statements["sign"], salts["sign"], digest),
            ]
        )
        events = {
            kind: {
                "envelope": sign_envelope(self.key, statement),
                "index": index,
                "proof": list(self.log.inclusion_proof(index, self.log.size)),
            }
            for (kind, statement), index in zip(statements.items(), indexes, strict=True)
        }
        return encode_message(
            "provenance",
            publisher=self.did,
            name=model.name,
            manifest=manifest,
            build=events["build"],
            sign=events["sign"],
            checkpoint=self.log.checkpoint(),
        )

    async def _view(self) -> ShelfView:
        offers = tuple(sorted(offered for offered, _ in self._offers.values()))
        return ShelfView(offers, {offer.bundle: offer.manifest for offer in offers})

    async def _bundle(self, manifest: Digest, bundle: Digest) -> bytes | None:
        return self._offers[bundle][1] if bundle in self._offers else None

    async def _serve_have(self, stream: PeerStream) -> None:
        blob = decode_have_request(await stream.receive(MAX_REQUEST_BYTES))
        content = self._blobs.get(blob)
        await stream.send(encode_have(HaveNone() if content is None else HaveComplete(len(content))))

    async def _serve_blobs(self, stream: PeerStream) -> None:
        while True:
            request = decode_read(await stream.receive(MAX_REQUEST_BYTES))
            content = self._blobs[request.blob][request.offset : request.offset + request.length]
            await stream.send(encode_data_header(len(content)))
            await stream.send_raw(content)


@asynccontextmanager
async def attacking(victim: NodeProcess, home: Path, number: int) -> AsyncIterator[Attacker]:
    """Run an attacker that is linked with the victim, and unlink it there at the end."""
    attacker = Attacker(home, number)
    async with attacker.running():
        await attacker.link_with(victim)
        yield attacker
        await in_thread(victim.command, "link", "disable", attacker.did)


async def in_thread(function: Callable[..., R], *words: object, **options: object) -> R:
    """Run a blocking command without stopping the attacker's network."""
    return await trio.to_thread.run_sync(lambda: function(*words, **options))
