"""What the TILENODE_… variables say about serving models."""

import pytest

from node.config import read_environment
from node.errors import VariableInvalid
from node.serving import VARIABLES, Serving, read_serving


def test_nothing_said_is_the_default() -> None:
    assert read_serving({}) == Serving() == read_serving(dict.fromkeys(VARIABLES, ""))


def test_every_variable_is_read() -> None:
    environ = {
        "TILENODE_MAX_LOADED_MODELS": "5",
        "TILENODE_NUM_PARALLEL": "4",
        "TILENODE_MAX_QUEUE": "0",
        "TILENODE_MAX_MEMORY": "1.5GiB",
        "TILENODE_KEEP_ALIVE": "-1",
        "TILENODE_LOAD_TIMEOUT": "2m30s",
        "TILENODE_PREFIX_CACHE": "1GiB",
        "TILENODE_KV_CACHE": "8",
        "OTHER": "x",
    }
    variables = read_environment(environ).variables
    assert set(variables) == set(VARIABLES)
    assert read_serving(variables) == Serving(5, 4, 0, 3 * 2**29, -1.0, 150.0, 2**30, 8)


@pytest.mark.parametrize(
    ("text", "size"), [("12GB", 12 * 10**9), ("512 MiB", 2**29), ("2t", 2 * 10**12), ("64g", 64 * 10**9)]
)
def test_amounts_of_memory(text: str, size: int) -> None:
    assert read_serving({"TILENODE_MAX_MEMORY": text}).max_memory_bytes == size


def test_prefixes_and_packed_contexts_can_be_switched() -> None:
    assert read_serving({"TILENODE_PREFIX_CACHE": "off"}).prefix_cache_bytes == 0
    assert [read_serving({"TILENODE_KV_CACHE": text}).kv_bits for text in ("q4_0", "Q8", "full", "")] == [4, 8, 0, 0]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TILENODE_MAX_LOADED_MODELS", "0"),
        ("TILENODE_MAX_LOADED_MODELS", "-1"),
        ("TILENODE_NUM_PARALLEL", "many"),
        ("TILENODE_NUM_PARALLEL", "257"),
        ("TILENODE_MAX_QUEUE", "1e3"),
        ("TILENODE_MAX_QUEUE", "٣"),
        ("TILENODE_MAX_MEMORY", "0GB"),
        ("TILENODE_MAX_MEMORY", "8"),
        ("TILENODE_MAX_MEMORY", "nanGB"),
        ("TILENODE_KEEP_ALIVE", "soon"),
        ("TILENODE_LOAD_TIMEOUT", "0"),
        ("TILENODE_LOAD_TIMEOUT", "-5m"),
        ("TILENODE_LOAD_TIMEOUT", "1000h"),
        ("TILENODE_PREFIX_CACHE", "some"),
        ("TILENODE_KV_CACHE", "3"),
    ],
)
def test_what_means_nothing_is_refused_by_name(name: str, value: str) -> None:
    with pytest.raises(VariableInvalid, match=name):
        read_serving({name: value})
