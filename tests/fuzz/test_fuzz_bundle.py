"""Whatever stands in a bundle's files, only named errors come out."""

import json
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from protocol.bundle import decode_index, decode_log, encode_index, open_index
from protocol.errors import BundleInvalid
from store.errors import MoveJournalInvalid
from store.move_journal import JOURNAL_FILE, decode_move

CASES = json.loads((Path(__file__).parents[2] / "specs" / "vectors" / "0026-bundle" / "indexes.json").read_text())
GOOD = CASES[1]["input"]["index"].encode()
SIGNATURE = CASES[1]["input"]["signature"].encode()
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(st.binary(max_size=300))
def test_bytes(data: bytes) -> None:
    for decode in (decode_index, decode_log, lambda content: open_index(content, content)):
        try:
            decode(data)
        except BundleInvalid:
            continue


@given(st.sampled_from(sorted(json.loads(GOOD))), JSON)
def test_any_value_in_a_field(field: str, value: object) -> None:
    document = json.loads(GOOD)
    document[field] = value
    content = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace")
    try:
        assert encode_index(open_index(content, SIGNATURE)) == GOOD
    except BundleInvalid:
        return


@given(st.integers(0, len(GOOD) - 1), st.integers(0, 255))
def test_a_byte_changed(position: int, value: int) -> None:
    content = bytearray(GOOD)
    content[position] = value
    try:
        assert encode_index(open_index(bytes(content), SIGNATURE)) == GOOD
    except BundleInvalid:
        return


@given(st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_journals(data: bytes) -> None:
    try:
        decode_move(Path("/home") / JOURNAL_FILE, data)
    except MoveJournalInvalid:
        return
