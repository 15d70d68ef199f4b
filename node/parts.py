"""The parts of a running node, as the control API and the health checks see them."""

import os
from dataclasses import dataclass

import trio

from identity.keys import DeviceKey
from node.api.registry import RegistryApp
from node.api.responses_kept import KeptInDatabase
from node.catalog import Catalog
from node.config import Config, Home
from node.events import Events
from node.models.prefix_place import PrefixPlaces
from node.models.service import Models
from node.net.transport import Transport
from node.peer.contact import Contacts
from node.peer.fetch import Fetch
from node.peer.gossip import Gossip
from node.peer.link import LinkService
from node.peer.sync import Sync
from node.ports import Clock, Entropy
from node.registries import Registries
from node.settings import Profile, Settings
from node.threads import Threads
from node.versions import Versions
from store.chats import Chats
from store.evidence import SeenLogs
from store.log import Log
from store.models import ModelStore
from store.peers import Peers


@dataclass
class Node:
    """Every part of a running node, for the control API to speak to."""

    config: Config
    profile: Profile
    key: DeviceKey
    clock: Clock
    entropy: Entropy
    threads: Threads
    events: Events
    store: ModelStore
    log: Log
    seen_logs: SeenLogs
    peers: Peers
    chats: Chats
    transport: Transport
    contacts: Contacts
    link: LinkService
    gossip: Gossip
    fetch: Fetch
    sync: Sync
    catalog: Catalog
    versions: Versions
    models: Models
    prefixes: PrefixPlaces
    registry: RegistryApp
    registries: Registries
    responses: KeptInDatabase
    api: str
    api_port: int
    started_at_s: float
    stopping: trio.Event

    @property
    def home(self) -> Home:
        """Where everything of this node lies."""
        return self.config.home

    @property
    def settings(self) -> Settings:
        """What this node calls itself, and other things that are no secret."""
        return self.profile.settings

    def stop(self) -> None:
        """Begin the graceful stop: event streams end, no new request is taken, what runs may end in its time."""
        self.events.publish({"event": "stopping"})
        self.events.close()
        self.stopping.set()

    def identity_facts(self) -> dict[str, object]:
        """Return what this node is and where it answers: what `serve --json` and `status` begin with."""
        return {
            "did": self.key.did,
            "nickname": self.settings.nickname,
            "api": self.api,
            "addresses": list(self.transport.addresses),
            "home": str(self.home.root),
            "pid": os.getpid(),
            "rung": self.settings.rung,
            "place": self.settings.place,
        }
