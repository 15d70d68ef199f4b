"""The linked peers in a real encrypted database."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from identity.did import peer_id_of
from identity.testing import key_from_number
from protocol.scope import Scope
from store.database import Database
from store.errors import PeerAmbiguous, PeerUnknown
from store.peers import LinkedPeer, Peers

ANN, BOB = key_from_number(1).did, key_from_number(2).did
AT = "/ip4/192.168.1.20/tcp/4001"


@pytest.fixture
def peers(tmp_path: Path) -> Iterator[Peers]:
    database = Database.open(tmp_path / "node.db", bytes(32), create=True)
    yield Peers(database)
    database.close()


def peer(nickname: str = "ann", **changes: object) -> LinkedPeer:
    values = {"did": ANN, "nickname": nickname, "scope": Scope.OWN, "addresses": (AT,), "linked_s": 10, **changes}
    return LinkedPeer(**values)  # type: ignore[arg-type]  # built from a mapping on purpose


def test_a_link_comes_back_as_it_was_made(peers: Peers) -> None:
    peers.add(peer())
    assert peers.get(ANN) == peer(addresses=(f"{AT}/p2p/{peer_id_of(ANN)}",))
    assert peers.get(BOB) is None


def test_linking_again_updates_and_forgets_the_removal(peers: Peers) -> None:
    peers.add(peer())
    peers.remove(ANN, 20)
    assert peers.list() == []
    assert peers.removed_s(ANN) == 20
    peers.add(peer("ann's mac", scope=Scope.MODELS, linked_s=30))
    found = peers.find("ann's mac")
    assert (found.scope, found.linked_s) == (Scope.MODELS, 30)
    assert peers.removed_s(ANN) is None
    assert len(peers.list()) == 1


def test_a_peer_is_found_by_nickname_did_and_beginning(peers: Peers) -> None:
    peers.add(peer("Kitchen Mac"))
    peers.add(peer("ann", did=BOB))
    for text in ("kitchen mac", ANN, ANN.removeprefix("did:key:")[:12], "kitch"):
        assert peers.find(text).did == ANN
    for text in ("nobody", "", "  "):
        with pytest.raises(PeerUnknown):
            peers.find(text)
    with pytest.raises(PeerAmbiguous) as caught:
        peers.find("did:key:z6Mk")
    assert set(caught.value.dids) == {ANN, BOB}


def test_an_exact_nickname_wins_over_a_longer_one(peers: Peers) -> None:
    peers.add(peer("mac"))
    peers.add(peer("mac mini", did=BOB))
    assert peers.find("mac").did == ANN


def test_a_did_is_its_devices_alone(peers: Peers) -> None:
    peers.add(peer("kitchen", did=BOB))
    for claimed in (BOB, BOB.removeprefix("did:key:"), BOB.upper()):
        peers.add(peer(claimed))
        assert peers.find(BOB).did == BOB
        peers.remove(BOB, 2)
        with pytest.raises(PeerUnknown):
            peers.find(BOB)
        peers.add(peer("kitchen", did=BOB))


def test_only_addresses_that_can_be_dialled_are_kept(peers: Peers) -> None:
    peers.add(peer())
    other = f"/ip4/10.0.0.1/tcp/1/p2p/{peer_id_of(BOB)}"
    claimed = ["/dns4/evil.example/tcp/80", "/ip4/0.0.0.0/tcp/4001", other, "/ip4/10.0.0.1/tcp/0", "/ip6/::1/tcp/9"]
    peers.set_addresses(ANN, [*claimed, *(f"/ip4/10.0.0.2/tcp/{port}" for port in range(1, 40))])
    found = peers.find("ann").addresses
    assert found[0] == f"/ip6/::1/tcp/9/p2p/{peer_id_of(ANN)}"
    assert len(found) == 16


def test_names_from_peers_are_made_safe(peers: Peers) -> None:
    peers.add(peer("a\x1b[31m\u202eb"))
    assert peers.list()[0].nickname == "a [31m b"
    peers.set_nickname(ANN, "\n")
    assert peers.list()[0].nickname == "unnamed"


def test_contact_and_refusal_are_noted(peers: Peers) -> None:
    peers.add(peer())
    peers.note_refused(ANN, 40)
    assert peers.find("ann").refused_s == 40
    peers.touch(ANN, 50)
    found = peers.find("ann")
    assert (found.last_contact_s, found.refused_s) == (50, None)


def test_what_is_noted_about_nobody_makes_no_peer(peers: Peers) -> None:
    peers.touch(ANN, 1)
    peers.set_addresses(ANN, [AT])
    peers.set_nickname(ANN, "x")
    assert peers.list() == []


def test_a_ticket_is_used_once_and_forgotten_late(peers: Peers) -> None:
    assert peers.use_ticket(b"t" * 32, 100, now_s=10)
    assert not peers.use_ticket(b"t" * 32, 100, now_s=11)
    assert peers.ticket_was_used(b"t" * 32)
    assert peers.use_ticket(b"u" * 32, 300, now_s=101)
    assert not peers.ticket_was_used(b"t" * 32)
