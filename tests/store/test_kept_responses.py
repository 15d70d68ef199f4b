"""Responses that programs may follow on: kept in the encrypted database, chained, capped, and forgotten in time."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from store.database import Database
from store.kept_responses import KEEP_S, KeptResponse, KeptResponses

NOW = 1_800_000_000


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database.open(tmp_path / "node.db", bytes(32), create=True)
    yield database
    database.close()


def response(name: str, previous: str | None = None, size: int = 10) -> KeptResponse:
    return KeptResponse(name, previous, "x" * size, "{}")


def test_a_response_comes_back_as_it_was_kept(database: Database) -> None:
    kept = KeptResponses(database)
    told = KeptResponse("resp_1", None, '[{"role":"user","content":"Zoë"}]', '{"id":"resp_1"}')
    kept.keep(told, NOW)
    assert kept.get("resp_1", NOW) == told
    assert kept.get("resp_2", NOW) is None
    assert kept.usage() == (1, len(told.input_json.encode()) + len(told.resource_json))


def test_a_conversation_is_a_chain(database: Database) -> None:
    kept = KeptResponses(database)
    for name, previous in (("a", None), ("b", "a"), ("c", "b"), ("other", "a")):
        kept.keep(response(name, previous), NOW)
    assert [link.name for link in kept.chain("c", NOW)] == ["a", "b", "c"]
    assert [link.name for link in kept.chain("other", NOW)] == ["a", "other"]
    assert kept.chain("nobody", NOW) == []


def test_a_chain_with_a_gap_is_none(database: Database) -> None:
    kept = KeptResponses(database)
    for name, previous in (("a", None), ("b", "a"), ("c", "b")):
        kept.keep(response(name, previous), NOW)
    assert kept.forget("b")
    assert not kept.forget("b")
    assert kept.chain("c", NOW) == []
    assert [link.name for link in kept.chain("a", NOW)] == ["a"]


def test_a_chain_that_bites_its_tail_ends(database: Database) -> None:
    kept = KeptResponses(database)
    kept.keep(response("a", "b"), NOW)
    kept.keep(response("b", "a"), NOW)
    assert kept.chain("a", NOW) == []


def test_what_nobody_followed_on_for_a_month_is_gone(database: Database) -> None:
    kept = KeptResponses(database)
    kept.keep(response("a"), NOW)
    kept.keep(response("b"), NOW)
    assert kept.get("a", NOW + KEEP_S) is not None
    assert kept.get("a", NOW + KEEP_S + 1) is None
    assert [link.name for link in kept.chain("b", NOW + KEEP_S)] == ["b"]
    kept.keep(response("c"), NOW + KEEP_S + 1)
    assert kept.usage()[0] == 2


@pytest.mark.parametrize(("most_bytes", "most"), [(40, 100), (10_000, 3)])
def test_what_was_not_used_for_longest_makes_room(database: Database, most_bytes: int, most: int) -> None:
    kept = KeptResponses(database, max_bytes=most_bytes, max_responses=most)
    for place, name in enumerate("abc"):
        kept.keep(response(name), NOW + place)
    kept.chain("a", NOW + 10)
    kept.keep(response("d"), NOW + 11)
    assert [name for name in "abcd" if kept.get(name, NOW + 12)] == ["a", "c", "d"]


def test_one_that_is_too_large_is_not_kept_and_takes_nothing_with_it(database: Database) -> None:
    kept = KeptResponses(database, max_bytes=40)
    kept.keep(response("a"), NOW)
    kept.keep(response("large", size=100), NOW + 1)
    assert kept.get("large", NOW + 1) is None
    assert kept.get("a", NOW + 1) is not None


def test_nothing_of_it_lies_on_the_disk_in_the_clear(tmp_path: Path) -> None:
    path = tmp_path / "private.db"
    database = Database.open(path, bytes(range(32)), create=True)
    KeptResponses(database).keep(KeptResponse("resp_1", None, "canary-7f31", '{"output":"canary-7f31"}'), NOW)
    assert all(b"canary-7f31" not in file.read_bytes() for file in tmp_path.iterdir())
    database.close()
    assert b"canary-7f31" not in path.read_bytes()
