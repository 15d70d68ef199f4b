"""In-toto statements about a model: how it was built, and that its publisher stands behind it (specs/0004).

Two events are attested, each in its own DSSE envelope: *build* with SLSA provenance v1, and *sign* with the OpenSSF
model-signing predicate v1.0. The subject of both is the manifest under the model's name; a random salt beside it
keeps the public log entry from being guessed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from identity.did import DeviceId
from protocol.canonical_json import Json, decode_json, encode_json
from protocol.digest import Digest, parse_digest
from protocol.errors import DigestInvalid, JsonInvalid, StatementInvalid
from protocol.log_entry import SALT_BYTES, EventKind
from protocol.manifest import format_time

STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
PREDICATE_TYPES: Final[Mapping[EventKind, str]] = {
    "build": "https://slsa.dev/provenance/v1",
    "sign": "https://model_signing/signature/v1.0",
}
BUILD_TYPE: Final = "urn:tilenode:build:modelfile:v1"
SALT_ANNOTATION: Final = "tilenode.salt"
MAX_STATEMENT_BYTES: Final = 360 * 1024


@dataclass(frozen=True)
class Artifact:
    """Something that a statement names: a model, a layer's file, a source."""

    name: str
    digest: Digest


@dataclass(frozen=True)
class BuildFacts:
    """What went into a build: the caller's parameters, the sources by digest, the tools by version, when it ended."""

    external_parameters: Mapping[str, Json]
    sources: Sequence[Artifact]
    tool_versions: Mapping[str, str]
    finished_s: int


@dataclass(frozen=True)
class Statement:
    """A statement that was read: its event, the model it is about, the layers, the salt, and the whole predicate."""

    kind: EventKind
    model: Artifact
    layers: tuple[Artifact, ...]
    salt: bytes
    predicate: Mapping[str, object]


def build_statement(
    model: Artifact, layers: Sequence[Artifact], facts: BuildFacts, builder: DeviceId, salt: bytes
) -> bytes:
    """Return the canonical bytes of a *build* statement; the subjects are the manifest and every layer."""
    definition: dict[str, Json] = {
        "buildType": BUILD_TYPE,
        "externalParameters": facts.external_parameters,
        "internalParameters": {"tools": facts.tool_versions},
        "resolvedDependencies": [_descriptor(source) for source in facts.sources],
    }
    details: dict[str, Json] = {
        "builder": {"id": builder},
        "metadata": {"finishedOn": format_time(facts.finished_s), "invocationId": salt[:16].hex()},
    }
    subjects = [_subject(model, salt), *(_descriptor(layer) for layer in layers)]
    return _statement("build", subjects, {"buildDefinition": definition, "runDetails": details})


def sign_statement(model: Artifact, layers: Sequence[Artifact], salt: bytes) -> bytes:
    """Return the canonical bytes of a *sign* statement; the layers are the resources of its predicate."""
    resources: list[Json] = [
        {"name": layer.name, "algorithm": "sha256", "digest": str(layer.digest)} for layer in layers
    ]
    serialization: dict[str, Json] = {
        "method": "files",
        "hash_type": "sha256",
        "allow_symlinks": False,
        "ignore_paths": [],
    }
    return _statement("sign", [_subject(model, salt)], {"serialization": serialization, "resources": resources})


def parse_statement(payload: bytes, kind: EventKind) -> Statement:
    """Return the statement of the event `kind` in `payload`, whose signature has been verified before.

    Raises:
        StatementInvalid: larger than 360 KiB, not canonical, of another predicate, or without model or salt.
    """
    try:
        document = decode_json(payload, MAX_STATEMENT_BYTES, "statement")
    except JsonInvalid as error:
        raise StatementInvalid(f"{kind} statement", str(error)) from error
    match document:
        case {
            "_type": str(statement_type),
            "predicateType": str(predicate_type),
            "subject": [{"annotations": {"tilenode.salt": str(salt), **annotations}, **model}, *others],
            "predicate": dict(predicate),
            **rest,
        } if not rest and not annotations:
            pass
        case _:
            raise StatementInvalid(f"{kind} statement", "expected a salted subject and a predicate")
    if statement_type != STATEMENT_TYPE or predicate_type != PREDICATE_TYPES[kind]:
        raise StatementInvalid(f"{kind} statement", f"predicate {predicate_type[:80]!r}, not {PREDICATE_TYPES[kind]}")
    _require_canonical(kind, document, payload)
    listed = others if kind == "build" else predicate.get("resources")
    layers = tuple(_parse_layer(kind, item) for item in listed) if isinstance(listed, list) else ()
    return Statement(kind, _parse_descriptor(kind, model), layers, _parse_salt(kind, salt), predicate)


def _statement(kind: EventKind, subjects: Sequence[Json], predicate: Mapping[str, Json]) -> bytes:
    return encode_json(
        {
            "_type": STATEMENT_TYPE,
            "subject": subjects,
            "predicateType": PREDICATE_TYPES[kind],
            "predicate": predicate,
        }
    )


def _descriptor(artifact: Artifact) -> dict[str, Json]:
    return {"name": artifact.name, "digest": {"sha256": str(artifact.digest)}}


def _subject(model: Artifact, salt: bytes) -> dict[str, Json]:
    return {**_descriptor(model), "annotations": {SALT_ANNOTATION: salt.hex()}}


def _parse_layer(kind: EventKind, item: object) -> Artifact:
    if kind == "build":
        return _parse_descriptor(kind, item)
    match item:
        case {"name": str(name), "algorithm": "sha256", "digest": str(digest), **rest} if not rest:
            return Artifact(name, _parse_hex(kind, digest))
    raise StatementInvalid(f"{kind} statement", "a resource without name, algorithm and digest")


def _parse_descriptor(kind: EventKind, item: object) -> Artifact:
    match item:
        case {"name": str(name), "digest": {"sha256": str(digest), **algorithms}, **rest} if (
            not rest and not algorithms
        ):
            return Artifact(name, _parse_hex(kind, digest))
    raise StatementInvalid(f"{kind} statement", "a subject without name and sha256 digest")


def _parse_hex(kind: EventKind, text: str) -> Digest:
    try:
        if not text.startswith("sha256:"):
            return parse_digest(text)
    except DigestInvalid as error:
        raise StatementInvalid(f"{kind} statement", str(error)) from error
    raise StatementInvalid(f"{kind} statement", "a digest with its algorithm in it")


def _parse_salt(kind: EventKind, text: str) -> bytes:
    try:
        salt = bytes.fromhex(text)
    except ValueError:
        salt = b""
    if len(salt) != SALT_BYTES or salt.hex() != text:
        raise StatementInvalid(f"{kind} statement", f"the salt is not {SALT_BYTES} bytes in hex")
    return salt


def _require_canonical(kind: EventKind, document: object, payload: bytes) -> None:
    try:
        canonical = encode_json(document)  # type: ignore[arg-type]  # it came out of JSON, so it is Json
    except (ValueError, RecursionError) as error:
        raise StatementInvalid(f"{kind} statement", "cannot be encoded again") from error
    if canonical != payload:
        raise StatementInvalid(f"{kind} statement", "not in canonical form")
