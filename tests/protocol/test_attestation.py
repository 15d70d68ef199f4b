import json
from typing import Any

import pytest

from identity.testing import key_from_number
from protocol.attestation import Artifact, BuildFacts, build_statement, parse_statement, sign_statement
from protocol.canonical_json import encode_json
from protocol.digest import digest_of
from protocol.errors import StatementInvalid

KEY = key_from_number(1)
MODEL = Artifact("demo:v1", digest_of(b"manifest"))
LAYERS = (Artifact("model.safetensors", digest_of(b"weights")), Artifact("Modelfile", digest_of(b"FROM .")))
FACTS = BuildFacts(
    external_parameters={"parameters": [["temperature", 0.7]], "system": "é"},
    sources=[Artifact("model.safetensors", digest_of(b"source"))],
    tool_versions={"tilenode": "0.1.0"},
    finished_s=1_700_000_000,
)
SALT = bytes(range(32))
BUILD = build_statement(MODEL, LAYERS, FACTS, KEY.did, SALT)
SIGN = sign_statement(MODEL, LAYERS, SALT)


def test_a_build_statement_says_what_slsa_asks_for() -> None:
    document: Any = json.loads(BUILD)
    assert document["_type"] == "https://in-toto.io/Statement/v1"
    assert document["predicateType"] == "https://slsa.dev/provenance/v1"
    assert document["subject"][0]["digest"] == {"sha256": MODEL.digest}
    assert [subject["name"] for subject in document["subject"][1:]] == ["model.safetensors", "Modelfile"]
    definition = document["predicate"]["buildDefinition"]
    assert definition["buildType"] == "urn:tilenode:build:modelfile:v1"
    assert definition["externalParameters"] == FACTS.external_parameters
    assert definition["resolvedDependencies"][0]["digest"] == {"sha256": digest_of(b"source")}
    assert document["predicate"]["runDetails"]["builder"] == {"id": KEY.did}
    assert document["predicate"]["runDetails"]["metadata"]["finishedOn"] == "2023-11-14T22:13:20Z"


def test_a_sign_statement_lists_the_files() -> None:
    document: Any = json.loads(SIGN)
    assert document["predicateType"] == "https://model_signing/signature/v1.0"
    assert [resource["name"] for resource in document["predicate"]["resources"]] == ["model.safetensors", "Modelfile"]
    assert document["predicate"]["serialization"]["method"] == "files"


@pytest.mark.parametrize(("payload", "kind"), [(BUILD, "build"), (SIGN, "sign")])
def test_statements_are_read_back(payload: bytes, kind: Any) -> None:
    statement = parse_statement(payload, kind)
    assert (statement.model, statement.layers, statement.salt) == (MODEL, LAYERS, SALT)


def test_the_two_events_are_not_mistaken_for_each_other() -> None:
    with pytest.raises(StatementInvalid):
        parse_statement(BUILD, "sign")
    with pytest.raises(StatementInvalid):
        parse_statement(SIGN, "build")


def change(path: list[str | int], value: object) -> bytes:
    document: Any = json.loads(BUILD)
    target = document
    for step in path[:-1]:
        target = target[step]
    if value is None:
        del target[path[-1]]
    else:
        target[path[-1]] = value
    return encode_json(document)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{}",
        b"[]",
        b"\xff",
        b" " + BUILD,
        BUILD.replace(b'{"_type"', b'{"_type":"x","_type"'),
        BUILD + b" " * 400_000,
        b"[" * 100_000,
        BUILD.replace(b"0.7", b"1e999"),
        BUILD.replace(b"0.7", b"NaN"),
        BUILD.replace(b"0.7", b"7e-1"),
        change(["_type"], "https://in-toto.io/Statement/v2"),
        change(["predicateType"], None),
        change(["predicateType"], "https://slsa.dev/provenance/v2"),
        change(["predicate"], []),
        change(["subject"], []),
        change(["subject"], {}),
        change(["more"], 1),
        change(["subject", 0, "annotations"], None),
        change(["subject", 0, "annotations"], {"tilenode.salt": "00"}),
        change(["subject", 0, "annotations"], {"tilenode.salt": SALT.hex().upper()}),
        change(["subject", 0, "annotations"], {"tilenode.salt": SALT.hex(), "more": "x"}),
        change(["subject", 0, "digest"], {"sha256": "abc"}),
        change(["subject", 0, "digest"], {"sha256": "sha256:" + MODEL.digest}),
        change(["subject", 0, "digest"], {"sha256": MODEL.digest.upper()}),
        change(["subject", 0, "digest"], {"sha256": MODEL.digest, "sha512": "x"}),
        change(["subject", 0, "name"], 5),
        change(["subject", 1, "uri"], "file:///etc/passwd"),
        change(["subject", 1], "model.safetensors"),
    ],
    ids=range(29),
)
def test_other_payloads_are_refused(payload: bytes) -> None:
    with pytest.raises(StatementInvalid):
        parse_statement(payload, "build")
