"""How the node and its links are, in facts: every line that is not green has a cause, an age and a next command."""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from identity.did import DeviceId, short_did
from node.cli.render import as_argument
from node.parts import Node
from store.peers import LinkedPeer

# A linked device that was not reached for this long is worth a line; a laptop's night is not.
QUIET_AFTER_S: Final = 24 * 3600


@dataclass(frozen=True)
class Complaint:
    """One thing that is not as it should be. `age_s` is None where its beginning is not known."""

    what: str
    cause: str
    age_s: int | None
    command: str

    def facts(self) -> dict[str, object]:
        """Return the fields as they are told to programs."""
        return {"what": self.what, "cause": self.cause, "age_s": self.age_s, "command": self.command}


def peer_facts(node: Node, peer: LinkedPeer) -> dict[str, object]:
    """Return what is known about a linked device: scope, path, last contact."""
    connected = peer.did in node.transport.connected()
    now_s = node.clock.now_s()
    return {
        "did": peer.did,
        "nickname": peer.nickname,
        "scope": str(peer.scope),
        "connected": connected,
        "path": node.transport.path_of(peer.did) if connected else None,
        "addresses": list(peer.addresses),
        "linked_age_s": max(0, now_s - peer.linked_s),
        "last_contact_age_s": None if peer.last_contact_s is None else max(0, now_s - peer.last_contact_s),
        "refused_age_s": None if peer.refused_s is None else max(0, now_s - peer.refused_s),
    }


def device_name(node: Node, did: DeviceId, names: Mapping[DeviceId, str]) -> str:
    """Return what to call a device on the screen: this one's nickname, a linked one's, else the short DID."""
    return node.settings.nickname if did == node.key.did else names.get(did, short_did(did))


def device_names(own: DeviceId, nickname: str, linked: Iterable[LinkedPeer]) -> dict[DeviceId, str]:
    """Return what to call this device and the linked ones: by nickname, and by DID too where several have the same.

    A device chooses its nickname itself, at any time: it must not pass for another one, least of all as a publisher.
    """
    names = {peer.did: peer.nickname for peer in linked} | {own: nickname}
    bearers = Counter(map(_folded, names.values()))
    return {did: f"{name} ({short_did(did)})" if bearers[_folded(name)] > 1 else name for did, name in names.items()}


def _folded(name: str) -> str:
    return unicodedata.normalize("NFKC", name).casefold()


def complaints(node: Node, peers: list[LinkedPeer]) -> list[Complaint]:
    """Return everything that is not green, the gravest first."""
    return [*_log_complaints(node), *_fork_complaints(node, peers), *_peer_complaints(node, peers)]


def _log_complaints(node: Node) -> list[Complaint]:
    if node.log.rolled_back is None:
        return []
    return [
        Complaint(
            "this device's log", f"{node.log.rolled_back}; nothing is signed any more", None, "tilenode log verify"
        )
    ]


def _fork_complaints(node: Node, peers: list[LinkedPeer]) -> list[Complaint]:
    return [
        Complaint(
            peer.nickname,
            "showed two different logs; the evidence is kept and nothing of it is accepted",
            None,
            f"tilenode link disable {as_argument(peer.nickname, peer.did)}",
        )
        for peer in peers
        if node.seen_logs.frozen(peer.did) is not None
    ]


def _peer_complaints(node: Node, peers: list[LinkedPeer]) -> list[Complaint]:
    now_s = node.clock.now_s()
    connected = node.transport.connected()
    found = []
    for peer in peers:
        if peer.refused_s is not None:
            cause, since_s = "it says that it does not link this device any more", peer.refused_s
            command = f"tilenode link disable {as_argument(peer.nickname, peer.did)}"
        elif peer.did not in connected and now_s - (peer.last_contact_s or peer.linked_s) > QUIET_AFTER_S:
            cause, since_s = "not reached at any known address", peer.last_contact_s or peer.linked_s
            command = f"tilenode sync {as_argument(peer.nickname, peer.did)}"
        else:
            continue
        found.append(Complaint(peer.nickname, cause, max(0, now_s - since_s), command))
    return found
