"""A node without its command line, for tests: real transport, store, log and database, several in one process."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from identity.keys import DeviceKey
from identity.secrets import LogGuard
from identity.testing import MemorySecretStore, secrets_from_number
from node.net.access import LinkedPeers
from node.net.transport import Transport
from node.peer.contact import Contacts, Pace
from node.peer.fetch import Fetch
from node.peer.gossip import Gossip
from node.peer.pull import Event
from node.ports import SystemClock, SystemEntropy
from node.threads import Threads
from protocol.model_name import parse_model_name
from protocol.modelfile import parse_modelfile
from protocol.scope import Scope
from store.build import BuildRequest, build_model
from store.database import Database
from store.evidence import SeenLogs
from store.log import Log
from store.models import ModelStore
from store.offers import Offers
from store.peers import LinkedPeer, Peers
from store.provenance import publish_model

QUICK = Pace(interval_s=2.0, first_retry_s=0.05, longest_retry_s=0.2)


class ModelNode:
    """One node's models part under `home`; `events` collects what it tells about offers and alarms."""

    def __init__(
        self,
        home: Path,
        number: int,
        *,
        port: int = 0,
        patience_s: float = 60.0,
        secrets: MemorySecretStore | None = None,
    ) -> None:
        """Open or make the node; a restart gets the `secrets` of the run before."""
        home.mkdir(parents=True, exist_ok=True)
        self.secrets = secrets or MemorySecretStore(secrets_from_number(number))
        assert self.secrets.secrets is not None
        self.key = DeviceKey(self.secrets.secrets.device_seed)
        self.did = self.key.did
        self.nickname = f"node-{number}"
        self.events: list[Mapping[str, object]] = []
        self.news = trio.Event()
        self.threads = Threads()
        self.database = Database.open(home / "node.db", self.secrets.secrets.database_key, create=True)
        self.peers, self.offers = Peers(self.database), Offers(self.database)
        self.store = ModelStore(home / "store")
        self.log = Log.open(home / "log", self.key, LogGuard(self.secrets, self.secrets.secrets))
        self.seen_logs = SeenLogs(home / "evidence")
        self.links = LinkedPeers((peer.did, peer.scope) for peer in self.peers.list())
        self.transport = Transport(self.key, [f"/ip4/127.0.0.1/tcp/{port}"], self.links)
        clock = SystemClock()
        self.contacts = Contacts(self.transport, self.peers, self.threads, clock, SystemEntropy(), pace=QUICK)
        self.gossip = Gossip(
            self.transport,
            key=self.key,
            log=self.log,
            seen_logs=self.seen_logs,
            store=self.store,
            peers=self.peers,
            offers=self.offers,
            threads=self.threads,
            clock=clock,
            nickname=lambda: self.nickname,
            publish=self._publish,
        )
        self.fetch = Fetch(
            self.transport,
            gossip=self.gossip,
            store=self.store,
            peers=self.peers,
            offers=self.offers,
            threads=self.threads,
            clock=clock,
            wake=self.contacts.wake,
            patience_s=patience_s,
        )
        self.contacts.on_contact(self.gossip.contact)

    @property
    def port(self) -> int:
        """The TCP port on which it listens."""
        return int(self.transport.addresses[0].split("/")[4])

    @asynccontextmanager
    async def running(self) -> AsyncIterator["ModelNode"]:
        """Run the node during the block; leaving it cuts its connections as a kill does."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self.transport.run)
            await nursery.start(self.gossip.run)
            await nursery.start(self.contacts.run)
            try:
                yield self
            finally:
                nursery.cancel_scope.cancel()
        self.close()

    def close(self) -> None:
        """Close the node's files."""
        self.store.close()
        self.database.close()

    def publish(self, name: str, directory: Path) -> bytes:
        """Build, sign, log and name the model in `directory`; return its provenance bundle."""
        parsed = parse_model_name(name)
        built = build_model(self.store, BuildRequest(parse_modelfile("FROM ."), parsed, directory))
        return publish_model(
            blobs=self.store.blobs,
            refs=self.store.refs,
            log=self.log,
            key=self.key,
            name=parsed,
            manifest=built.manifest,
            build=built.record,
            now_s=1_700_000_000,
            entropy=SystemEntropy().random_bytes,
        )

    def knows(self, other: "ModelNode") -> LinkedPeer:
        """Link `other` on this side only, at its present addresses."""
        peer = LinkedPeer(other.did, other.nickname, Scope.MODELS, other.transport.addresses, 1)
        self.peers.add(peer)
        self.links.set(other.did, Scope.MODELS)
        return peer

    async def unlink(self, other: "ModelNode") -> None:
        """End the link on this side and cut the connection."""
        self.links.remove(other.did)
        self.peers.remove(other.did, 2)
        self.contacts.forget(other.did)
        await self.transport.disconnect(other.did)

    async def wait_for(self, kind: str, **facts: object) -> Mapping[str, object]:
        """Return the first event of this kind with these facts, once there is one."""
        while True:
            for event in self.events:
                if event["event"] == kind and all(event.get(key) == value for key, value in facts.items()):
                    return event
            await self.news.wait()

    async def pull(self, name: str, source: LinkedPeer | None = None) -> list[Event]:
        """Pull a model and return all its progress events."""
        async with self.fetch.pull(name, source) as events:
            return [event async for event in events]

    def _publish(self, event: Mapping[str, object]) -> None:
        self.events.append(event)
        self.news.set()
        self.news = trio.Event()


async def link(one: ModelNode, other: ModelNode) -> None:
    """Link two running nodes in both directions; `one` dials, so that no second connection crosses the first."""
    other.knows(one)
    one.knows(other)
    one.contacts.attend(other.did)
