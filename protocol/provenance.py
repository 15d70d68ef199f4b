"""Provenance bundles: everything that a stranger needs to check who built, signed and logged a model (specs/0004).

A bundle is one canonical msgpack map. Reading one verifies it whole: there is no way to hold an unverified
`Provenance` that came from somebody else.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from identity.did import DeviceId, parse_did
from identity.errors import DidInvalid
from protocol.attestation import Artifact, Statement, parse_statement
from protocol.checkpoint import MAX_CHECKPOINT_BYTES, Checkpoint, open_checkpoint
from protocol.codec import Fields, decode_message, encode_message
from protocol.digest import Digest, digest_of, short_digest
from protocol.dsse import IN_TOTO, MAX_ENVELOPE_BYTES, open_envelope, pae
from protocol.errors import (
    CheckpointInvalid,
    CodecInvalid,
    FieldInvalid,
    InclusionInvalid,
    ManifestInvalid,
    ModelNameInvalid,
    ProvenanceInvalid,
)
from protocol.log_entry import EventKind, LogEntry, encode_log_entry, subject_hash
from protocol.manifest import Manifest, parse_manifest
from protocol.model_name import format_model_name, parse_model_name
from protocol.tlog import HASH_BYTES, MAX_PROOF_HASHES, MAX_SIZE, check_inclusion, leaf_hash

MAX_PROVENANCE_BYTES: Final = 1024 * 1024
MAX_MANIFEST_BYTES: Final = 512 * 1024
MAX_NAME_BYTES: Final = 330
_MESSAGE: Final = "provenance"
_MAX_DID_BYTES: Final = 80


@dataclass(frozen=True)
class LoggedEvent:
    """An attestation and where its commitment stands in the publisher's log."""

    envelope: bytes
    index: int
    proof: tuple[bytes, ...]


@dataclass(frozen=True)
class Provenance:
    """Who published a model, under which name, and the proofs. `name` is what the publisher signed.

    `log_size` and `log_root` are those of `checkpoint`, the signed note under which both events are included.
    """

    publisher: DeviceId
    name: str
    manifest: bytes
    manifest_digest: Digest
    build: LoggedEvent
    sign: LoggedEvent
    checkpoint: bytes
    log_size: int
    log_root: bytes
    build_statement: Statement
    sign_statement: Statement


def manifest_layers(manifest: Manifest) -> tuple[Artifact, ...]:
    """Return the layers of a manifest as statements name them: by file path and digest, in manifest order."""
    return tuple(Artifact(layer.filepath, layer.digest) for layer in manifest.layers)


def entry_for(kind: EventKind, payload: bytes, salt: bytes, manifest: Digest) -> bytes:
    """Return the log entry that commits to the envelope around `payload`."""
    return encode_log_entry(LogEntry(kind, _pae_hash(payload), subject_hash(salt, manifest)))


def encode_provenance(
    publisher: DeviceId, name: str, manifest: bytes, build: LoggedEvent, sign: LoggedEvent, checkpoint: bytes
) -> bytes:
    """Return the bundle of these parts.

    Raises:
        ProvenanceInvalid: it would not verify, or is larger than 1 MiB.
    """
    bundle = encode_message(
        _MESSAGE,
        publisher=publisher,
        name=name,
        manifest=manifest,
        build=_event_fields(build),
        sign=_event_fields(sign),
        checkpoint=checkpoint,
    )
    decode_and_verify_provenance(bundle)
    return bundle


def decode_and_verify_provenance(data: bytes) -> Provenance:
    """Return the provenance in `data` with every signature, hash and proof checked; at most 1 MiB.

    Verified: the publisher's signature on the checkpoint; its signature on the build and on the sign envelope; that
    both are about this manifest under this name, with the manifest's own layers; that the log under the checkpoint
    includes the commitments to both. Not verified here: consistency with checkpoints seen earlier.

    Raises:
        ProvenanceInvalid: any of that is not so.
    """
    try:
        return _verify(data)
    except (CodecInvalid, FieldInvalid, DidInvalid, ModelNameInvalid) as error:
        raise ProvenanceInvalid("bundle", str(error)) from error
    except ManifestInvalid as error:
        raise ProvenanceInvalid("manifest", str(error)) from error
    except CheckpointInvalid as error:
        raise ProvenanceInvalid("checkpoint", str(error)) from error


def _verify(data: bytes) -> Provenance:
    fields = _open_bundle(data)
    publisher = parse_did(fields.text("publisher", max=_MAX_DID_BYTES))
    name = _canonical_name(fields)
    manifest = fields.bytes("manifest", max=MAX_MANIFEST_BYTES)
    build, sign = _parse_event(fields.fields("build")), _parse_event(fields.fields("sign"))
    note = fields.bytes("checkpoint", max=MAX_CHECKPOINT_BYTES)
    fields.done()
    checkpoint = open_checkpoint(note, publisher)
    model = Artifact(name, digest_of(manifest))
    layers = manifest_layers(parse_manifest(manifest))
    return Provenance(
        publisher=publisher,
        name=name,
        manifest=manifest,
        manifest_digest=model.digest,
        build=build,
        sign=sign,
        checkpoint=note,
        log_size=checkpoint.size,
        log_root=checkpoint.root,
        build_statement=_verify_event("build", build, publisher, model, layers, checkpoint),
        sign_statement=_verify_event("sign", sign, publisher, model, layers, checkpoint),
    )


def _open_bundle(data: bytes) -> Fields:
    kind, fields = decode_message(data, MAX_PROVENANCE_BYTES)
    if kind != _MESSAGE:
        raise ProvenanceInvalid("bundle", f"a message of type {kind!r}, expected {_MESSAGE!r}")
    return fields


def _verify_event(
    kind: EventKind,
    event: LoggedEvent,
    publisher: DeviceId,
    model: Artifact,
    layers: Sequence[Artifact],
    checkpoint: Checkpoint,
) -> Statement:
    payload = open_envelope(event.envelope, publisher).payload
    statement = parse_statement(payload, kind)
    if statement.model != model:
        found = f"{statement.model.name[:80]!r} {short_digest(statement.model.digest)}"
        raise ProvenanceInvalid(f"{kind} statement", f"is about {found}, not {model.name} {short_digest(model.digest)}")
    if statement.layers != tuple(layers):
        raise ProvenanceInvalid(f"{kind} statement", "names other layers than the manifest")
    leaf = leaf_hash(entry_for(kind, payload, statement.salt, model.digest))
    try:
        check_inclusion(leaf, event.index, checkpoint.size, event.proof, checkpoint.root)
    except InclusionInvalid as error:
        raise ProvenanceInvalid(f"{kind} event", str(error)) from error
    return statement


def _pae_hash(payload: bytes) -> bytes:
    return bytes.fromhex(digest_of(pae(IN_TOTO, payload)))


def _event_fields(event: LoggedEvent) -> dict[str, object]:
    return {"envelope": event.envelope, "index": event.index, "proof": list(event.proof)}


def _parse_event(fields: Fields) -> LoggedEvent:
    proof = []
    for index, value in enumerate(fields.list("proof", max=MAX_PROOF_HASHES)):
        if not isinstance(value, bytes) or len(value) != HASH_BYTES:
            raise fields.invalid(f"proof[{index}]", f"expected {HASH_BYTES} bytes")
        proof.append(value)
    event = LoggedEvent(
        fields.bytes("envelope", max=MAX_ENVELOPE_BYTES), fields.int("index", 0, MAX_SIZE), tuple(proof)
    )
    fields.done()
    return event


def _canonical_name(fields: Fields) -> str:
    text = fields.text("name", max=MAX_NAME_BYTES)
    if format_model_name(parse_model_name(text)) != text:
        raise fields.invalid("name", "not the canonical spelling")
    return text
