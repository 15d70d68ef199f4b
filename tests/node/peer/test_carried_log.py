"""Logs that bundles carry: an older state is proven without a network, and a fork is found and stops its device."""

from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest
import trio

from identity.secrets import LogGuard
from identity.testing import MemorySecretStore, key_from_number, secrets_from_number
from node.errors import OriginStopped, PeerUnreachable
from node.peer.testing import ModelNode
from protocol.bundle import CarriedLog
from store.carried_logs import carried_proof
from store.log import Log

KEY = key_from_number(7)


@pytest.fixture(autouse=True)
async def deadline() -> AsyncIterator[None]:
    with trio.fail_after(30):
        yield


class Publisher:
    """A device that nothing reaches, and what it signed."""

    def __init__(self, directory: Path, *entries: bytes) -> None:
        secrets = secrets_from_number(7)
        self.log = Log.open(directory, KEY, LogGuard(MemorySecretStore(secrets), secrets))
        self.notes = [self.log.checkpoint()]
        for entry in entries:
            self.log.append([entry])
            self.notes.append(self.log.checkpoint())
        note, leaves = self.log.leaves()
        self.carried = partial(carried_proof, [CarriedLog(KEY.did, note, tuple(leaves))])


async def test_states_of_one_log_are_proven_without_its_device(tmp_path: Path) -> None:
    publisher = Publisher(tmp_path / "log", b"a", b"b", b"c", b"d", b"e")
    async with ModelNode(tmp_path / "ben", 2).running() as ben:
        follow = partial(ben.gossip.origins.follow, KEY.did)
        await follow(publisher.notes[3])
        with pytest.raises(PeerUnreachable):
            await follow(publisher.notes[5])
        await follow(publisher.notes[5], publisher.carried)
        await follow(publisher.notes[2], publisher.carried)  # an older bundle, still of the same log
        seen = ben.seen_logs.latest(KEY.did)
        assert seen is not None
        assert seen.size == 5


@pytest.mark.parametrize("seen_size", [1, 2, 3, 4])
async def test_a_fork_is_found_and_its_evidence_kept(tmp_path: Path, seen_size: int) -> None:
    publisher = Publisher(tmp_path / "log", b"a", b"b", b"c", b"d")
    other = Publisher(tmp_path / "other", b"x", b"y", b"z", b"w")
    async with ModelNode(tmp_path / "ben", 2).running() as ben:
        await ben.gossip.origins.follow(KEY.did, publisher.notes[seen_size])
        with pytest.raises(OriginStopped):
            await ben.gossip.origins.follow(KEY.did, other.notes[4], other.carried)
        assert ben.seen_logs.frozen(KEY.did) is not None
        with pytest.raises(OriginStopped):
            await ben.gossip.origins.require_honest(KEY.did)
