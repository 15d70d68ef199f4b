"""Models from linked peers: what they offer, pulling one, and serving what is here (specs/0012)."""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Final

import trio

from identity.did import DeviceId
from node.failures import NAMED
from node.net.transport import Transport
from node.peer.gossip import Gossip
from node.peer.layer_fetch import PATIENCE_S
from node.peer.pull import Event, Pull, PullParts
from node.peer.repair import Repair
from node.peer.repair_sources import Remotes
from node.peer.serving import ArrivingLayers, Serving
from node.ports import Clock
from node.threads import Threads
from protocol.model_name import parse_model_name
from store.models import ModelStore
from store.offers import Offer, Offers
from store.peers import LinkedPeer, Peers

# Progress waits here for a reader that is a little late; the pull itself never waits for a progress bar.
EVENT_BUFFER: Final = 64


class Fetch:
    """Serves this node's models to linked peers and pulls theirs. Construct it before the transport runs."""

    def __init__(
        self,
        transport: Transport,
        *,
        gossip: Gossip,
        store: ModelStore,
        peers: Peers,
        offers: Offers,
        threads: Threads,
        clock: Clock,
        wake: Callable[[DeviceId], None],
        patience_s: float = PATIENCE_S,
    ) -> None:
        """`wake(peer)` asks for a new connection with a peer at once; `patience_s` is the wait for a lost source."""
        self._peers = peers
        self._offers = offers
        self._threads = threads
        arriving = ArrivingLayers()
        self._serving = Serving(transport, store, gossip.shelf, arriving, threads)
        self._parts = PullParts(
            transport=transport,
            store=store,
            offers=offers,
            intake=gossip.intake,
            arriving=arriving,
            threads=threads,
            clock=clock,
            exchange=gossip.exchange,
            refusal=gossip.refusal,
            wake=wake,
            patience_s=patience_s,
        )

    def offers(self) -> list[Offer]:
        """Return what linked peers offer, verified, by name and newest first; blocks on the database."""
        return self._offers.all()

    @asynccontextmanager
    async def pull(self, name: str, from_peer: LinkedPeer | None = None) -> AsyncIterator[AsyncIterator[Event]]:
        """Give the progress of pulling `name` from one peer, or from whoever offers it; leaving the block stops it.

        The last event has status `success`; a failure is raised by the iterator instead. What arrived stays and is
        taken up by the next pull. Raises, besides what `Pull.run` does:
            ModelNameInvalid: this is no name.
        """
        wanted, nicknames = parse_model_name(name), await self._nicknames()
        async with _following(lambda send: Pull(self._parts, wanted, from_peer, nicknames, send).run()) as events:
            yield events

    @asynccontextmanager
    async def repair(self, name: str, remotes: Remotes = lambda _: ()) -> AsyncIterator[AsyncIterator[Event]]:
        """Give the progress of verifying `name` and putting right what is damaged; leaving the block stops it.

        `remotes` gives the registries to be asked where no device has what is missing. The last event has status
        `success`; a failure is raised by the iterator instead. Raises, besides what `Repair.run` does:
            ModelNameInvalid: this is no name.
        """
        wanted, nicknames = parse_model_name(name), await self._nicknames()
        async with _following(lambda send: Repair(self._parts, wanted, nicknames, send, remotes).run()) as events:
            yield events

    async def _nicknames(self) -> dict[DeviceId, str]:
        return {peer.did: peer.nickname for peer in await self._threads.database(self._peers.list)}


@asynccontextmanager
async def _following(
    run: Callable[[trio.MemorySendChannel[Event]], Awaitable[None]],
) -> AsyncIterator[AsyncIterator[Event]]:
    """Give the events of work that sends them, until it ends; leaving the block stops the work."""
    send, receive = trio.open_memory_channel[Event](EVENT_BUFFER)
    failures: list[Exception] = []

    async def work() -> None:
        async with send:
            try:
                await run(send)
            except NAMED as error:
                failures.append(error)

    try:
        async with trio.open_nursery() as nursery, aclosing(_events(receive, failures)) as events:
            nursery.start_soon(work)
            yield events
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        raise _only(group) from None


async def _events(receive: trio.MemoryReceiveChannel[Event], failures: list[Exception]) -> AsyncGenerator[Event, None]:
    async with receive:
        async for event in receive:
            yield event
    if failures:
        raise failures[0]


def _only(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the one exception of a group: what the caller's own block raised, as it raised it."""
    if len(group.exceptions) > 1:
        return group
    error = group.exceptions[0]
    return _only(error) if isinstance(error, BaseExceptionGroup) else error
