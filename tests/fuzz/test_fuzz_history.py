"""Ref and lease files under any bytes: only the named errors escape, and what is read is written back the same."""

import contextlib
import json
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from protocol.digest import Digest, digest_of
from store.errors import LeaseCorrupt, RefCorrupt
from store.leases import parse_lease
from store.ref_file import (
    MAX_NUMBER,
    MAX_REF_BYTES,
    MAX_TIME_S,
    MAX_VERSIONS,
    RefEvent,
    Version,
    clean_source,
    encode_ref,
    parse_ref,
)

PATH = Path("latest.json")
SEEDS = [
    case["input"].encode()
    for file in ("refs.json", "leases.json")
    for case in json.loads((Path(__file__).parents[2] / "specs/vectors/0022-history" / file).read_text())
]

digests = st.binary(max_size=8).map(digest_of)
versions = st.builds(
    Version,
    st.integers(1, MAX_NUMBER),
    digests,
    st.integers(0, MAX_TIME_S),
    st.sampled_from(RefEvent),
    st.text(max_size=200).map(clean_source),
    st.booleans(),
)
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)


def read_both(data: bytes) -> None:
    """Read `data` as either file; nothing but the two named errors may escape."""
    with contextlib.suppress(RefCorrupt):
        assert 1 <= len(parse_ref(PATH, data)) <= MAX_VERSIONS
    with contextlib.suppress(LeaseCorrupt):
        assert all(isinstance(digest, str) for digest in parse_lease(PATH, data))


@given(st.binary(max_size=400))
def test_any_bytes(data: bytes) -> None:
    read_both(data)


@given(st.sampled_from(SEEDS), st.data())
def test_files_with_a_changed_byte(seed: bytes, data: st.DataObject) -> None:
    changed = bytearray(seed[:4000])
    for _ in range(data.draw(st.integers(1, 4))):
        if changed:
            changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    read_both(bytes(changed))


@given(st.dictionaries(st.sampled_from(["version", "mediaType", "history", "pid", "digests"]), json_values))
def test_any_values_under_the_keys(document: dict[str, Any]) -> None:
    read_both(json.dumps(document).encode())


@given(st.dictionaries(st.sampled_from(["number", "digest", "time", "event", "source", "pinned"]), json_values))
def test_any_values_in_a_version(version: dict[str, Any]) -> None:
    document = json.loads(encode_ref([Version(1, Digest("0" * 64), 0, RefEvent.CREATE)]))
    document["history"] = [{**document["history"][0], **version}]
    read_both(json.dumps(document).encode())


@given(st.lists(versions, min_size=1, max_size=6, unique_by=lambda version: version.number))
def test_what_is_written_is_read(history: list[Version]) -> None:
    ordered = sorted(history, key=lambda version: version.number)
    data = encode_ref(ordered)
    assert list(parse_ref(PATH, data)) == ordered
    assert len(data) <= MAX_REF_BYTES
