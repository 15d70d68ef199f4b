"""Hostile text where hubs, their caches and Ollama's store are read: a value or a named error."""

import json
from contextlib import suppress
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import ProtocolError
from store.errors import StoreError
from store.hub_listing import Snapshot, choose, parse_commit_time, parse_listing, parse_repository, with_index
from store.hub_memory import decode_snapshot
from store.ollama import parse_manifest, parse_ollama_name

COMMIT = "0123456789" * 4
WORDS = [
    "sha", "siblings", "rfilename", "size", "lfs", "sha256", "blobId", COMMIT, "ab" * 32, "config.json",
    "model.safetensors", "MODEL.safetensors", "../x", "a/b", "id", "date", "2024-01-01", "9999-99-99", "weight_map",
    "layers", "mediaType", "digest", "name", "version", "repo", "commit", "time_s", "files", "\ud800", "\0", "",
]  # fmt: skip
SCALARS = st.none() | st.booleans() | st.integers(-2, 1 << 70) | st.floats(allow_nan=False) | st.sampled_from(WORDS)
KEYS = st.sampled_from(WORDS)
DOCUMENTS = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=6), max_leaves=30
)


def encoded(document: Any) -> bytes:
    return json.dumps(document).encode()


@given(st.dictionaries(KEYS, DOCUMENTS, max_size=4), st.lists(st.dictionaries(KEYS, DOCUMENTS, max_size=5), max_size=4))
def test_any_listing_is_read_or_refused(document: dict[str, Any], siblings: list[Any]) -> None:
    with suppress(StoreError):
        commit, files = parse_listing("a/b", None, encoded({"sha": COMMIT, "siblings": siblings, **document}))
        chosen = choose(Snapshot("a/b", commit, 0, files))
        assert all("/" not in file.path for file in chosen)


@given(DOCUMENTS, st.binary(max_size=40))
def test_anything_else_is_read_or_refused(document: Any, data: bytes) -> None:
    for content in (encoded(document), data):
        with suppress(StoreError):
            assert parse_commit_time("a/b", COMMIT, content) >= 0
        with suppress(StoreError):
            with_index(Snapshot("a/b", COMMIT, 0, ()), (), content)
        with suppress(StoreError):
            parse_manifest("ollama:x", content)
        with suppress(ProtocolError, ValueError):
            decode_snapshot("a/b", COMMIT, content)


@given(st.lists(st.sampled_from(["hf:", "ollama:", "a", "/", "@", ":", "..", "-", "Ü", "\0"]), max_size=9).map("".join))
def test_any_name_is_read_or_refused(text: str) -> None:
    with suppress(StoreError):
        assert parse_repository(str(parse_repository(text))) == parse_repository(text)
    with suppress(StoreError):
        assert parse_ollama_name(str(parse_ollama_name(text))) == parse_ollama_name(text)
