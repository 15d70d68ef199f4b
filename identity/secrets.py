"""What a device must keep secret, in one piece, and the port through which it is kept."""

import base64
import binascii
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

from identity.errors import SecretsInvalid
from identity.keys import SEED_BYTES

DATABASE_KEY_BYTES: Final = 32
ROOT_BYTES: Final = 32
SUBKEY_BYTES: Final = 32
VERSION: Final = 1
MAX_TEXT_CHARS: Final = 4096
MAX_LOG_SIZE: Final = 2**63 - 1
# The root of a log without entries, SHA-256 of nothing.
EMPTY_ROOT: Final = bytes.fromhex("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
_FIELDS: Final = {"v", "device_seed", "database_key", "log_size", "log_root"}


@dataclass(frozen=True)
class Secrets:
    """The device key's seed, the database key, and the newest state of the own log: the guard against its rollback."""

    device_seed: bytes = field(repr=False)
    database_key: bytes = field(repr=False)
    log_size: int = 0
    log_root: bytes = EMPTY_ROOT

    def subkey(self, purpose: str, subject: str) -> bytes:
        """Return a key of 32 bytes for files that are no part of the database; specs/0028.

        It follows from the database key, and tells nothing about it or about the keys for other subjects.
        """
        data = b"".join(len(part).to_bytes(4, "big") + part for part in (purpose.encode(), subject.encode()))
        return hashlib.blake2b(
            data, key=self.database_key, digest_size=SUBKEY_BYTES, person=b"tilenode subkey"
        ).digest()


class SecretStore(Protocol):
    """One rung of the ladder: keychain or vault."""

    @property
    def rung(self) -> str:
        """`keychain` or `vault`."""

    @property
    def place(self) -> str:
        """Where the secrets lie, in words for a person."""

    def load(self) -> Secrets | None:
        """Return the secrets, or None only where none were ever stored.

        Raises:
            SecretsError: they cannot be read; a caller never answers that with new ones.
        """

    def save(self, secrets: Secrets) -> None:
        """Keep `secrets` so that after a crash at any point either these or the previous ones load.

        Raises:
            SecretsError: they could not be kept.
        """


def load_or_create(store: SecretStore, random_bytes: Callable[[int], bytes]) -> Secrets:
    """Return the stored secrets; make and store new ones only where there never were any.

    Raises:
        SecretsError: what is stored cannot be read.
    """
    secrets = store.load()
    if secrets is None:
        secrets = Secrets(random_bytes(SEED_BYTES), random_bytes(DATABASE_KEY_BYTES))
        store.save(secrets)
    return secrets


class LogGuard:
    """The newest size and root of the own log, kept beside the keys where a restored backup does not reach."""

    def __init__(self, store: SecretStore, secrets: Secrets) -> None:
        self._store = store
        self._secrets = secrets

    def read(self) -> tuple[int, bytes]:
        """Return (size, root) of the newest log state that this device has signed and acknowledged."""
        return self._secrets.log_size, self._secrets.log_root

    def advance(self, size: int, root: bytes) -> None:
        """Keep a newer state.

        Raises:
            SecretsError: the secret store did not take it; the state in memory is then unchanged.
        """
        advanced = replace(self._secrets, log_size=size, log_root=root)
        self._store.save(advanced)
        self._secrets = advanced


def encode_secrets(secrets: Secrets) -> str:
    """Return `secrets` as one line of JSON text; specs/0001."""
    fields: dict[str, object] = {
        "v": VERSION,
        "device_seed": base64.b64encode(secrets.device_seed).decode("ascii"),
        "database_key": base64.b64encode(secrets.database_key).decode("ascii"),
        "log_size": secrets.log_size,
        "log_root": base64.b64encode(secrets.log_root).decode("ascii"),
    }
    return json.dumps(fields, sort_keys=True, separators=(",", ":"))


def decode_secrets(text: str, place: str) -> Secrets:
    """Return the secrets that `text` holds; `place` names it in the error, which never quotes it.

    Raises:
        SecretsInvalid: not the JSON of `encode_secrets`, or another version.
    """
    fields = _object(text, place)
    if fields.keys() != _FIELDS:
        raise SecretsInvalid(place, "the fields are not those of version 1")
    size = fields["log_size"]
    if type(size) is not int or not 0 <= size <= MAX_LOG_SIZE:
        raise SecretsInvalid(place, "log_size is not a size")
    return Secrets(
        device_seed=_bytes(fields, "device_seed", SEED_BYTES, place),
        database_key=_bytes(fields, "database_key", DATABASE_KEY_BYTES, place),
        log_size=size,
        log_root=_bytes(fields, "log_root", ROOT_BYTES, place),
    )


def _object(text: str, place: str) -> dict[str, object]:
    if len(text) > MAX_TEXT_CHARS:
        raise SecretsInvalid(place, f"{len(text)} characters, at most {MAX_TEXT_CHARS} are expected")
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        raise SecretsInvalid(place, "not JSON") from None  # the cause would quote the secret text
    if not isinstance(fields, dict):
        raise SecretsInvalid(place, "not a JSON object")
    if fields.get("v") != VERSION or type(fields.get("v")) is not int:
        raise SecretsInvalid(place, "not of version 1; a newer tilenode may have written it")
    return fields


def _bytes(fields: dict[str, object], name: str, length: int, place: str) -> bytes:
    text = fields[name]
    try:
        raw = base64.b64decode(text, validate=True) if isinstance(text, str) else b""
    except (binascii.Error, ValueError):
        raise SecretsInvalid(place, f"{name} is not base64") from None  # the cause would quote the secret text
    if len(raw) != length:
        raise SecretsInvalid(place, f"{name} is not {length} bytes")
    return raw
