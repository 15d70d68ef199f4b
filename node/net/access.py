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

    def scope_of(self, peer: DeviceId) -> Scope | None:
        """Return the scope of the link with `peer`, None when there is none."""
        return self._scopes.get(peer)

    def set(self, peer: DeviceId, scope: Scope) -> None:
        """Link `peer`, or change the scope of its link."""
        self._scopes[peer] = scope

    def remove(self, peer: DeviceId) -> None:
        """Unlink `peer`; nothing happens when it is not linked."""
        self._scopes.pop(peer, None)

    def all(self) -> tuple[DeviceId, ...]:
        """Return every linked peer."""
        return tuple(self._scopes)


def refusal_code(access: Access, scope: Scope | None) -> RefusalCode | None:
    """Return why a peer with this link may not use a protocol with this access, None when it may."""
    if access is Access.ANYONE:
        return None
    if scope is None:
        return RefusalCode.NOT_LINKED
    if access is Access.OWN and scope is not Scope.OWN:
        return RefusalCode.NOT_OWN_DEVICE
    return None
