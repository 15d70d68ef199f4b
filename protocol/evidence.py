"""Evidence that a device showed two logs: anybody can check it, without trusting who passes it on (specs/0003).

Two checkpoints that the device signed, and that no append-only log can both have:
*same size* — two roots for one size; *different sizes* — the old checkpoint's root is not the root that the first
`old` entries of the new log have, which a consistency proof from that other root to the new one shows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from identity.did import DeviceId, parse_did
from identity.errors import DidInvalid
from protocol.checkpoint import MAX_CHECKPOINT_BYTES, Checkpoint, open_checkpoint
from protocol.codec import decode_message, encode_message
from protocol.errors import CheckpointInvalid, CodecInvalid, ConsistencyInvalid, EvidenceInvalid, FieldInvalid
from protocol.tlog import HASH_BYTES, MAX_PROOF_HASHES, implied_roots

MAX_EVIDENCE_BYTES: Final = 16_384
_MESSAGE: Final = "fork"
_MAX_DID_BYTES: Final = 80


@dataclass(frozen=True)
class Evidence:
    """Two signed notes of one origin; `other_root` and `proof` are empty where both are of the same size.

    `first` is the smaller log, or for one size the one seen earlier.
    """

    origin: DeviceId
    first: bytes
    second: bytes
    other_root: bytes = b""
    proof: tuple[bytes, ...] = ()


def find_fork(
    origin: DeviceId, one: bytes, other: bytes, proof: Sequence[bytes], claimed_old_root: bytes | None = None
) -> Evidence | None:
    """Return evidence if the two notes, with a consistency proof between them, show a fork; None if they do not.

    `claimed_old_root` is the root that the prover gives the smaller log; it is needed only where the smaller size is
    a power of two, since the proof then does not contain it.

    Raises:
        CheckpointInvalid: a note is not a checkpoint by `origin`.
    """
    first, second = sorted((open_checkpoint(one, origin), open_checkpoint(other, origin)), key=lambda c: c.size)
    notes = (one, other) if open_checkpoint(one, origin) == first else (other, one)
    if first.size == second.size:
        return Evidence(origin, *notes) if first.root != second.root else None
    try:
        start = claimed_old_root or first.root
        old_root, new_root = implied_roots(first.size, start, second.size, second.root, proof)
    except ConsistencyInvalid:
        return None
    if new_root != second.root or old_root == first.root:
        return None
    return Evidence(origin, *notes, old_root, tuple(proof))


def check_evidence(evidence: Evidence) -> tuple[Checkpoint, Checkpoint]:
    """Return the two checkpoints once they are proven to be of one forked log.

    Raises:
        EvidenceInvalid: they are not; the accusation is void.
    """
    try:
        first = open_checkpoint(evidence.first, evidence.origin)
        second = open_checkpoint(evidence.second, evidence.origin)
        if first.size == second.size:
            _require(not evidence.other_root and not evidence.proof, "a proof between logs of one size")
            _require(first.root != second.root, "the two checkpoints agree")
            return first, second
        _require(0 < first.size < second.size, "the smaller log does not come first")
        _require(evidence.other_root != first.root, "the other root is the old checkpoint's own")
        old_root, new_root = implied_roots(first.size, evidence.other_root, second.size, second.root, evidence.proof)
    except (CheckpointInvalid, ConsistencyInvalid) as error:
        raise EvidenceInvalid(str(error)) from error
    _require(old_root == evidence.other_root, "the proof does not lead to the other root")
    _require(new_root == second.root, "the proof does not lead to the new checkpoint's root")
    return first, second


def encode_evidence(evidence: Evidence) -> bytes:
    """Return the evidence as one file or message, at most 16 KiB."""
    return encode_message(
        _MESSAGE,
        origin=evidence.origin,
        first=evidence.first,
        second=evidence.second,
        other_root=evidence.other_root,
        proof=list(evidence.proof),
    )


def decode_and_check_evidence(data: bytes) -> Evidence:
    """Return the evidence in `data` once it is proven.

    Raises:
        EvidenceInvalid: not of this form, or it does not prove a fork.
    """
    try:
        kind, fields = decode_message(data, MAX_EVIDENCE_BYTES)
        evidence = Evidence(
            origin=parse_did(fields.text("origin", max=_MAX_DID_BYTES)),
            first=fields.bytes("first", max=MAX_CHECKPOINT_BYTES),
            second=fields.bytes("second", max=MAX_CHECKPOINT_BYTES),
            other_root=fields.bytes("other_root", max=HASH_BYTES),
            proof=tuple(_hash(item) for item in fields.list("proof", max=MAX_PROOF_HASHES)),
        )
        fields.done()
    except (CodecInvalid, FieldInvalid, DidInvalid) as error:
        raise EvidenceInvalid(str(error)) from error
    _require(kind == _MESSAGE, f"a message of type {kind!r}")
    check_evidence(evidence)
    return evidence


def _hash(item: object) -> bytes:
    if not isinstance(item, bytes) or len(item) != HASH_BYTES:
        raise EvidenceInvalid(f"a proof hash that is not {HASH_BYTES} bytes")
    return item


def _require(condition: bool, reason: str) -> None:
    if not condition:
        raise EvidenceInvalid(reason)
