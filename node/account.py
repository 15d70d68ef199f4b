"""This device's identity in its home: made once, opened at every start; blocking, because keychains are."""

import socket
from collections.abc import Callable
from dataclasses import dataclass, replace

from identity.keys import DeviceKey
from identity.ladder import open_secret_store
from identity.secrets import LogGuard, Secrets, load_or_create
from identity.vault import Derive, derive_key
from node.config import Home, make_private_directory
from node.ports import Entropy, SystemEntropy
from node.settings import Settings, load_settings, save_settings
from protocol.text import clean_name
from store.lock import lock_home


@dataclass(frozen=True)
class Identity:
    """An opened identity: the key that signs, the database's key, the log's rollback guard, and what is public."""

    key: DeviceKey
    secrets: Secrets
    guard: LogGuard
    settings: Settings


def create_account(
    home: Home, *, nickname: str | None, passphrase: Callable[[], bytes] | None, may_use_keychain: bool
) -> Settings:
    """Make the identity of `home` and return what is public about it.

    Raises:
        HomeLocked: a node runs on this home.
        SecretsError: keychain and vault are both out of reach; nothing was made.
    """
    make_private_directory(home.root)
    with lock_home(home.lock):
        return open_identity(
            home, nickname=nickname, passphrase=passphrase, may_use_keychain=may_use_keychain, entropy=SystemEntropy()
        ).settings


def open_identity(
    home: Home,
    *,
    nickname: str | None,
    passphrase: Callable[[], bytes] | None,
    may_use_keychain: bool,
    entropy: Entropy,
    derive: Derive = derive_key,
) -> Identity:
    """Return the identity of `home`; made at the first call, on the rung the ladder gives. The caller holds the lock.

    Raises:
        SecretsError: what is stored cannot be read, or there is no place to store it; a new key is never made instead.
    """
    store = open_secret_store(home.root, passphrase, keychain=may_use_keychain, derive=derive)
    secrets = load_or_create(store, entropy.random_bytes)
    key = DeviceKey(secrets.device_seed)
    known = load_settings(home.settings)
    settings = replace(
        known,
        nickname=clean_name(nickname or known.nickname or socket.gethostname().partition(".")[0]),
        did=key.did,
        rung=store.rung,
        place=store.place,
    )
    if settings != known:
        save_settings(home.settings, settings)
    return Identity(key, secrets, LogGuard(store, secrets), settings)
