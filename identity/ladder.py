"""Where this device's keys live: keychain, else passphrase vault, else nowhere; never in the clear."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

from identity.errors import KeychainUnavailable, NoSecretStore, SecretsMissing
from identity.keychain import KeychainSecretStore, read_mark
from identity.secrets import SecretStore
from identity.vault import Derive, VaultSecretStore, derive_key

VAULT_FILE: Final = "vault"
# What a home holds once it had keys; a new key is never made beside one of these.
_SIGNS_OF_AN_IDENTITY: Final = ("node.db", "log/checkpoint")


def open_secret_store(
    home: Path, passphrase: Callable[[], bytes] | None, *, keychain: bool = True, derive: Derive = derive_key
) -> SecretStore:
    """Return the store that holds, or will hold, the secrets of `home`.

    A home keeps the rung on which its identity was made: its vault file, or its keychain mark. Only a home without
    either goes down the ladder: the keychain where one runs, the vault where a passphrase can be had, else nothing.
    `passphrase` is called at most once, when a vault is really read or made; `keychain=False` leaves that rung out
    for a new home. `derive` makes a vault's key.

    Raises:
        KeychainError: the home's keys are in a keychain that does not run here, is locked, or lacks the item; or the
            home is new and the keychain is locked. No other rung is tried: that would make a second identity.
        NoSecretStore: neither a keychain nor a passphrase.
        SecretsMissing: the home holds a log or a database, and no sign of where its keys are.
    """
    vault = home / VAULT_FILE
    if vault.exists():
        return VaultSecretStore(vault, passphrase, derive)
    mark = read_mark(home)
    if mark is not None and mark.stored:
        return KeychainSecretStore(home)
    _refuse_orphan(home)
    reason = "the keychain was not asked"
    if keychain:
        try:
            store = KeychainSecretStore(home)
            store.load()  # a locked keychain says so here, before anything is made
        except KeychainUnavailable as error:
            reason = str(error)
        else:
            return store
    if passphrase is None:
        raise NoSecretStore(home, reason)
    return VaultSecretStore(vault, passphrase, derive)


def _refuse_orphan(home: Path) -> None:
    for name in _SIGNS_OF_AN_IDENTITY:
        if (home / name).exists():
            raise SecretsMissing(home, name)
