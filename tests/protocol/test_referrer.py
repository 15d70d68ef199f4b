import json
from pathlib import Path
from typing import Any

import pytest

from protocol.digest import digest_of
from protocol.errors import ArtifactInvalid
from protocol.manifest import MANIFEST_MEDIA_TYPE
from protocol.referrer import (
    EMPTY,
    EMPTY_CONFIG,
    MAX_INDEX_ENTRIES,
    Part,
    encode_artifact,
    encode_index,
    merge_index,
    parse_artifact,
    parse_index,
    referrers_tag,
)

VECTORS = Path(__file__).parents[2] / "specs" / "vectors" / "0023-registry-client"


@pytest.mark.parametrize("case", json.loads((VECTORS / "artifacts.json").read_text()), ids=lambda case: case["comment"])
def test_artifacts(case: dict[str, Any]) -> None:
    data = case["input"].encode()
    if case["expect"] != "ok":
        with pytest.raises(ArtifactInvalid):
            parse_artifact(data)
        return
    artifact = parse_artifact(data)
    assert (artifact.artifact_type, artifact.subject.digest) == (case["artifact_type"], case["subject"])
    assert digest_of(encode_artifact(artifact)) == case["digest"]


def entry(number: int) -> Part:
    return Part(digest_of(str(number).encode()), number, MANIFEST_MEDIA_TYPE, {}, "application/x")


def test_the_empty_config_is_that_of_the_specification() -> None:
    assert (EMPTY.digest[:12], EMPTY.size, EMPTY_CONFIG) == ("44136fa355b3", 2, b"{}")


def test_an_index_has_one_spelling_whatever_the_order() -> None:
    assert encode_index([entry(1), entry(2)]) == encode_index([entry(2), entry(1), entry(2)])
    assert {part.size for part in parse_index(merge_index([entry(1)], [entry(2), entry(1)]))} == {1, 2}


def test_an_index_of_too_many_entries_is_refused() -> None:
    with pytest.raises(ArtifactInvalid):
        encode_index(entry(number) for number in range(MAX_INDEX_ENTRIES + 1))


def test_half_a_character_cannot_be_written_again_and_is_refused() -> None:
    document = json.loads(encode_index([entry(1)]))
    document["manifests"][0]["annotations"] = {"a": "\ud800"}
    with pytest.raises(ArtifactInvalid):
        parse_index(json.dumps(document).encode())


def test_the_referrers_tag_is_the_digest_with_a_dash() -> None:
    assert referrers_tag(digest_of(b"")) == f"sha256-{digest_of(b'')}"
