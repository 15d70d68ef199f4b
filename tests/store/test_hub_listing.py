"""What a hub lists, as text: the vectors of specs/0021, and what a commit's time and a weight index may be."""

import json
from pathlib import Path
from typing import Any

import pytest

from store import errors
from store.hub_listing import (
    HubFile,
    Snapshot,
    choose,
    git_oid,
    parse_commit_time,
    parse_listing,
    parse_repository,
    with_index,
)

VECTORS = Path(__file__).parents[2] / "specs" / "vectors" / "0021-builds"
COMMIT = "0123456789" * 4


def cases(file: str) -> list[Any]:
    return [pytest.param(case, id=case["comment"]) for case in json.loads((VECTORS / file).read_text())]


@pytest.mark.parametrize("case", cases("repository-names.json"))
def test_repository_names(case: dict[str, Any]) -> None:
    if case["expect"] == "ok":
        found = parse_repository(case["input"])
        assert (found.repo, found.revision) == (case["repo"], case["revision"])
        assert parse_repository(str(found)) == found
        return
    with pytest.raises(getattr(errors, case["expect"])):
        parse_repository(case["input"])


@pytest.mark.parametrize("case", cases("hub-listings.json"))
def test_hub_listings(case: dict[str, Any]) -> None:
    def read() -> list[str]:
        commit, files = parse_listing("acme/tiny", None, json.dumps(case["input"]).encode())
        return [file.path for file in choose(Snapshot("acme/tiny", commit, 0, files))]

    if case["expect"] == "ok":
        assert read() == case["chosen"]
        return
    with pytest.raises(getattr(errors, case["expect"])):
        read()


def test_the_commit_that_was_asked_for_is_the_one_that_is_listed() -> None:
    data = json.dumps({"sha": COMMIT, "siblings": []}).encode()
    assert parse_listing("a/b", COMMIT, data) == (COMMIT, ())
    with pytest.raises(errors.HubAnswerInvalid, match="not of the one that was asked for"):
        parse_listing("a/b", "f" * 40, data)


@pytest.mark.parametrize(
    ("commits", "expected"),
    [
        ([{"id": COMMIT, "date": "2024-05-06T07:08:09.000Z"}], 1714979289),
        ([{"id": "f" * 40, "date": "?"}, {"id": COMMIT, "date": "1970-01-01T00:00:05Z"}], 5),
        ([{"id": COMMIT, "date": "1950-01-01T00:00:00Z"}], 0),
        ([], 0),
    ],
)
def test_a_commit_has_the_time_at_which_it_was_made(commits: object, expected: int) -> None:
    assert parse_commit_time("a/b", COMMIT, json.dumps(commits).encode()) == expected


@pytest.mark.parametrize("commits", [{}, [{"id": COMMIT}], [{"id": COMMIT, "date": "yesterday"}], None])
def test_a_commit_without_a_time_is_refused(commits: object) -> None:
    with pytest.raises(errors.HubAnswerInvalid):
        parse_commit_time("a/b", COMMIT, json.dumps(commits).encode())


@pytest.mark.parametrize(
    "weight_map", [None, {"w": 1}, {"w": "other.safetensors"}, {"w": "config.json"}, {"w": "../x"}]
)
def test_an_index_that_leads_elsewhere_is_refused(weight_map: object) -> None:
    files = (HubFile("config.json", 2, None), HubFile("a/other.safetensors", 2, None))
    with pytest.raises(errors.HubAnswerInvalid):
        with_index(Snapshot("a/b", COMMIT, 0, files), files, json.dumps({"weight_map": weight_map}).encode())


def test_a_small_file_has_the_id_that_git_gives_it() -> None:
    assert git_oid(b"test content\n") == "d670460b4b4aece5915caf5c68d12f560a9fe3e4"
