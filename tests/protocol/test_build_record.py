"""build.json: every vector of specs/0021, and what a record survives and refuses."""

import json
from pathlib import Path
from typing import Any

import pytest

from protocol.build_record import (
    MAX_BUILD_RECORD_BYTES,
    SourceKind,
    content_digest,
    encode_build_record,
    parse_build_record,
)
from protocol.errors import BuildRecordInvalid
from protocol.quantization import Quantization

VECTORS = Path(__file__).parents[2] / "specs" / "vectors" / "0021-builds"
RECORDS = json.loads((VECTORS / "build-records.json").read_text())
CONTENTS = json.loads((VECTORS / "content-digests.json").read_text())


@pytest.mark.parametrize("case", RECORDS, ids=lambda case: case["comment"])
def test_records(case: dict[str, Any]) -> None:
    data = case["input"].encode()
    if case["expect"] == "ok":
        assert encode_build_record(parse_build_record(data)) == data
        return
    with pytest.raises(BuildRecordInvalid) as caught:
        parse_build_record(data)
    assert caught.value.where == case["where"]
    assert caught.value.hint


@pytest.mark.parametrize("case", CONTENTS, ids=lambda case: case["comment"])
def test_content_digests(case: dict[str, Any]) -> None:
    rows = [(name, dtype, tuple(shape), bytes.fromhex(digest)) for name, dtype, shape, digest in case["input"]]
    assert content_digest(rows) == case["output"]
    assert content_digest(reversed(rows)) == case["output"]


def test_what_a_record_says() -> None:
    record = parse_build_record(RECORDS[0]["input"].encode())
    assert [source.kind for source in record.sources] == [SourceKind.HUB, SourceKind.DIRECTORY]
    assert record.sources[0].files[1].size == 5777646
    assert record.quantization is Quantization.INT4
    assert record.created_s == 1_700_000_000
    assert record.tools["mlx-lm"] == "0.32.2"


def test_a_record_that_is_too_large_is_refused_before_it_is_read() -> None:
    with pytest.raises(BuildRecordInvalid, match="at most"):
        parse_build_record(b"[" * (MAX_BUILD_RECORD_BYTES + 1))
    with pytest.raises(BuildRecordInvalid, match="nested too deeply"):
        parse_build_record(b"[" * 200_000)
