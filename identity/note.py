"""Signed notes: a text and the signatures over it, as files that a person can read (C2SP signed-note, specs/0002)."""

import base64
import binascii
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from identity.did import DeviceId, public_key_of
from identity.errors import NoteInvalid, NoteUnsigned, VerifierKeyInvalid
from identity.keys import DeviceKey, verify_with

ED25519: Final = 0x01
KEY_ID_BYTES: Final = 4
MAX_NOTE_BYTES: Final = 65_536
MAX_SIGNATURES: Final = 16
MAX_NAME_CHARS: Final = 256
_LINE_START: Final = "\u2014 "
_KEY_ID: Final = re.compile(r"[0-9a-f]{8}", re.ASCII)
_CONTROL: Final = re.compile(r"[\x00-\x09\x0b-\x1f]")


@dataclass(frozen=True)
class VerifierKey:
    """A named Ed25519 public key that may sign notes."""

    name: str
    public_key: bytes

    @property
    def key_id(self) -> bytes:
        """The four bytes that stand before a signature of this key."""
        return key_id_of(self.name, bytes([ED25519]) + self.public_key)


@dataclass(frozen=True)
class Note:
    """A text whose signatures by `signers` have been checked."""

    text: str
    signers: tuple[VerifierKey, ...]


def key_id_of(name: str, typed_key: bytes) -> bytes:
    """Return SHA-256(name ‖ 0A ‖ type byte ‖ public key)[:4]."""
    return hashlib.sha256(name.encode() + b"\n" + typed_key).digest()[:KEY_ID_BYTES]


def verifier_key_of(did: DeviceId) -> VerifierKey:
    """Return the key that signs a device's checkpoints: it is named by the device's own id."""
    return VerifierKey(did, public_key_of(did))


def format_verifier_key(key: VerifierKey) -> str:
    """Return `name+hex key id+base64(type ‖ public key)`, the form that other verifiers take."""
    return f"{key.name}+{key.key_id.hex()}+{_base64(bytes([ED25519]) + key.public_key)}"


def parse_verifier_key(text: str) -> VerifierKey:
    """Return the key that `text` spells; split at the first two `+`.

    Raises:
        VerifierKeyInvalid: not of that form, a wrong key id, or another type than Ed25519.
    """
    parts = text.split("+", 2)
    if len(parts) != 3:
        raise VerifierKeyInvalid(text, "expected three parts between +")
    name, key_id, encoded = parts
    typed_key = _from_base64(encoded)
    if not _name_is_valid(name) or not _KEY_ID.fullmatch(key_id) or not typed_key:
        raise VerifierKeyInvalid(text, "expected a name, eight hex digits and base64")
    if key_id_of(name, typed_key).hex() != key_id:
        raise VerifierKeyInvalid(text, "the key id is not that of the name and key")
    if typed_key[0] != ED25519 or len(typed_key) != 33:
        raise VerifierKeyInvalid(text, f"expected type 0x01 with 32 bytes, found 0x{typed_key[0]:02x}")
    return VerifierKey(name, typed_key[1:])


def sign_note(text: str, key: DeviceKey) -> bytes:
    """Return `text` with the device's signature line below it.

    Raises:
        NoteInvalid: the text does not end in a newline or holds control characters.
        UnsignableMessage: the text does not begin with the device's own id (see `DeviceKey.sign`).
    """
    _require_text(text)
    signer = verifier_key_of(key.did)
    signature = key.sign(text.encode())
    return f"{text}\n{_LINE_START}{signer.name} {_base64(signer.key_id + signature)}\n".encode()


def open_note(note: bytes, known: Sequence[VerifierKey], max_bytes: int = MAX_NOTE_BYTES) -> Note:
    """Return the text of `note` once at least one of the `known` keys is proven to have signed it.

    Signatures of unknown keys are ignored; a failing signature of a known key refuses the whole note. At most 16
    signature lines and `max_bytes` are accepted.

    Raises:
        NoteInvalid: not of the form of a signed note, or too large.
        NoteUnsigned: no signature line is by a known key.
        SignatureInvalid: a known key's signature does not verify.
    """
    text, lines = _split(note, max_bytes)
    by_line_start = {(key.name, key.key_id): key for key in known}
    signers: dict[VerifierKey, None] = {}
    for number, line in enumerate(lines, 1):
        name, key_id, signature = _parse_line(number, line)
        key = by_line_start.get((name, key_id))
        if key is not None:
            verify_with(key.public_key, text.encode(), signature, signer=name)
            signers[key] = None
    if not signers:
        raise NoteUnsigned([key.name for key in known])
    return Note(text, tuple(signers))


def _split(note: bytes, max_bytes: int) -> tuple[str, list[str]]:
    if len(note) > max_bytes:
        raise NoteInvalid("size", f"{len(note)} bytes, at most {max_bytes} are allowed")
    try:
        content = note.decode("utf-8")
    except UnicodeDecodeError as error:
        raise NoteInvalid(f"byte {error.start}", "not UTF-8") from error
    text, separator, block = content.rpartition("\n\n")
    if not separator or not block.endswith("\n"):
        raise NoteInvalid("end", "expected a blank line and signature lines that end in a newline")
    _require_text(text + "\n")
    if _CONTROL.search(block):
        raise NoteInvalid("signature lines", "a control character")
    lines = block[:-1].split("\n")
    if len(lines) > MAX_SIGNATURES:
        raise NoteInvalid("signature lines", f"{len(lines)} of them, at most {MAX_SIGNATURES} are allowed")
    return text + "\n", lines


def _parse_line(number: int, line: str) -> tuple[str, bytes, bytes]:
    where = f"signature line {number}"
    if not line.startswith(_LINE_START):
        raise NoteInvalid(where, "does not begin with an em dash and a space")
    name, _, encoded = line.removeprefix(_LINE_START).partition(" ")
    raw = _from_base64(encoded)
    if not _name_is_valid(name) or len(raw) <= KEY_ID_BYTES:
        raise NoteInvalid(where, "expected a name and base64 of a key id and a signature")
    return name, raw[:KEY_ID_BYTES], raw[KEY_ID_BYTES:]


def _require_text(text: str) -> None:
    if not text.endswith("\n"):
        raise NoteInvalid("text", "does not end in a newline")
    if match := _CONTROL.search(text):
        raise NoteInvalid(f"character {match.start()}", f"the control character {match.group()!r}")


def _name_is_valid(name: str) -> bool:
    return 0 < len(name) <= MAX_NAME_CHARS and "+" not in name and not any(c.isspace() for c in name)


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode("ascii")


def _from_base64(text: str) -> bytes:
    """Return the bytes of canonical base64, and no bytes for everything else."""
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return b""
    return raw if _base64(raw) == text else b""
