"""Checkpoints: the size and root of a device's log as a signed note (C2SP tlog-checkpoint, specs/0002)."""

import base64
import binascii
import re
from dataclasses import dataclass
from typing import Final

from identity.did import DeviceId
from identity.errors import NoteInvalid, SignatureInvalid
from identity.keys import DeviceKey
from identity.note import open_note, sign_note, verifier_key_of
from protocol.errors import CheckpointInvalid
from protocol.tlog import EMPTY_ROOT, HASH_BYTES, MAX_SIZE

MAX_CHECKPOINT_BYTES: Final = 4096
_DECIMAL: Final = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)


@dataclass(frozen=True)
class Checkpoint:
    """A log's name, its number of entries and the root over them."""

    origin: str
    size: int
    root: bytes


def format_checkpoint(checkpoint: Checkpoint) -> str:
    """Return the three lines that are signed: origin, decimal size, base64 of the root."""
    root = base64.b64encode(checkpoint.root).decode("ascii")
    return f"{checkpoint.origin}\n{checkpoint.size}\n{root}\n"


def parse_checkpoint(text: str) -> Checkpoint:
    """Return the checkpoint of exactly three lines; extension lines, leading zeros and loose base64 are refused.

    Raises:
        CheckpointInvalid: anything else.
    """
    lines = text.split("\n")
    origin = lines[0]
    if len(lines) != 4 or lines[3] or not origin:
        raise CheckpointInvalid(origin, f"{len(lines) - 1} lines, expected origin, size and root")
    if not _DECIMAL.fullmatch(lines[1]) or int(lines[1]) > MAX_SIZE:
        raise CheckpointInvalid(origin, f"size {lines[1][:24]!r} is not a decimal number below 2^63")
    checkpoint = Checkpoint(origin, int(lines[1]), _root(origin, lines[2]))
    if checkpoint.size == 0 and checkpoint.root != EMPTY_ROOT:
        raise CheckpointInvalid(origin, "an empty log with another root than SHA-256 of nothing")
    return checkpoint


def sign_checkpoint(key: DeviceKey, size: int, root: bytes) -> bytes:
    """Return the signed note of the device's own log at (`size`, `root`)."""
    return sign_note(format_checkpoint(Checkpoint(key.did, size, root)), key)


def open_checkpoint(note: bytes, origin: DeviceId) -> Checkpoint:
    """Return the checkpoint in `note` once it is proven to be by and of the device `origin`; at most 4 KiB.

    Raises:
        CheckpointInvalid: no valid signature by `origin`, another log's checkpoint, or not the form of one.
    """
    try:
        text = open_note(note, [verifier_key_of(origin)], MAX_CHECKPOINT_BYTES).text
    except (NoteInvalid, SignatureInvalid) as error:
        raise CheckpointInvalid(origin, str(error)) from error
    checkpoint = parse_checkpoint(text)
    if checkpoint.origin != origin:
        raise CheckpointInvalid(origin, f"the note is of the log {checkpoint.origin[:80]}")
    return checkpoint


def _root(origin: str, encoded: str) -> bytes:
    try:
        root = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        root = b""
    if len(root) != HASH_BYTES or base64.b64encode(root).decode("ascii") != encoded:
        raise CheckpointInvalid(origin, f"the root is not base64 of {HASH_BYTES} bytes")
    return root
