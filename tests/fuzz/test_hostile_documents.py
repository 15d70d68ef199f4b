"""Documents that are made to cost: each reader refuses them by name, and takes little more memory than their bytes."""

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from protocol.build_record import parse_build_record
from protocol.canonical_json import decode_json
from protocol.chunkmap import decode_chunk_map
from protocol.digest import digest_of
from protocol.errors import ProtocolError
from protocol.manifest import parse_manifest
from protocol.model_config import parse_config
from protocol.modelfile import parse_modelfile
from protocol.modelspec import parse_modelspec
from protocol.referrer import parse_index
from store.errors import StoreError
from store.safetensors import parse_header

MEBIBYTE = 1 << 20
LAYER = {"mediaType": "application/vnd.cncf.model.weight.v1.raw", "digest": "sha256:" + "0" * 64, "size": 1}
FRAME = '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","layers":%s}'

DOCUMENTS = {
    "100,000 layers": FRAME % json.dumps([LAYER] * 100_000),
    "100,000 empty layers": FRAME % ("[" + "{}," * 99_999 + "{}]"),
    "a list 100,000 deep": "[" * 100_000 + "]" * 100_000,
    "an object 100,000 deep": '{"a":' * 100_000 + "1" + "}" * 100_000,
    "deep layers": FRAME % ("[" * 50_000 + "]" * 50_000),
    "a million numbers": "[" + "1," * 1_000_000 + "1]",
    "a million keys": "{" + ",".join(f'"{number}":0' for number in range(1_000_000)) + "}",
    "one long number": '{"schemaVersion":' + "9" * 1_000_000 + "}",
    "one long text": '{"mediaType":"' + "x" * MEBIBYTE + '"}',
    "an unfinished text": '{"mediaType":"' + "x" * MEBIBYTE,
    "the same key again": "{" + '"a":1,' * 100_000 + '"a":1}',
    "escapes": '{"a":"' + "\\ud83d" * 100_000 + '"}',
}


def header(data: bytes) -> object:
    framed = len(data).to_bytes(8, "little") + data
    return parse_header("model.safetensors", framed, len(framed))


def chunk_map(data: bytes) -> object:
    return decode_chunk_map(data, digest_of(b""), len(data))


READERS: dict[str, Callable[[bytes], object]] = {
    "json": lambda data: decode_json(data, 4 * MEBIBYTE, "document"),
    "manifest": parse_manifest,
    "config": parse_config,
    "build record": parse_build_record,
    "index": parse_index,
    "safetensors header": header,
    "chunk map": chunk_map,
    "Modelfile": lambda data: parse_modelfile(data.decode()),
    "ModelSpec": lambda data: parse_modelspec(data.decode()),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("document", DOCUMENTS)
def test_it_is_refused_by_name_with_little_memory(reader: str, document: str) -> None:
    data = DOCUMENTS[document].encode()
    tracemalloc.start()
    try:
        message = refusal(READERS[reader], data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # A short document that is merely odd may be read as plain JSON; nothing else reads any of these.
    assert message or (reader == "json" and len(data) < 2 * MEBIBYTE)
    assert len(message) < 1000
    assert peak < 6 * len(data) + 16 * MEBIBYTE


def refusal(read: Callable[[bytes], object], data: bytes) -> str:
    """Return what the named error says, "" where there was none."""
    try:
        read(data)
    except (ProtocolError, StoreError) as error:
        return str(error)
    return ""


def test_a_chunk_map_that_claims_more_than_it_has(tmp_path: Path) -> None:
    for claim in (b"TNCM" + b"\xff" * 60, b"TNCM\x00\x01\x00\x01" + b"\xff" * 4096):
        tracemalloc.start()
        assert refusal(chunk_map, claim)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < MEBIBYTE
