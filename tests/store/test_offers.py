"""Offers in the real database: replaced, added, capped, and gone with the link or the publisher."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from identity.did import DeviceId
from identity.testing import key_from_number
from protocol.digest import digest_of
from protocol.model_name import parse_model_name
from protocol.scope import Scope
from store.database import Database
from store.offers import MAX_OFFERS_PER_PEER, Offer, Offers
from store.peers import LinkedPeer, Peers

ANN, BEN, CAT = (key_from_number(number).did for number in (1, 2, 3))


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database.open(tmp_path / "node.db", bytes(32), create=True)
    for did in (ANN, BEN):
        Peers(database).add(LinkedPeer(did, "peer", Scope.MODELS, (), 1))
    yield database
    database.close()


def offer(number: int, peer: DeviceId = ANN, publisher: DeviceId = ANN, name: str = "demo") -> Offer:
    digests = [digest_of(f"{kind}{number}".encode()) for kind in ("manifest", "bundle")]
    return Offer(peer, publisher, parse_model_name(name), digests[0], digests[1], 1000 + number, number)


def test_offers_are_listed_by_name_newest_first(database: Database) -> None:
    offers = Offers(database)
    offers.replace(ANN, [offer(1), offer(2), offer(3, name="other")])
    offers.add(offer(2, peer=BEN))
    assert [(found.name.name, found.log_size, found.peer) for found in offers.all()] == sorted(
        [("demo", 2, ANN), ("demo", 2, BEN), ("demo", 1, ANN), ("other", 3, ANN)], key=lambda x: (x[0], -x[1], x[2])
    )
    assert offers.of_name(parse_model_name("other")) == [offer(3, name="other")]
    assert {found.peer for found in offers.of_manifest(offer(2).manifest)} == {ANN, BEN}
    assert offers.of_peer(BEN) == [offer(2, peer=BEN)]


def test_replacing_leaves_exactly_the_new_offers(database: Database) -> None:
    offers = Offers(database)
    offers.replace(ANN, [offer(1), offer(2)])
    offers.replace(ANN, [offer(2)])
    assert offers.all() == [offer(2)]


def test_an_offer_again_brings_newer_facts(database: Database) -> None:
    offers = Offers(database)
    offers.add(offer(1))
    newer = replace(offer(1), bundle=digest_of(b"again"), log_size=9)
    offers.add(newer)
    assert offers.all() == [newer]


def test_a_peer_keeps_at_most_256_offers_the_newest(database: Database) -> None:
    offers = Offers(database)
    offers.replace(ANN, [offer(number) for number in range(MAX_OFFERS_PER_PEER + 5)])
    assert min(found.log_size for found in offers.all()) == 5
    offers.add(offer(1_000))
    assert len(offers.all()) == MAX_OFFERS_PER_PEER
    assert min(found.log_size for found in offers.all()) == 6


def test_offers_go_with_the_link_and_with_the_publisher(database: Database) -> None:
    offers = Offers(database)
    offers.add(offer(1))
    offers.add(offer(2, peer=BEN, publisher=CAT))
    offers.add(offer(3, peer=BEN, publisher=BEN))
    offers.remove_publisher(CAT)
    assert offers.all() == [offer(3, peer=BEN, publisher=BEN), offer(1)]
    Peers(database).remove(ANN, 5)
    assert offers.all() == [offer(3, peer=BEN, publisher=BEN)]


def test_a_peer_that_is_not_linked_offers_nothing(database: Database) -> None:
    offers = Offers(database)
    offers.add(offer(1, peer=CAT))
    offers.replace(CAT, [offer(2, peer=CAT)])
    assert offers.all() == []
