"""Request bodies and keep_alive: the vectors of specs/0016-http-api."""

import json
from pathlib import Path
from typing import Any

import pytest

from node.api.body import MAX_OBJECTS, parse_json_object
from node.api.durations import parse_keep_alive
from node.api.errors import BodyInvalid

VECTORS = Path(__file__).parents[3] / "specs" / "vectors" / "0016-http-api"


def cases(name: str) -> list[dict[str, Any]]:
    loaded: list[dict[str, Any]] = json.loads((VECTORS / f"{name}.json").read_text())
    return loaded


@pytest.mark.parametrize("case", cases("bodies"), ids=lambda case: case["comment"])
def test_body(case: dict[str, Any]) -> None:
    given = case["input"]
    body = bytes.fromhex(given["body_hex"]) if "body_hex" in given else given["body"].encode()
    if case["expect"] == "ok":
        assert parse_json_object(body) == json.loads(body)
    else:
        with pytest.raises(BodyInvalid):
            parse_json_object(body)


@pytest.mark.parametrize("case", cases("keep_alive"), ids=lambda case: case["comment"])
def test_keep_alive(case: dict[str, Any]) -> None:
    value = case["input"]["keep_alive"]
    if case["expect"] == "ok":
        assert parse_keep_alive(value) == pytest.approx(case["output"]["seconds"])
    else:
        with pytest.raises(BodyInvalid) as caught:
            parse_keep_alive(value)
        assert caught.value.param == "keep_alive"


def test_a_body_of_more_parts_than_can_be_looked_at_in_time_is_refused() -> None:
    most = {"messages": [{}] * (MAX_OBJECTS - 2), "context": [1] * MAX_OBJECTS}
    assert parse_json_object(json.dumps({**most, "context": 1}).encode()) == {**most, "context": 1}
    with pytest.raises(BodyInvalid, match="objects and lists"):
        parse_json_object(json.dumps(most).encode())
