"""The composition root: builds every part of a node, opens its one long-lived nursery, and takes it down in order."""

import logging
import socket
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from typing import Any, Final

import trio
from fastapi import FastAPI

from identity.did import DeviceId
from identity.vault import derive_key
from node.account import Identity, open_identity
from node.api.app import build_api
from node.api.blobs import BlobRoutes
from node.api.copies import CopyRoutes
from node.api.create import CreateRoutes
from node.api.guard import loopback_hosts
from node.api.registry import RegistryApp
from node.api.registry_shelf import RegistryShelf
from node.api.responses_kept import KeptInDatabase
from node.api.transfers import TransferRoutes
from node.catalog import Catalog
from node.config import Config, make_private_directory
from node.control.app import build_control
from node.control.server import api_url, bind_api_socket, bind_control_socket, remove_control_socket, serve_http
from node.errors import ListenFailed, PortInUse
from node.events import Events
from node.failures import NAMED
from node.log_files import open_log_files
from node.model_sources import model_sources
from node.models.prefix_place import PrefixPlaces, forget_gone_models
from node.models.process import WorkerProcess
from node.models.scheduler import Limits
from node.models.service import Models
from node.models.spare import Spare
from node.models.supervisor import Patience
from node.net.access import LinkedPeers
from node.net.listening import address_of, open_listeners
from node.net.transport import Transport
from node.parts import Node
from node.peer.contact import Contacts, Pace
from node.peer.fetch import Fetch
from node.peer.gossip import Gossip
from node.peer.link import LinkService
from node.peer.registry import RegistryStreams
from node.peer.sync import Sync
from node.peer.sync_round import SyncReport
from node.ports import Entropy, SystemClock, SystemEntropy
from node.registries import Registries
from node.serving import Serving
from node.settings import Profile, Settings
from node.store_place import settle_store
from node.threads import Threads
from node.versions import Versions
from protocol.address import parse_address
from protocol.provenance import decode_and_verify_provenance
from protocol.scope import Scope
from store.chats import Chats
from store.database import Database
from store.evidence import SeenLogs
from store.kept_responses import KeptResponses
from store.linking import Linking
from store.lock import lock_home
from store.log import Log
from store.logins import Logins
from store.models import ModelStore
from store.offers import Offers
from store.peers import LinkedPeer, Peers
from store.registry_places import RegistryPlaces

# How long a new model's publisher waits for its linked devices to hear of it.
TELL_S: Final = 5.0
_EVERYWHERE: Final = ("/ip4/0.0.0.0", "/ip6/::")
_log = logging.getLogger("tilenode.app")


async def run_node(
    config: Config,
    ready: Callable[[Mapping[str, Any]], None],
    stopping: trio.Event,
    worker: WorkerProcess | None = None,
) -> None:
    """Run a node until `stopping` is set; call `ready` with its facts once it really accepts work.

    `worker` is a worker process that was started ahead, for the first model.

    Raises:
        HomeLocked: another node holds the home.
        PortInUse, ListenFailed: it cannot listen where it was told to.
        SecretsError: the keys cannot be opened.
        DatabaseError, LogDamaged, StoreError: what is kept cannot be opened; it is left as it is.
    """
    with ExitStack() as resources:
        resources.enter_context(lock_home(config.home.lock))
        # Behind the lock: two processes that rotate one log file would lose lines.
        make_private_directory(config.home.logs)
        open_log_files(config.home.logs)
        api_socket = bind_api_socket(config.api_host, config.api_port, or_any_port=not config.api_is_chosen)
        resources.callback(api_socket.close)
        control_socket = bind_control_socket(config.home)
        resources.callback(remove_control_socket, config.home)
        resources.callback(control_socket.close)
        node = await _build(config, api_socket, stopping, resources, worker)
        async with trio.open_nursery() as services:
            await _start_services(node, services)
            await _remember_port(node)
            async with trio.open_nursery() as servers:
                await servers.start(serve_http, _api(node), api_socket, config.stop_grace_s, stopping)
                await servers.start(serve_http, build_control(node), control_socket, config.stop_grace_s, stopping)
                _log.info("ready", extra={"did": node.key.did, "api": node.api})
                ready(node.identity_facts())
                await stopping.wait()
                node.stop()
            services.cancel_scope.cancel()
        _log.info("stopped")


async def _build(
    config: Config, api: socket.socket, stopping: trio.Event, resources: ExitStack, worker: WorkerProcess | None
) -> Node:
    """Open everything that is kept and connect the parts; nothing runs yet."""
    clock, entropy, threads = SystemClock(), SystemEntropy(), Threads()
    events = Events(clock)
    kept = await threads.store(_open_home, config, entropy, resources)
    key, peers = kept.identity.key, kept.peers
    links = LinkedPeers((peer.did, peer.scope) for peer in peers.list())
    chats = Chats(kept.database, key, lambda did: links.scope_of(did) is Scope.OWN, clock.now_ms)
    transport = Transport(key, await _listen_addresses(config, kept.identity.settings), links)
    contacts = Contacts(transport, peers, threads, clock, entropy, pace=Pace(interval_s=config.contact_interval_s))
    profile = Profile(config.home.settings, kept.identity.settings)
    linking = Linking(peers, chats.feeds)
    link = LinkService(transport, peers, linking, threads, key, profile.nickname, clock, entropy, contacts)
    offers = Offers(kept.database)
    gossip = Gossip(
        transport,
        key=key,
        log=kept.log,
        seen_logs=kept.seen_logs,
        store=kept.store,
        peers=peers,
        offers=offers,
        threads=threads,
        clock=clock,
        nickname=profile.nickname,
        publish=events.publish,
    )
    fetch = Fetch(
        transport,
        gossip=gossip,
        store=kept.store,
        peers=peers,
        offers=offers,
        threads=threads,
        clock=clock,
        wake=contacts.wake,
    )
    registry = RegistryApp(kept.store, RegistryShelf(kept.store, gossip.origins.stopped), threads)
    RegistryStreams(transport, registry)
    tell = partial(_tell_of_model, events, gossip, transport)
    catalog = Catalog(kept.store, kept.log, key, threads, clock, entropy, tell, model_sources(config.sources))
    versions = Versions(catalog, kept.store, kept.log, key, threads, clock, entropy, tell, events.publish)
    logins, places = Logins(kept.database), RegistryPlaces(kept.database)
    registries = Registries(kept.store, logins, threads, clock, gossip.origins.stopped, catalog.stored, places)
    sync = Sync(transport, chats, peers, threads, moved=lambda report: _tell_of_sync(events, report))
    contacts.on_contact(gossip.contact)
    contacts.on_contact(sync.contact)
    prefixes = PrefixPlaces(config.home.prefixes, kept.identity.secrets.subkey, config.serving.prefix_cache_bytes)
    node = Node(
        config=config,
        profile=profile,
        key=key,
        clock=clock,
        entropy=entropy,
        threads=threads,
        events=events,
        store=kept.store,
        log=kept.log,
        seen_logs=kept.seen_logs,
        peers=peers,
        chats=chats,
        transport=transport,
        contacts=contacts,
        link=link,
        gossip=gossip,
        fetch=fetch,
        sync=sync,
        catalog=catalog,
        versions=versions,
        models=Models(
            catalog, clock, entropy, *_limits(config.serving), Spare(worker), prefixes, config.serving.kv_bits
        ),
        prefixes=prefixes,
        registry=registry,
        registries=registries,
        responses=KeptInDatabase(KeptResponses(kept.database), threads, clock),
        api=api_url(api),
        api_port=api.getsockname()[1],
        started_at_s=clock.monotonic_s(),
        stopping=stopping,
    )
    link.on_change(partial(_note_link, node))
    return node


async def _note_link(node: Node, peer: LinkedPeer, linked: bool) -> None:
    """Let everything that depends on a link know that it came or went."""
    node.events.publish({"event": "linked" if linked else "unlinked", "peer": peer.did, "nickname": peer.nickname})
    node.sync.changed()  # the other own devices hear who came or went


async def _tell_of_model(events: Events, gossip: Gossip, transport: Transport, bundle: bytes) -> None:
    """Tell this node's listeners and the linked devices of a model that was just signed and logged.

    Told twice, since gossip may be lost, most likely right after a link: the exchange of heads settles it at once.
    """
    provenance = decode_and_verify_provenance(bundle)
    events.publish({"event": "signed", "name": provenance.name, "manifest": provenance.manifest_digest})
    await gossip.announce(bundle)
    with trio.move_on_after(TELL_S):
        async with trio.open_nursery() as nursery:
            for peer in transport.connected():
                nursery.start_soon(_exchange_heads, gossip, peer)


async def _exchange_heads(gossip: Gossip, peer: DeviceId) -> None:
    try:
        await gossip.exchange(peer)
    except NAMED as error:  # the next contact tells it
        _log.info("peer_not_told", extra={"peer": peer, "error": type(error).__name__})


def _tell_of_sync(events: Events, report: SyncReport) -> None:
    events.publish(
        {
            "event": "synced",
            "peer": report.peer,
            "received": report.received,
            "sent": report.sent,
            "chats": sorted(report.chats),
        }
    )


async def _start_services(node: Node, nursery: trio.Nursery) -> None:
    """Start what runs, from the network upwards; each is ready when its line is done."""
    await node.gossip.origins.load()  # before the network: who is stopped is served nothing, not even for a moment
    await nursery.start(node.transport.run)
    nursery.start_soon(forget_gone_models, node.prefixes, node.events, node.threads, node.store.blobs.has)
    await nursery.start(node.models.run)
    await nursery.start(node.sync.run)
    await nursery.start(node.gossip.run)
    await nursery.start(node.contacts.run)


async def _remember_port(node: Node) -> None:
    """Keep the port for the next start, so that linked devices find this one where they found it last."""
    port = parse_address(node.transport.addresses[0]).port
    if not node.config.listen and port != node.settings.port:
        await node.threads.store(node.profile.change, replace(node.settings, port=port))


def _limits(serving: Serving) -> tuple[Limits, Patience]:
    limits = Limits(
        waiting=serving.max_queue,
        loaded=serving.max_loaded,
        keep_alive_s=serving.keep_alive_s,
        parallel=serving.num_parallel,
        memory_bytes=serving.max_memory_bytes,
    )
    return limits, Patience(load_s=serving.load_timeout_s)


def _api(node: Node) -> FastAPI:
    """Return the HTTP API, which answers under the loopback names of its own port only."""
    hosts = loopback_hosts(node.api_port)
    return build_api(
        node.models,
        node.clock,
        node.entropy,
        version=version("tilenode"),
        hosts=lambda: hosts,
        registry=node.registry,
        transfers=TransferRoutes(node.registries, node.fetch.pull),
        copies=CopyRoutes(node.versions),
        kept=node.responses,
        blobs=BlobRoutes(node.store.blobs, node.threads),
        creation=CreateRoutes(node.catalog, node.store, node.threads),
        registry_is_open=lambda: node.settings.serve_registry,
    )


@dataclass(frozen=True)
class _Kept:
    """What was opened in the home."""

    identity: Identity
    store: ModelStore
    log: Log
    seen_logs: SeenLogs
    database: Database
    peers: Peers


def _open_home(config: Config, entropy: Entropy, resources: ExitStack) -> _Kept:
    """Open everything in the home; blocking. The caller holds the lock."""
    home = config.home
    settle_store(home)  # before the settings are read: it may change where they say that the store lies
    identity = open_identity(
        home,
        nickname=None,
        passphrase=config.passphrase,
        may_use_keychain=config.may_use_keychain,
        entropy=entropy,
        derive=config.derive or derive_key,
    )
    # The database is made before the log: one that is missing beside a log was lost, and a new one in its place would
    # begin this device's chat feed a second time.
    database = Database.open(home.database, identity.secrets.database_key, create=not home.log.exists())
    resources.callback(database.close)
    log = Log.open(home.log, identity.key, identity.guard)
    store = ModelStore(home.store)
    resources.callback(store.close)
    store.tidy()
    return _Kept(identity, store, log, SeenLogs(home.evidence), database, Peers(database))


async def _listen_addresses(config: Config, settings: Settings) -> tuple[str, ...]:
    """Return where to listen: as told, else everywhere, at last time's port if that is free.

    The port is kept so that linked devices find this one after a restart where they found it before.
    """
    if config.listen:
        return config.listen
    for port in filter(None, (settings.port, await _free_port())):
        for wanted in (_EVERYWHERE, _EVERYWHERE[:1]):  # some machines have no IPv6
            listen = tuple(f"{address}/tcp/{port}" for address in wanted)
            if await _is_free(listen):
                return listen
    return (f"{_EVERYWHERE[0]}/tcp/0",)


async def _is_free(listen: tuple[str, ...]) -> bool:
    try:
        listeners = await open_listeners(listen)
    except (PortInUse, ListenFailed):
        return False
    for listener in listeners:
        listener.socket.close()
    return True


async def _free_port() -> int:
    (listener,) = await open_listeners((f"{_EVERYWHERE[0]}/tcp/0",))
    with listener.socket:
        return address_of(listener).port
