"""Hostile paths, ranges and pages into the registry: only its named errors come out, and ranges stay inside."""

from contextlib import suppress

from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import RangeUnsatisfiable, RouteInvalid
from protocol.registry_route import MAX_PAGE, parse_page, parse_range, parse_route

WORDS = st.sampled_from(
    ["", "v2", "tags", "list", "manifests", "blobs", "referrers", "_catalog", "..", "demo", "sha256:" + "a" * 64, "%2f"]
)


@given(
    st.text(max_size=80) | st.lists(WORDS | st.text(max_size=6), max_size=8).map(lambda parts: "/" + "/".join(parts))
)
def test_any_path(path: str) -> None:
    with suppress(RouteInvalid):
        route = parse_route(path)
        assert path in ("/v2", "/v2/", "/v2/_catalog") or route.repository in path  # type: ignore[union-attr] # by then


@given(st.text(max_size=60) | st.from_regex(r"bytes=[0-9]{0,4}-[0-9]{0,4}", fullmatch=True), st.integers(0, 3000))
def test_any_range(header: str, size: int) -> None:
    with suppress(RangeUnsatisfiable):
        found = parse_range(header, size)
        assert found is None or (found.length > 0 and found.first >= 0 and found.first + found.length <= size)


@given(st.none() | st.text(max_size=20), st.none() | st.text(max_size=20))
def test_any_page(count: str | None, last: str | None) -> None:
    with suppress(RouteInvalid):
        assert 0 <= parse_page(count, last).count <= MAX_PAGE
