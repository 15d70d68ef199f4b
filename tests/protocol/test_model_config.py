"""The config blob: canonical, and tolerant of publishers who say less."""

import pytest

from protocol.digest import digest_of
from protocol.errors import ManifestInvalid
from protocol.model_config import ModelConfig, encode_config, format_parameter_size, parse_config


def test_what_is_written_reads_back() -> None:
    config = ModelConfig("qwen3", "safetensors", "2.9M", "float16")
    data = encode_config(config, [digest_of(b"a")], 0)
    assert parse_config(data) == config
    assert b'"createdAt":"1970-01-01T00:00:00Z"' in data


def test_a_config_that_says_nothing_is_accepted() -> None:
    assert parse_config(b'{"descriptor":{},"config":{},"modelfs":{}}') == ModelConfig("", "", "", "")


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b"{}", b'{"descriptor":{"family":1},"config":{}}', b'{"descriptor":{"family":"\\u001b"},"config":{}}'],
)
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(ManifestInvalid):
        parse_config(data)


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0"), (999, "999"), (1000, "1K"), (2_888_320, "2.9M"), (7_000_000_000, "7B")]
)
def test_sizes_read_as_people_write_them(count: int, text: str) -> None:
    assert format_parameter_size(count) == text
