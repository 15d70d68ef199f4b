"""The passphrase vault: the secrets in one encrypted file, for machines without a keychain (specs/0001)."""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nacl.bindings import (
    crypto_aead_xchacha20poly1305_ietf_decrypt,
    crypto_aead_xchacha20poly1305_ietf_encrypt,
)
from nacl.exceptions import CryptoError
from nacl.pwhash import argon2id
from nacl.utils import random as random_bytes

from identity.durable import read_file, replace_file
from identity.errors import PassphraseNeeded, PassphraseWrong, SecretsFileFailed, VaultInvalid
from identity.secrets import Secrets, decode_secrets, encode_secrets

MAGIC: Final = b"tilenode vault\n"
VERSION: Final = 1
MAX_FILE_BYTES: Final = 16_384
MAX_PASSPHRASE_BYTES: Final = 1024
SALT_BYTES: Final = 16
NONCE_BYTES: Final = 24
KEY_BYTES: Final = 32
TAG_BYTES: Final = 16
# magic ‖ version ‖ Argon2id passes ‖ Argon2id bytes of memory ‖ salt ‖ nonce, big-endian.
_HEADER: Final = struct.Struct(f">{len(MAGIC)}sBIQ{SALT_BYTES}s{NONCE_BYTES}s")
# Version 1 knows one cost, so that a planted file cannot make this machine spend more.
_COST: Final = (argon2id.OPSLIMIT_MODERATE, argon2id.MEMLIMIT_MODERATE)


# From passphrase and salt to the vault's key.
Derive = Callable[[bytes, bytes], bytes]


def derive_key(passphrase: bytes, salt: bytes) -> bytes:
    """Return the key of a vault of version 1. Takes half a second and 256 MiB of memory.

    Raises:
        MemoryError: there is not so much memory.
    """
    passes, memory_bytes = _COST
    try:
        return argon2id.kdf(KEY_BYTES, passphrase, salt, opslimit=passes, memlimit=memory_bytes)
    except CryptoError as error:
        raise MemoryError(memory_bytes) from error


def read_salt(path: Path) -> bytes | None:
    """Return the salt of the vault at `path`, None where there is none.

    Raises:
        VaultInvalid: the file is not a vault of version 1.
        SecretsFileFailed: the system says no.
    """
    content = read_file(path, MAX_FILE_BYTES)
    return None if content is None else _parse_header(path, content)[0]


@dataclass(frozen=True)
class _Opened:
    salt: bytes
    key: bytes


class VaultSecretStore:
    """The vault rung of the ladder. The passphrase is asked for once, at the first load or save."""

    rung: Final = "vault"

    def __init__(self, path: Path, passphrase: Callable[[], bytes] | None, derive: Derive = derive_key) -> None:
        self.place: Final = f"vault file {path}"
        self._path = path
        self._passphrase = passphrase
        self._derive_key = derive
        self._opened: _Opened | None = None

    def load(self) -> Secrets | None:
        """Return the secrets, or None where there is no vault file.

        Raises:
            PassphraseNeeded: there is a vault, and no passphrase.
            PassphraseWrong: the passphrase does not open it.
            VaultInvalid: the file is not a vault of version 1.
            SecretsInvalid: it opens, and holds something else.
        SecretsFileFailed: the system says no, or has no 256 MiB of memory for the derivation.
        """
        content = read_file(self._path, MAX_FILE_BYTES)
        if content is None:
            return None
        salt, nonce = _parse_header(self._path, content)
        key = self._key_for(salt)
        header, sealed = content[: _HEADER.size], content[_HEADER.size :]
        try:
            text = crypto_aead_xchacha20poly1305_ietf_decrypt(sealed, header, nonce, key)
        except CryptoError:
            self._opened = None
            raise PassphraseWrong(self._path) from None
        return decode_secrets(text.decode("utf-8", "replace"), self.place)

    def save(self, secrets: Secrets) -> None:
        """Write the vault anew with a fresh nonce, mode 0600, by atomic rename.

        Raises:
            PassphraseNeeded: there is no passphrase, or an empty one.
            PassphraseWrong: a vault is there that this passphrase does not open; it is left as it is.
        SecretsFileFailed: the file could not be written; the old one is still there.
        """
        if self._opened is None and self._path.exists():
            self.load()
        opened = self._opened or self._derive(random_bytes(SALT_BYTES))
        nonce = random_bytes(NONCE_BYTES)
        header = _HEADER.pack(MAGIC, VERSION, *_COST, opened.salt, nonce)
        sealed = crypto_aead_xchacha20poly1305_ietf_encrypt(encode_secrets(secrets).encode(), header, nonce, opened.key)
        replace_file(self._path, header + sealed)

    def _key_for(self, salt: bytes) -> bytes:
        if self._opened is None or self._opened.salt != salt:
            return self._derive(salt).key
        return self._opened.key

    def _derive(self, salt: bytes) -> _Opened:
        if self._passphrase is None:
            raise PassphraseNeeded(self._path)
        passphrase = self._passphrase()
        if not 0 < len(passphrase) <= MAX_PASSPHRASE_BYTES:
            raise PassphraseNeeded(self._path, f"a passphrase has 1 to {MAX_PASSPHRASE_BYTES} bytes")
        try:
            key = self._derive_key(passphrase, salt)
        except MemoryError as error:
            raise SecretsFileFailed(self._path, f"opening it takes {_COST[1] >> 20} MiB of memory") from error
        self._opened = _Opened(salt, key)
        return self._opened


def _parse_header(path: Path, content: bytes) -> tuple[bytes, bytes]:
    """Return (salt, nonce)."""
    if len(content) < _HEADER.size + TAG_BYTES:
        raise VaultInvalid(path, f"{len(content)} bytes, too short for a vault")
    magic, version, passes, memory_bytes, salt, nonce = _HEADER.unpack_from(content)
    if magic != MAGIC:
        raise VaultInvalid(path, "does not begin with the mark of a vault")
    if version != VERSION:
        raise VaultInvalid(path, f"version {version}, this program reads version {VERSION}")
    if (passes, memory_bytes) != _COST:
        raise VaultInvalid(path, "key derivation limits that version 1 does not have")
    return salt, nonce
