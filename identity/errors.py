"""Named errors of `identity`.

The message says what failed, where and what was found; `hint` says what to do about it.

    IdentityError
    ├── DidInvalid
    ├── SeedInvalid
    ├── SignatureInvalid
    ├── UnsignableMessage
    ├── NoteInvalid
    │   └── NoteUnsigned
    ├── VerifierKeyInvalid
    └── SecretsError
        ├── SecretsInvalid
        ├── SecretsMissing
        ├── NoSecretStore
        ├── HomeCopied
        ├── SecretsFileFailed
        ├── KeychainError
        │   ├── KeychainUnavailable
        │   ├── KeychainLocked
        │   ├── KeychainItemMissing
        │   └── KeychainFailed
        └── VaultError
            ├── VaultInvalid
            ├── PassphraseNeeded
            └── PassphraseWrong
"""

from pathlib import Path


class IdentityError(Exception):
    """Base of every error that `identity` raises on purpose."""

    hint: str = ""


class DidInvalid(IdentityError):
    """A device is named by a `did:key` of an Ed25519 public key; no other DID method is accepted."""

    hint = "a device is named like did:key:z6Mk…, an Ed25519 key; did:plc and did:web are not accepted"

    def __init__(self, text: str, reason: str) -> None:
        super().__init__(f"did {text[:80]!r}: {reason}")
        self.text = text
        self.reason = reason


class SeedInvalid(IdentityError):
    """A device key is made from a seed of 32 bytes."""

    def __init__(self, found_bytes: int) -> None:
        super().__init__(f"device key seed: expected 32 bytes, found {found_bytes}")
        self.found_bytes = found_bytes


class SignatureInvalid(IdentityError):
    """A signature does not verify under the key that is said to have made it."""

    def __init__(self, signer: str) -> None:
        super().__init__(f"signature by {signer[:80]}: does not verify over the message it came with")
        self.signer = signer


class UnsignableMessage(IdentityError):
    """The device key signs only messages that begin with a registered domain prefix."""

    def __init__(self, prefix: bytes) -> None:
        super().__init__(f"message beginning {prefix[:24]!r}: no registered domain prefix, not signed")
        self.prefix = prefix[:24]


class NoteInvalid(IdentityError):
    """A signed note is UTF-8 text, a blank line and signature lines."""

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(f"signed note, {where}: {reason}")
        self.where = where
        self.reason = reason


class NoteUnsigned(NoteInvalid):
    """A signed note carries no signature by any of the keys that were asked for."""

    def __init__(self, names: list[str]) -> None:
        super().__init__("signature lines", f"no signature by {', '.join(names) or 'any known key'}")
        self.names = names


class VerifierKeyInvalid(IdentityError):
    """A verifier key is `name+hex key id+base64 of the type byte and the public key`."""

    def __init__(self, text: str, reason: str) -> None:
        super().__init__(f"verifier key {text[:80]!r}: {reason}")
        self.text = text
        self.reason = reason


class SecretsError(IdentityError):
    """Base of everything that goes wrong with the place where this device's keys are kept."""


class SecretsInvalid(SecretsError):
    """What the keychain or the vault returned is not this program's secrets."""

    hint = "restore the item from a backup, or start a new identity with another TILENODE_HOME"

    def __init__(self, place: str, reason: str) -> None:
        super().__init__(f"secrets in {place}: {reason}")
        self.place = place
        self.reason = reason


class SecretsMissing(SecretsError):
    """A home holds a log or a database whose keys are nowhere; a new key is never made over them."""

    hint = "restore the keychain item or the vault from a backup, or use another TILENODE_HOME for a new identity"

    def __init__(self, home: Path, found: str) -> None:
        super().__init__(f"{home}: {found} is here, but neither a vault nor a keychain item holds its keys")
        self.home = home
        self.found = found


class NoSecretStore(SecretsError):
    """There is neither a usable keychain nor a passphrase for a vault; keys are never kept in the clear."""

    hint = "unlock a desktop keychain, or set TILENODE_PASSPHRASE_FILE to a file that holds a vault passphrase"

    def __init__(self, home: Path, reason: str) -> None:
        super().__init__(f"{home}: no place for this device's keys: {reason}, and no vault passphrase was given")
        self.home = home
        self.reason = reason


class HomeCopied(SecretsError):
    """A copy of a home directory asks for the identity that the original on this machine still uses."""

    def __init__(self, home: Path, original: Path) -> None:
        super().__init__(f"{home}: its identity belongs to {original}, which is still in place")
        self.home = home
        self.original = original
        self.hint = (
            "two homes with one key would fork its log: delete one of the two, or start a new home for a new device"
        )


class SecretsFileFailed(SecretsError):
    """A file of the home that keeps the secrets cannot be read or written."""

    hint = "look at the free space and the permissions there"

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


class KeychainError(SecretsError):
    """Base of what the system's keychain answers instead of the secrets."""


class KeychainUnavailable(KeychainError):
    """No allow-listed keychain runs in this session."""

    hint = "log in to a desktop session; a new home without one takes a vault: set TILENODE_PASSPHRASE_FILE"

    def __init__(self, reason: str) -> None:
        super().__init__(f"keychain: not available in this session: {reason}")
        self.reason = reason


class KeychainLocked(KeychainError):
    """The keychain is there and locked; no new key is made while it is."""

    hint = "unlock the login keychain and try again; without a desktop, a new home takes TILENODE_PASSPHRASE_FILE"

    def __init__(self, backend: str, reason: str) -> None:
        super().__init__(f"keychain {backend}: locked: {reason}")
        self.backend = backend
        self.reason = reason


class KeychainItemMissing(KeychainError):
    """The home names a keychain item that the keychain does not hold; no new key is made in its place."""

    hint = "restore the keychain item from a backup, or start a new identity with another TILENODE_HOME"

    def __init__(self, backend: str, item: str) -> None:
        super().__init__(f"keychain {backend}: item {item} is not there, although this home's keys were stored in it")
        self.backend = backend
        self.item = item


class KeychainFailed(KeychainError):
    """The keychain refused or mangled what was asked of it."""

    hint = "look at the keychain program of this desktop, or use a new home with a vault: set TILENODE_PASSPHRASE_FILE"

    def __init__(self, backend: str, doing: str, reason: str) -> None:
        super().__init__(f"keychain {backend}: {doing}: {reason}")
        self.backend = backend
        self.doing = doing
        self.reason = reason


class VaultError(SecretsError):
    """Base of what goes wrong with the passphrase vault."""


class VaultInvalid(VaultError):
    """The vault file is not one that this program wrote."""

    hint = "restore the vault file from a backup"

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"vault {path}: {reason}")
        self.path = path
        self.reason = reason


class PassphraseNeeded(VaultError):
    """A vault is there, and nobody gave its passphrase."""

    hint = "set TILENODE_PASSPHRASE_FILE, pass --passphrase-fd, or start on a terminal"

    def __init__(self, path: Path, reason: str = "no passphrase was given") -> None:
        super().__init__(f"vault {path}: {reason}")
        self.path = path
        self.reason = reason


class PassphraseWrong(VaultError):
    """The passphrase does not open the vault, or the vault was altered: the two cannot be told apart."""

    hint = "try the passphrase again; without it the keys in the vault cannot be recovered"

    def __init__(self, path: Path) -> None:
        super().__init__(f"vault {path}: the passphrase does not open it")
        self.path = path
