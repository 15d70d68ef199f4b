import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import errors
from protocol.address_class import AddressClass, address_class, may_lead
from protocol.errors import ModelNameInvalid, ReferenceInvalid, RegistryAnswerInvalid
from protocol.model_name import parse_model_name
from protocol.oci_name import oci_repository, oci_tags, short_repository
from protocol.range_plan import MAX_GAP_BYTES, MAX_RUN_BYTES, plan_runs
from protocol.registry import (
    MAX_TOKEN_BYTES,
    Challenge,
    Token,
    follow,
    format_reference,
    local_name,
    names_registry,
    parse_challenges,
    parse_content_range,
    parse_next_link,
    parse_reference,
    parse_said,
    parse_token,
    parse_uploaded,
    push_target,
    same_origin,
    token_url,
    with_query,
)

VECTORS = Path(__file__).parents[2] / "specs" / "vectors" / "0023-registry-client"


def cases(name: str) -> list[Any]:
    found = json.loads((VECTORS / f"{name}.json").read_text())
    return [pytest.param(case, id=case["comment"]) for case in found]


def refused(case: dict[str, Any]) -> type[Exception]:
    return getattr(errors, case["expect"])  # type: ignore[no-any-return]  # a vector names a class of protocol.errors


@pytest.mark.parametrize("case", cases("references"))
def test_references(case: dict[str, Any]) -> None:
    if case["expect"] != "ok":
        with pytest.raises(refused(case)):
            parse_reference(case["input"])
        return
    found = parse_reference(case["input"])
    assert (found.host, found.repository, list(found.tags)) == (case["host"], case["repository"], case["tags"])
    assert (found.digest, found.key, found.origin) == (case["digest"], case["key"], case["origin"])
    assert parse_reference(format_reference(found)) == found


@pytest.mark.parametrize("case", cases("names"))
def test_names(case: dict[str, Any]) -> None:
    name = parse_model_name(case["input"])
    if case["expect"] != "ok":
        with pytest.raises(refused(case)):
            assert (oci_tags(name), oci_repository(name)) is None
        return
    assert (oci_repository(name), list(oci_tags(name))) == (case["repository"], case["tags"])


@pytest.mark.parametrize("case", cases("challenges"))
def test_challenges(case: dict[str, Any]) -> None:
    if case["expect"] != "ok":
        with pytest.raises(refused(case)):
            parse_challenges(case["input"])
        return
    expected = tuple(Challenge(one["scheme"], one["parameters"]) for one in case["challenges"])
    assert parse_challenges(case["input"]) == expected


@pytest.mark.parametrize("case", cases("locations"))
def test_locations(case: dict[str, Any]) -> None:
    base, location = case["input"]["base"], case["input"]["location"]
    if case["expect"] != "ok":
        with pytest.raises(refused(case)):
            follow(base, location, "Location")
        return
    assert follow(base, location, "Location") == case["url"]


@pytest.mark.parametrize("case", cases("runs"))
def test_runs(case: dict[str, Any]) -> None:
    runs = plan_runs(case["input"]["edges"], case["input"]["missing"])
    assert [[run.first, run.last, run.start, run.end] for run in runs] == case["runs"]


@given(st.lists(st.tuples(st.integers(1, 200_000), st.booleans()), max_size=60))
def test_runs_bring_what_is_missing_once_and_little_else(chunks: list[tuple[int, bool]]) -> None:
    edges = [0]
    for length, _ in chunks:
        edges.append(edges[-1] + length)
    missing = [index for index, (_, wanted) in enumerate(chunks) if wanted]
    runs = plan_runs(edges, missing)
    covered = [index for run in runs for index in range(run.first, run.last)]
    assert covered == sorted(set(covered))
    assert set(missing) <= set(covered)
    extra = sum(edges[index + 1] - edges[index] for index in set(covered) - set(missing))
    assert extra * 100 <= sum(edges[index + 1] - edges[index] for index in missing)
    assert all(
        run.size <= MAX_RUN_BYTES and (run.start, run.end) == (edges[run.first], edges[run.last]) for run in runs
    )
    assert MAX_GAP_BYTES < MAX_RUN_BYTES


def test_what_begins_with_a_host_names_a_registry() -> None:
    assert [text for text in ("a.b/c", "a:1/c", "localhost/c", "a/c", "c", "a.b", "c:v1") if names_registry(text)] == [
        "a.b/c",
        "a:1/c",
        "localhost/c",
    ]


def test_a_push_goes_where_it_is_told_under_the_models_own_tag() -> None:
    name = parse_model_name("ann/demo:q4@1.0")
    assert push_target("registry.example/x", name).tags == ("q4-1.0", "q4")
    assert push_target("registry.example/x:v9", name).tags == ("v9",)
    assert str(push_target("", parse_model_name("nas:5000/ann/demo:v1"))) == "nas:5000/ann/demo:v1"
    with pytest.raises(ReferenceInvalid) as error:
        push_target("", name)
    assert error.value.hint == "say where to: tilenode push ann/demo:q4@1.0 HOST/REPOSITORY"


def test_a_pulled_model_is_called_as_it_was_named() -> None:
    assert str(local_name("registry.example/demo:v1")) == "registry.example/library/demo:v1"
    assert str(local_name("nas:5000/ann/demo:q4@1.0")) == "nas:5000/ann/demo:q4@1.0"
    for text in ("registry.example/a/b/c", f"registry.example/a/b@sha256:{'a' * 64}"):
        with pytest.raises(ModelNameInvalid):
            local_name(text)


def test_short_repositories_leave_library_out() -> None:
    assert short_repository(parse_model_name("demo")) == "demo"
    assert short_repository(parse_model_name("ann/demo")) == "ann/demo"


def test_a_token_is_asked_for_at_the_realm_with_service_and_scopes() -> None:
    (challenge,) = parse_challenges('Bearer realm="https://auth.example/token?x=1",service="a b"')
    url = token_url(challenge, ["repository:a:pull", "repository:b:pull"], "https://registry.example")
    expected = "x=1&service=a+b&scope=repository%3Aa%3Apull&scope=repository%3Ab%3Apull"
    assert url == f"https://auth.example/token?{expected}"
    with pytest.raises(RegistryAnswerInvalid):
        token_url(Challenge("bearer", {}), [], "https://registry.example")


def test_tokens() -> None:
    assert parse_token(b'{"token":"a.b-c","expires_in":300}') == Token("a.b-c", 300)
    assert parse_token(b'{"access_token":"x"}') == Token("x", 60)
    assert "secret" not in repr(Token("secret", 1))
    for data in (b"", b"[]", b"{}", b'{"token":"a b"}', b'{"token":"a\\r\\n"}', b'{"token":"a","expires_in":-1}'):
        with pytest.raises(RegistryAnswerInvalid):
            parse_token(data)
    with pytest.raises(RegistryAnswerInvalid):
        parse_token(b" " * (MAX_TOKEN_BYTES + 1))


def test_what_a_registry_says_is_shown_clean_and_short() -> None:
    code, message = parse_said(
        json.dumps({"errors": [{"code": "DENIED", "message": "a\x1b[31m\u202eb" * 99}]}).encode()
    )
    assert code == "DENIED"
    assert len(message) <= 200
    assert not any(char in "\x1b\u202e" for char in message)
    for data in (b"", b"[]", b'{"errors":[]}', b'{"errors":["x"]}', b"<html>"):
        assert parse_said(data) == ("", "")


def test_ranges() -> None:
    found = parse_content_range("bytes 0-99/1234")
    assert (found.start, found.end, found.total) == (0, 100, 1234)
    assert parse_content_range("bytes 5-5/*").total is None
    for text in ("", "bytes 9-3/10", "bytes 0-10/10", "bytes a-b/c", "items 0-1/2", "bytes 0-1/2 "):
        with pytest.raises(RegistryAnswerInvalid):
            parse_content_range(text)
    assert [parse_uploaded(text) for text in ("0-0", "0-9", "bytes=0-9")] == [0, 10, 10]
    for text in ("", "1-9", "0-", "0-x"):
        with pytest.raises(RegistryAnswerInvalid):
            parse_uploaded(text)


def test_links_origins_and_queries() -> None:
    assert parse_next_link('</v2/x?last=a>; rel="next"') == "/v2/x?last=a"
    assert parse_next_link('</v2/x>; rel="first"') is None
    assert same_origin("https://a.example/x", "https://a.example:443/y")
    assert not same_origin("https://a.example", "https://a.example:8443")
    assert not same_origin("http://a.example", "https://a.example")
    assert with_query("https://a.example/u?_state=x%3D", digest="sha256:ab") == (
        "https://a.example/u?_state=x%3D&digest=sha256:ab"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1", AddressClass.LOOPBACK),
        ("0.0.0.0", AddressClass.LOOPBACK),
        ("::1", AddressClass.LOOPBACK),
        ("::ffff:127.0.0.1", AddressClass.LOOPBACK),
        ("169.254.169.254", AddressClass.LINK_LOCAL),
        ("fe80::1%eth0", AddressClass.LINK_LOCAL),
        ("64:ff9b::a9fe:a9fe", AddressClass.LINK_LOCAL),
        ("10.0.0.1", AddressClass.PRIVATE),
        ("100.64.0.1", AddressClass.PRIVATE),
        ("fd00::1", AddressClass.PRIVATE),
        ("224.0.0.1", AddressClass.PRIVATE),
        ("2002:0a00:0001::1", AddressClass.PRIVATE),
        ("8.8.8.8", AddressClass.GLOBAL),
        ("2606:4700::1111", AddressClass.GLOBAL),
    ],
)
def test_address_classes(text: str, expected: AddressClass) -> None:
    assert address_class(text) is expected


def test_a_registry_leads_to_the_internet_and_to_its_own_kind_only() -> None:
    for registry in AddressClass:
        allowed = {target for target in AddressClass if may_lead(registry, target)}
        assert allowed == {AddressClass.GLOBAL, registry}
