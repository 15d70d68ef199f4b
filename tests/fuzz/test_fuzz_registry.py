"""Hostile text from registries and people: only the named errors escape."""

import json
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from hypothesis import given
from hypothesis import strategies as st

from protocol.digest import digest_of
from protocol.errors import ArtifactInvalid, ReferenceInvalid, RegistryAnswerInvalid
from protocol.manifest import MANIFEST_MEDIA_TYPE, Descriptor
from protocol.referrer import CHUNK_MAPS, Artifact, Part, encode_artifact, encode_index, parse_artifact, parse_index
from protocol.registry import (
    follow,
    format_reference,
    is_loopback,
    parse_challenges,
    parse_content_range,
    parse_next_link,
    parse_reference,
    parse_said,
    parse_token,
    parse_uploaded,
    token_url,
)

SUBJECT = Descriptor(digest_of(b"subject"), 7, MANIFEST_MEDIA_TYPE)
ARTIFACT = encode_artifact(Artifact(CHUNK_MAPS, SUBJECT, (Part(digest_of(b"map"), 3, CHUNK_MAPS),)))
INDEX = encode_index([Part(digest_of(b"one"), 1, MANIFEST_MEDIA_TYPE, {"a": "b"}, CHUNK_MAPS)])
SPELLED = st.text(st.sampled_from("a.Z:/@-_[]0159 %\\sha256\u202e"), max_size=60)
HEADER = st.text(st.sampled_from('Bearbasic ="\\,\t:/.?x'), max_size=80)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(st.one_of(SPELLED, st.text(max_size=80), SPELLED.map(lambda text: f"registry.example/{text}")))
def test_references(text: str) -> None:
    with suppress(ReferenceInvalid):
        found = parse_reference(text)
        assert parse_reference(format_reference(found)) == found


@given(st.one_of(HEADER, st.text(max_size=200)))
def test_challenges(text: str) -> None:
    with suppress(RegistryAnswerInvalid):
        for challenge in parse_challenges(text):
            url = urlsplit(token_url(challenge, ["repository:a:pull"], "https://registry.example"))
            assert url.scheme == "https"


@given(st.sampled_from(["https://registry.example/v2/", "http://127.0.0.1:5000/v2/"]), st.one_of(SPELLED, st.text()))
def test_locations(base: str, location: str) -> None:
    with suppress(RegistryAnswerInvalid):
        url = urlsplit(follow(base, location, "Location"))
        assert url.hostname
        assert url.username is None
        assert url.scheme == "https" or (base.startswith("http://") and is_loopback(url.hostname))


@given(
    st.one_of(
        st.binary(max_size=200), st.dictionaries(st.text(max_size=12), JSON).map(lambda v: json.dumps(v).encode())
    )
)
def test_documents(data: bytes) -> None:
    parse_said(data)
    for parse in (parse_token, parse_artifact, parse_index):
        with suppress(RegistryAnswerInvalid, ArtifactInvalid):
            parse(data)


@given(st.text(max_size=60))
def test_headers(text: str) -> None:
    parse_next_link(text)
    for parse in (parse_content_range, parse_uploaded):
        with suppress(RegistryAnswerInvalid):
            parse(text)


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, inner in items for place in _places(inner, (*path, key)))]


@given(st.sampled_from([ARTIFACT, INDEX]), st.integers(0, 40), JSON)
def test_one_value_replaced(data: bytes, number: int, value: Any) -> None:
    document = json.loads(data)
    places = [place for place in _places(document) if place]
    *parents, last = places[number % len(places)]
    target = document
    for key in parents:
        target = target[key]
    target[last] = value
    changed = json.dumps(document).encode("utf-8", "surrogatepass")
    with suppress(ArtifactInvalid):
        artifact = parse_artifact(changed)
        assert parse_artifact(encode_artifact(artifact)) == artifact
    with suppress(ArtifactInvalid):
        entries = parse_index(changed)
        assert all(entry in entries for entry in parse_index(encode_index(entries)))


@given(st.sampled_from([ARTIFACT, INDEX]), st.integers(0, 800), st.binary(min_size=1, max_size=4))
def test_bytes_replaced(data: bytes, at: int, patch: bytes) -> None:
    place = at % len(data)
    changed = data[:place] + patch + data[place + len(patch) :]
    for parse in (parse_artifact, parse_index):
        with suppress(ArtifactInvalid):
            parse(changed)
