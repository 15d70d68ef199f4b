"""Who may do what: decided from the connection's authenticated key and what the store says about it, nothing else."""

from collections.abc import Iterable
from enum import Enum

from identity.did import DeviceId
from protocol.refusal import RefusalCode
from protocol.scope import Scope


class Access(Enum):
    """Who may open a protocol's streams."""

    ANYONE = "anyone"
    LINKED = "linked"
    OWN = "own"


class LinkedPeers:
    """The links of this node in memory; changed by linking and unlinking, in force with the next frame."""

    def __init__(self, links: Iterable[tuple[DeviceId, Scope]] = ()) -> None:
        self._scopes = dict(links)
        self._stopped: set[DeviceId] = set()

    def scope_of(self, peer: DeviceId) -> Scope | None:
        """Return the scope of the link with `peer`, None when there is none."""
        return self._scopes.get(peer)

    def set(self, peer: DeviceId, scope: Scope) -> None:
        """Link `peer`, or change the scope of its link."""
        self._scopes[peer] = scope

    def remove(self, peer: DeviceId) -> None:
        """Unlink `peer`; nothing happens when it is not linked."""
        self._scopes.pop(peer, None)

    def stop(self, peer: DeviceId) -> None:
        """Refuse `peer` everything from now on, linked or not: its key signed two logs, which nothing undoes."""
        self._stopped.add(peer)

    def refusal(self, peer: DeviceId, access: Access) -> RefusalCode | None:
        """Return why `peer` may not use a protocol with this access, None when it may."""
        if access is Access.ANYONE:
            return None
        scope = self.scope_of(peer)
        if scope is None:
            return RefusalCode.NOT_LINKED
        if peer in self._stopped:
            return RefusalCode.STOPPED
        return RefusalCode.NOT_OWN_DEVICE if access is Access.OWN and scope is not Scope.OWN else None

    def all(self) -> tuple[DeviceId, ...]:
        """Return every linked peer."""
        return tuple(self._scopes)
