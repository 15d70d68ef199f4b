"""Where models lie in registries, in the encrypted database."""

from pathlib import Path

from protocol.digest import digest_of
from protocol.registry import parse_reference
from store.database import Database
from store.registry_places import MAX_PLACES, RegistryPlaces

MODEL = digest_of(b"manifest")


def test_the_newest_place_comes_first_and_each_once(tmp_path: Path) -> None:
    places = RegistryPlaces(Database.open(tmp_path / "node.db", bytes(32), create=True))
    here, there = parse_reference("127.0.0.1:5005/ann/demo:q4"), parse_reference("registry.example/ann/demo:q4@1.0")
    places.note(MODEL, here, 1)
    places.note(MODEL, there, 2)
    assert places.of(MODEL) == [there, here]
    places.note(MODEL, here, 3)
    assert places.of(MODEL) == [here, there]
    assert places.of(digest_of(b"another")) == []


def test_a_repair_has_an_end(tmp_path: Path) -> None:
    places = RegistryPlaces(Database.open(tmp_path / "node.db", bytes(32), create=True))
    for number in range(MAX_PLACES + 3):
        places.note(MODEL, parse_reference(f"registry.example/ann/demo:v{number}"), number)
    assert len(places.of(MODEL)) == MAX_PLACES
