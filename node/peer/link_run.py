"""One attempt to link over one stream: drives the link protocol's machine and carries out what it asks for."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, ParamSpec, Protocol

import trio

from node.errors import NodeError, RemoteRefused, StreamClosed
from node.net.streams import PeerStream
from protocol.errors import FrameTooLarge, LinkMessageInvalid, LinkRefused, ProtocolError
from protocol.link import (
    MAX_MESSAGE_BYTES,
    Agreed,
    Ask,
    Done,
    Event,
    Failed,
    FindTicket,
    LinkSession,
    Send,
    UseTicket,
)
from protocol.scope import Scope
from protocol.ticket import Ticket
from store.errors import StoreError

# Who opens a stream says at once which ticket it is about.
HELLO_S: Final = 5.0
# From there to the question, both devices answer by themselves.
PROOF_S: Final = 30.0
# From the question to the end, two people answer.
DECISION_S: Final = 600.0
# After both said yes, the other device still has to say that it stored the link.
STORED_S: Final = 10.0

P = ParamSpec("P")
Failure = ProtocolError | NodeError | StoreError


class Backing(Protocol):
    """What a run needs from the node."""

    async def find_ticket(self, run: "LinkRun", digest: bytes) -> tuple[Ticket, Scope]:
        """Return the ticket and the scope it was shown with, or raise the TicketError that says why not."""

    async def use_ticket(self, ticket: Ticket) -> None:
        """Use the ticket up, durably, or raise TicketUsed."""

    def ask(self, run: "LinkRun", question: Ask) -> bool:
        """Show the question to this device's person, who answers with `run.decide`; True is a yes given before."""

    async def store(self, agreed: Agreed) -> None:
        """Keep the link."""


class LinkRun:
    """Drives one session. `drive` returns when it is over; `decide` brings in the person's answer meanwhile."""

    def __init__(self, session: LinkSession, stream: PeerStream, backing: Backing) -> None:
        self._session = session
        self._stream = stream
        self._backing = backing
        self._lock = trio.Lock()
        self._scope = trio.CancelScope()
        self._error: Failure | None = None
        self.agreed: Agreed | None = None

    @property
    def waits(self) -> bool:
        """Whether the person's answer is awaited."""
        return self._session.waits

    async def drive(self, first: Sequence[Event] = ()) -> Failure | None:
        """Run the session to its end; return None when the link was stored here, else why it was not.

        A connection that breaks after the link was stored does not undo it.
        """
        with self._scope:
            self._allow(PROOF_S if first else HELLO_S)
            try:
                await self._do(list, first)
                await self._listen()
            except RemoteRefused as error:
                await self._do(self._session.refused, error.code, error.why)
            except FrameTooLarge as error:
                await self._do(self._session.refuse, LinkMessageInvalid(str(error)))
            except StoreError as error:
                await self._do(self._session.refuse, LinkRefused("failed", ""))
                self._error = error
            except StreamClosed as error:
                self._error = self._error or error
        if self.agreed is not None:
            return None
        return self._error or LinkRefused("no-answer", "it took too long")

    async def decide(self, *, yes: bool) -> None:
        """Take this device's person's answer; a second one changes nothing."""
        await self._do(self._session.accept if yes else self._session.reject)

    async def withdraw(self, error: ProtocolError) -> None:
        """End the session from this side, unless the link is stored already."""
        if self.agreed is None:
            await self._do(self._session.refuse, error)

    async def _listen(self) -> None:
        while True:
            await self._do(self._session.receive, await self._stream.receive(MAX_MESSAGE_BYTES))

    async def _do(self, step: Callable[P, list[Event]], *args: P.args, **kwargs: P.kwargs) -> None:
        """Take a step of the machine and carry out everything that follows, one step at a time."""
        async with self._lock:
            pending = step(*args, **kwargs)
            while pending:
                pending = [*pending[1:], *await self._carry_out(pending[0])]

    async def _carry_out(self, event: Event) -> list[Event]:
        match event:
            case Send(payload):
                await self._stream.send(payload)
            case FindTicket(digest):
                return await self._answered(self._find(digest))
            case UseTicket():
                return await self._answered(self._use())
            case Ask():
                self._allow(DECISION_S)
                if self._backing.ask(self, event):
                    return self._session.accept()
            case Agreed():
                await self._store(event)
                return self._session.stored()
            case Done():
                self._scope.cancel()
            case Failed(error, reply):
                await self._end(error, reply)
        return []

    async def _answered(self, answer: Awaitable[list[Event]]) -> list[Event]:
        try:
            return await answer
        except ProtocolError as error:
            return self._session.refuse(error)

    def _allow(self, seconds: float) -> None:
        """Let the session go on for so long from now."""
        self._scope.deadline = trio.current_time() + seconds

    async def _find(self, digest: bytes) -> list[Event]:
        ticket, scope = await self._backing.find_ticket(self, digest)
        self._allow(PROOF_S)
        return self._session.ticket_found(ticket, scope)

    async def _use(self) -> list[Event]:
        ticket = self._session.ticket
        assert ticket is not None, "a proof was about a ticket"
        await self._backing.use_ticket(ticket)
        return self._session.ticket_used()

    async def _store(self, agreed: Agreed) -> None:
        with trio.CancelScope(shield=True):
            await self._backing.store(agreed)
        self.agreed = agreed
        self._allow(STORED_S)

    async def _end(self, error: ProtocolError, reply: bytes | None) -> None:
        self._error = error
        if reply is not None:
            try:
                await self._stream.send(reply)
                await self._stream.close()
            except NodeError:
                self._scope.cancel()
                return
            await self._stream.drain()
        self._scope.cancel()
