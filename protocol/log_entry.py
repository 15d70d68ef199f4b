"""Log entries: commitments to attestations that tell a stranger nothing about what was built (specs/0003).

An entry is the canonical DAG-CBOR map {v: 1, pae, type, subject}: `pae` is the SHA-256 of the DSSE pre-authentication
encoding, and `subject` a salted hash of the manifest's digest. The salt is in the envelope, which only authorised
peers receive; without it neither hash can be confirmed by guessing.
"""

import hashlib
from dataclasses import dataclass
from typing import Final, Literal, get_args

from protocol.digest import Digest
from protocol.errors import LogEntryInvalid

EventKind = Literal["build", "sign"]
EVENT_KINDS: Final[tuple[EventKind, ...]] = get_args(EventKind)
VERSION: Final = 1
SALT_BYTES: Final = 32
# The longest entry of version 1 has 96 bytes. The cap also bounds the nesting that the decoder may meet.
MAX_ENTRY_BYTES: Final = 128
_SUBJECT_DOMAIN: Final = b"tilenode/subject/v1\0"


@dataclass(frozen=True)
class LogEntry:
    """A commitment to one event; both hashes have 32 bytes."""

    kind: EventKind
    pae_hash: bytes
    subject_hash: bytes


def subject_hash(salt: bytes, manifest: Digest) -> bytes:
    """Return SHA-256("tilenode/subject/v1" ‖ 00 ‖ salt ‖ manifest digest)."""
    return hashlib.sha256(_SUBJECT_DOMAIN + salt + bytes.fromhex(manifest)).digest()


def encode_log_entry(entry: LogEntry) -> bytes:
    """Return the canonical DAG-CBOR bytes of `entry`."""
    import dag_cbor  # loading it takes 60 ms, which most commands do not need

    fields: dict[str, int | str | bytes] = {
        "v": VERSION,
        "pae": entry.pae_hash,
        "type": entry.kind,
        "subject": entry.subject_hash,
    }
    return bytes(dag_cbor.encode({**fields}))


def decode_log_entry(data: bytes) -> LogEntry:
    """Return the entry in `data`.

    Raises:
        LogEntryInvalid: more than 128 bytes, not canonical, another version or type, or unknown fields.
    """
    match _decode(data):
        case {"v": 1, "pae": bytes(pae), "type": "build" | "sign" as kind, "subject": bytes(subject), **rest} if (
            not rest and len(pae) == len(subject) == 32
        ):
            entry = LogEntry(kind, pae, subject)
        case _:
            raise LogEntryInvalid("log entry", "not the four fields of version 1")
    if encode_log_entry(entry) != data:
        raise LogEntryInvalid("log entry", "not canonical")
    return entry


def _decode(data: bytes) -> object:
    import dag_cbor
    from dag_cbor.decoding.err import CBORDecodingError

    if len(data) > MAX_ENTRY_BYTES:
        raise LogEntryInvalid("log entry", f"{len(data)} bytes, at most {MAX_ENTRY_BYTES} are allowed")
    try:
        return dag_cbor.decode(data)
    except (CBORDecodingError, ValueError) as error:
        raise LogEntryInvalid("log entry", "not DAG-CBOR") from error
