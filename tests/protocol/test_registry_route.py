"""What a request to a registry asks for: the vectors of specs/0024-registry-server."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from protocol.errors import RangeUnsatisfiable, RouteInvalid
from protocol.registry_route import MAX_PAGE, Page, is_registry_path, parse_page, parse_range, parse_route

VECTORS = Path(__file__).parents[2] / "specs" / "vectors" / "0024-registry-server"
PATHS = json.loads((VECTORS / "paths.json").read_text())
RANGES = json.loads((VECTORS / "ranges.json").read_text())


@pytest.mark.parametrize("case", PATHS, ids=lambda case: case["comment"])
def test_paths(case: dict[str, Any]) -> None:
    if case["expect"] == "ok":
        route = parse_route(case["input"]["path"])
        assert {"route": type(route).__name__, **asdict(route)} == case["output"]
        return
    with pytest.raises(RouteInvalid) as refused:
        parse_route(case["input"]["path"])
    assert type(refused.value).__name__ == case["expect"]
    assert refused.value.code == case["output"]["code"]


@pytest.mark.parametrize("case", RANGES, ids=lambda case: case["comment"])
def test_ranges(case: dict[str, Any]) -> None:
    header, size = case["input"]["range"], case["input"]["size"]
    if case["expect"] == "ok":
        found = parse_range(header, size)
        assert (found and asdict(found)) == case["output"]
        return
    with pytest.raises(RangeUnsatisfiable) as refused:
        parse_range(header, size)
    assert (type(refused.value).__name__, refused.value.size) == (case["expect"], size)


def test_pages() -> None:
    assert parse_page(None, None) == Page(MAX_PAGE, "")
    assert parse_page("3", "b") == Page(3, "b")
    assert parse_page("0", None) == Page(0, "")
    assert parse_page("999999", None) == Page(MAX_PAGE, "")
    for count in ("-1", "x", "", "1" * 10, "١"):
        with pytest.raises(RouteInvalid) as refused:
            parse_page(count, None)
        assert refused.value.code == "PAGINATION_NUMBER_INVALID"
    with pytest.raises(RouteInvalid):
        parse_page(None, "a" * 2000)


def test_only_the_registry_s_paths_are_its_own() -> None:
    assert all(map(is_registry_path, ("/v2", "/v2/", "/v2/demo/tags/list")))
    assert not any(map(is_registry_path, ("/", "/v1/models", "/v2x", "/api/tags", "v2/")))
