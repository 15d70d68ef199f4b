"""Have maps: the vectors, and bitmaps that say what the store's partial layers say."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.digest import digest_of
from protocol.errors import CodecInvalid, FieldInvalid
from protocol.have import (
    MAX_BITMAP_BYTES,
    MAX_HAVE_FRAME_BYTES,
    HaveComplete,
    HaveNone,
    HaveSome,
    decode_bitmap,
    decode_have,
    decode_have_request,
    encode_bitmap,
    encode_have,
)

VECTORS = Path(__file__).parents[2] / "specs" / "vectors" / "0012-fetch" / "have.json"
FAILURES = {"CodecInvalid": CodecInvalid, "FieldInvalid": FieldInvalid}


def decoded(kind: str, data: bytes) -> dict[str, Any]:
    if kind == "have?":
        return {"blob": decode_have_request(data)}
    if kind.startswith("bitmap"):
        return {"chunks": sorted(decode_bitmap(data, int(kind.split()[1])))}
    match decode_have(data):
        case HaveComplete(size):
            return {"have": "complete", "size": size}
        case HaveSome(chunk_map, bitmap):
            return {"have": "some", "map": chunk_map, "chunks": sorted(decode_bitmap(bitmap, 12)), "count": 12}
        case HaveNone():
            return {"have": "none"}


@pytest.mark.parametrize("case", json.loads(VECTORS.read_text()), ids=lambda case: case["comment"])
def test_vectors(case: dict[str, Any]) -> None:
    kind, data = case["input"]["kind"], bytes.fromhex(case["input"]["hex"])
    if case["expect"] == "ok":
        assert decoded(kind, data) == case["facts"]
    else:
        with pytest.raises(FAILURES[case["expect"]]):
            decoded(kind, data)


@given(st.integers(1, 200).flatmap(lambda count: st.tuples(st.just(count), st.sets(st.integers(0, count - 1)))))
def test_bitmaps_survive_encoding(drawn: tuple[int, set[int]]) -> None:
    count, chunks = drawn
    assert decode_bitmap(encode_bitmap(chunks, count), count) == chunks


def test_the_largest_bitmap_fits_its_frame_and_a_larger_one_is_refused() -> None:
    largest = HaveSome(digest_of(b"map"), bytes(MAX_BITMAP_BYTES))
    assert len(encode_have(largest)) <= MAX_HAVE_FRAME_BYTES
    assert decode_have(encode_have(largest)) == largest
    with pytest.raises(FieldInvalid):
        decode_have(encode_have(HaveSome(digest_of(b"map"), bytes(MAX_BITMAP_BYTES + 1))))
