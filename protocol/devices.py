"""Whose entries are accepted: this device's own, those of directly linked own devices, and those that these vouch for.

A device vouches by a `device` entry in its feed, so that a third device can relay; see specs/0013, "Trust".
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from identity.did import DeviceId

UNLIMITED: Final = 2**63 - 1
# One author's word counts for so many devices; what it says about further ones is kept in its feed and has no effect.
MAX_DEVICES: Final = 256


@dataclass(frozen=True, slots=True)
class Statement:
    """The newest thing that `introducer` says about `did`; `last` is as in `DeviceBody`."""

    introducer: DeviceId
    did: DeviceId
    added: bool
    last: int


def author_limits(
    me: DeviceId, linked: Callable[[DeviceId], bool], statements: Iterable[Statement], authors: Iterable[DeviceId]
) -> Mapping[DeviceId, int]:
    """Return per author the highest sequence that is accepted; of an author that is absent, nothing is.

    `linked` is asked for every device in `statements` and for `authors`, those whose entries are at hand.

    What this device took back itself stays so, whoever links or vouches, until its own newer word, which only a link
    made on this very device writes. What another device took back ends that device's word; entries up to its `last`
    stay acceptable.
    """
    by_introducer: dict[DeviceId, list[Statement]] = {}
    for statement in statements:
        by_introducer.setdefault(statement.introducer, []).append(statement)
    removed = {own.did: own.last for own in by_introducer.get(me, []) if not own.added and own.did != me}
    known = {statement.did for said in by_introducer.values() for statement in said} | set(by_introducer) | set(authors)
    trusted = _reach(me, {did for did in known if linked(did)}, removed, by_introducer)
    limits = _taken_back(trusted, by_introducer)
    limits.update(dict.fromkeys(trusted, UNLIMITED))
    limits.update(removed)
    return limits


def _reach(
    me: DeviceId,
    linked: set[DeviceId],
    removed: Mapping[DeviceId, int],
    by_introducer: Mapping[DeviceId, list[Statement]],
) -> set[DeviceId]:
    """Return every device that is trusted now, from this one and its links along the vouching."""
    trusted: set[DeviceId] = set()
    waiting = [me, *linked]
    while waiting:
        did = waiting.pop()
        if did in trusted or did in removed:
            continue
        trusted.add(did)
        waiting += [statement.did for statement in by_introducer.get(did, []) if statement.added]
    return trusted


def _taken_back(trusted: set[DeviceId], by_introducer: Mapping[DeviceId, list[Statement]]) -> dict[DeviceId, int]:
    limits: dict[DeviceId, int] = {}
    for introducer in trusted:
        for statement in by_introducer.get(introducer, []):
            if not statement.added:
                limits[statement.did] = max(limits.get(statement.did, 0), statement.last)
    return limits
